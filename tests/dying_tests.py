"""Plugin of pytest: a test that hangs or ends its process is one failed test, named in the summary.

A test that takes too long, also in native code, ends its process with the traces of all threads. With `-n`, the other
tests go on in a new process.
"""

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

SECONDS, SLOW_SECONDS = 120, 900
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # while a test runs, its output is captured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    seconds = SLOW_SECONDS if item.get_closest_marker("slow") else SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


class Scheduling(LoadFileScheduling):
    """Whole files for each process; xdist's own runs the test that ended a process again, in each new process."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Take the tests of a process that ended, and return the one that it ran."""
        units = self.assigned_work[node].values()
        unit, test = next(((unit, test) for unit in units for test in unit if not unit[test]), ({}, None))
        if test is not None:
            unit[test] = True
        super().remove_node(node)
        return test


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Scheduling of `--dist loadfile`."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
