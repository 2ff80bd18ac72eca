"""`loupe train --against RUN`: options taken over from the earlier run, and the comparison with it afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loupe import ranks, rundir
from loupe.data.dataset import is_gone
from loupe.data.sources.read_options import ColumnNames
from loupe.data.sources.rows import is_list
from loupe.devices import choose_device, use_threads
from loupe.errors import DataError, InterruptedRunError, LoupeError, counted
from loupe.log import command_line, logger
from loupe.openmp import cores
from loupe.provenance import check_credentials, environment_of
from loupe.rundir import RunDirectory
from loupe.runs import diff
from loupe.runs.diff_results import RunDifferences
from loupe.runs.finalize import open_test
from loupe.runs.run import Run


@dataclass(frozen=True)
class RepeatOptions:
    """Options of the command line that an earlier run can supply; None for those that were not given."""

    data: str | None
    recipe: str | None
    device: str | None
    skip_damaged: bool
    open_test: bool = True
    columns: ColumnNames | None = None
    images: str | Path | None = None
    follow_links: bool = False
    settings: tuple[str, ...] = ()


def earlier_run(run: str, output: Path) -> RunDirectory:
    """Run to repeat.

    Raises:
        RunStateError: it is missing or unfinished.
    """
    directory = rundir.open_run(run, output)
    diff.finished(directory)
    return directory


def complete(options: RepeatOptions, earlier: RunDirectory) -> RepeatOptions:
    """Take options that were not given from the earlier run, log them, and use the same number of threads.

    Raises:
        DataError: the images of the earlier run were not stored, or have moved.
    """
    environment, results = environment_of(earlier), diff.finished(earlier)
    changes: dict[str, Any] = {
        "skip_damaged": options.skip_damaged or environment.skip_damaged,
        "open_test": results.test is not None and environment.open_test,
        "settings": (f"input.pixel_definition={_pixel_definition(earlier)}", *options.settings),
    }
    if options.data is None:
        check_credentials(environment, earlier, "Give the address with them as DATA.")
        changes["data"] = _data(environment.data, earlier)
        read = environment.read_options(options.images, follow_links=options.follow_links)
        changes |= {"images": read.images, "follow_links": read.follow_links}
        logger.info(f"data: {changes['data']} (from {earlier.path})")
    if not options.columns and (options.data is None or is_list(Path(options.data))):
        changes["columns"] = environment.columns
    if options.recipe is None:
        changes["recipe"] = str(earlier.file("recipe.yaml"))
        logger.info(f"recipe: {changes['recipe']}")
    if options.device is None:
        changes["device"] = _device(environment.device or "auto", earlier)
    same = replace(options, **changes)
    threads = environment.threads if (environment.processes or 1) == ranks.processes() else None
    if threads and choose_device(same.device or "auto").type == "cpu":
        _use_threads(threads)
    return same


def _pixel_definition(earlier: RunDirectory) -> int:
    """Definition of the pixels of a run; 1 in recipes of before there was another."""
    return earlier.read_recipe().input.pixel_definition or 1


def _data(own: str | None, earlier: RunDirectory) -> str:
    if own is None:
        raise DataError(f"{earlier.path} was trained on arrays, which are not stored. Give DATA.")
    if is_gone(own):
        raise DataError(f"the images of {earlier.path} are no longer at {own}. Give DATA, where they are now.")
    return own


def _device(device: str, earlier: RunDirectory) -> str:
    device = device if ranks.processes() == 1 else device.partition(":")[0]
    try:
        choose_device(device)
    except LoupeError:
        logger.info(f"{earlier.path} was trained on {device}, which this machine lacks; device auto is used instead.")
        return "auto"
    return device


def _use_threads(threads: int) -> None:
    if threads <= cores():
        use_threads(threads)
    else:
        logger.info(
            f"the earlier run used {counted(threads, 'thread')}, but this machine has {counted(cores(), 'core')}: the "
            "last digits may differ."
        )


@contextmanager
def resume_with_comparison(earlier: RunDirectory | None) -> Iterator[None]:
    """Add `--against` to the command that an interrupted repetition gives for resuming."""
    try:
        yield
    except InterruptedRunError as stopped:
        if earlier is None:
            raise
        message = f"{stopped} --against {command_line([str(earlier.path)])}"
        raise InterruptedRunError(message, stopped.signal_number) from None


def open_test_as(run: Run, earlier: RunDirectory) -> Run:
    """Evaluate the test images of the run if those of the earlier run were evaluated after its training."""
    if diff.finished(earlier).test is not None and not environment_of(earlier).open_test:
        return open_test(run)
    return run


def compare(run: RunDirectory, earlier: RunDirectory) -> RunDifferences:
    """Compare a run with the earlier run, and write the differences into its directory as against.json."""
    report = diff.differences(earlier, run)
    report.write(run.file("against.json"))
    return report
