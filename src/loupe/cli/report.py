"""`loupe report`: pages of runs, comparisons and searches, written again from their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Json, Output, print_json
from loupe.errors import DiskError, RunStateError


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs (folders or names), or JSON files of comparisons and of `loupe tune`."
        ),
    ],
    output: Output = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write the pages of runs, comparisons or searches again. Their files are read; nothing is computed anew."""
    # All names are checked before the first page is written.
    writers = [writer for name in runs for writer in _page_writers(name, output)]
    pages = []
    for page, write in writers:
        try:
            write()
        except OSError as error:
            raise DiskError(
                f"{page} cannot be written: {error.strerror or error}. Free space, give write permission, or copy its "
                "folder elsewhere."
            ) from None
        pages.append(page)
        if not as_json:
            print(page)
    if as_json:
        print_json([{"run": str(page.parent), "report": str(page), "bytes": page.stat().st_size} for page in pages])


Writer = tuple[Path, Callable[[], object]]


def _page_writers(name: str, output: Path) -> list[Writer]:
    """Paths of the pages of a run, a comparison or a search, and functions that write them.

    Raises:
        RunStateError: the run or file is missing, or cannot be read.
    """
    return _of_file(name, output) if name.endswith(".json") else _of_run(name, output)


def _of_run(name: str, output: Path) -> list[Writer]:
    """Page of a run, and that of the search that left it."""
    from loupe.evaluate.search_results import FILE
    from loupe.report import run_page, search_page
    from loupe.rundir import open_run

    run = open_run(name, output)
    pages: list[Writer] = [(run.file("report.html"), lambda: run_page.write_page(run.path))]
    if (run.path / FILE).is_file():
        pages.append((run.path / search_page.PAGE, lambda: search_page.write_page(run.path)))
    return pages


def _of_file(name: str, output: Path) -> list[Writer]:
    """Page of a comparison, or of a search of `loupe tune`: the keys of the file tell which."""
    from loupe.evaluate.comparison_results import ComparisonResults
    from loupe.evaluate.tune_results import TuneResults
    from loupe.report import comparison_page, tune_page

    path = next((file for file in (Path(name), output / name) if file.is_file()), None)
    if path is None:
        raise RunStateError(
            f"{name}: no such file. Give a run, or a JSON file written by `loupe compare` or `loupe tune`."
        )
    page = path.with_suffix(".html")
    if TuneResults.describes(path):
        tuned = TuneResults.read(path)
        return [(page, lambda: tune_page.write_page(page, tuned))]
    compared = ComparisonResults.read(path)
    return [(page, lambda: comparison_page.write_page(page, compared))]
