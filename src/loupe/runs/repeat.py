"""`loupe train --against RUN`: what a repetition takes over from the run it repeats, and the comparison afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loupe import rundir
from loupe.data.sources.datasets import DATASETS
from loupe.devices import choose_device, cores, use_threads
from loupe.errors import DataError, InterruptedRunError, LoupeError
from loupe.log import command_line, logger
from loupe.provenance import environment_of
from loupe.rundir import RunDirectory
from loupe.runs import diff
from loupe.runs.diff_results import RunDifferences
from loupe.runs.finalize import open_test
from loupe.runs.run import Run


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line, as far as an earlier run can stand in for it; None where nothing was."""

    data: str | None
    recipe: str | None
    device: str | None
    skip_damaged: bool
    open_test: bool = True


def earlier_run(run: str, output: Path) -> RunDirectory:
    """The run to repeat; LoupeError where there is none, or where it is not finished."""
    directory = rundir.open_run(run, output)
    diff.finished(directory)
    return directory


def as_before(asked: Asked, earlier: RunDirectory) -> Asked:
    """Fills in from the earlier run what was not asked for otherwise, says so, and takes as many threads.

    Raises:
        LoupeError: the images of the earlier run were not stored, or are no longer where they were.
    """
    environment, results = environment_of(earlier), diff.finished(earlier)
    changes: dict[str, Any] = {
        "skip_damaged": asked.skip_damaged or environment.skip_damaged,
        "open_test": results.test is not None and environment.open_test,
    }
    if asked.data is None:
        changes["data"] = _data(environment.data, earlier)
        logger.info(f"data: {changes['data']}, as in {earlier.path}.")
    if asked.recipe is None:
        changes["recipe"] = str(earlier.file("recipe.yaml"))
        logger.info(f"recipe: {changes['recipe']}.")
    if asked.device is None:
        changes["device"] = _device(environment.device or "auto", earlier)
    same = replace(asked, **changes)
    threads = environment.threads
    if threads and choose_device(same.device or "auto").type == "cpu":
        _use_threads(threads)
    return same


def _data(own: str | None, earlier: RunDirectory) -> str:
    if own is None:
        raise DataError(f"{earlier.path} was trained on arrays, which are not stored: name DATA to repeat it on.")
    if own not in DATASETS and not Path(own).exists():
        raise DataError(f"the images of {earlier.path} are no longer at {own}: name DATA, where they are now.")
    return own


def _device(device: str, earlier: RunDirectory) -> str:
    try:
        choose_device(device)
    except LoupeError:
        logger.info(f"{earlier.path} ran on {device}, which is not here: the device is auto.")
        return "auto"
    return device


def _use_threads(threads: int) -> None:
    if threads <= cores():
        use_threads(threads)
    else:
        logger.info(f"the run to repeat had {threads} threads, and here are {cores()} cores: last digits may differ.")


@contextmanager
def told_when_stopped(earlier: RunDirectory | None) -> Iterator[None]:
    """An interrupted repetition says how to go on to the comparison."""
    try:
        yield
    except InterruptedRunError as stopped:
        if earlier is None:
            raise
        raise InterruptedRunError(f"{stopped} --against {command_line([str(earlier.path)])}") from None


def opened_as(run: Run, earlier: RunDirectory) -> Run:
    """The run with its test images opened afterwards, where those of the earlier run were."""
    if diff.finished(earlier).test is not None and not environment_of(earlier).open_test:
        return open_test(run)
    return run


def compare(run: RunDirectory, earlier: RunDirectory) -> RunDifferences:
    """Compare a run with the earlier run, and write the differences into its directory as against.json."""
    report = diff.differences(earlier, run)
    report.write(run.file("against.json"))
    return report
