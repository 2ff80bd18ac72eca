"""Folder of the run that a search leaves."""

from pathlib import Path

from loupe import rundir
from loupe.errors import RunStateError
from loupe.evaluate.search_results import FILE, SearchResults
from loupe.search.opening import SearchOptions


def search_folder(options: SearchOptions, dataset: str) -> tuple[Path, SearchResults | None]:
    """Folder of the run that a search leaves, and what an earlier, unfinished search has left there.

    Raises:
        RunStateError: a finished run or search has the name that was given.
    """
    name = options.name or f"{dataset}-search"
    for number in range(1, 10_000):
        folder = options.output / (name if number == 1 else f"{name}-{number}")
        before = SearchResults.read_if_there(folder / FILE)
        if before is not None and before.state == "running" and before.dataset == dataset:
            return folder, before
        if before is None and not folder.exists():
            return folder, None
        if options.name:
            rundir.check_name(options.output, options.name)
            if before is None:
                return folder, None
            raise RunStateError(
                f"{folder} holds a finished search, and a run is never overwritten. Choose another --name."
            )
    raise RunStateError(f"{options.output}: too many runs named {name}. Choose a --name.")
