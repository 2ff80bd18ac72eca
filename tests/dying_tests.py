"""Plugin of pytest: a test that hangs or ends its process is one failed test, named in the summary.

A test that takes too long, also in native code, ends its process with the traces of all threads. With `-n`, the other
tests go on in a new process.
"""

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest

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
