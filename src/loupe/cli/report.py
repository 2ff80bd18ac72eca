"""`loupe report`: pages of runs and comparisons, written again from their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Json, Output, print_json
from loupe.errors import DiskError, RunStateError


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs (folders or names), or JSON files of comparisons.")
    ],
    output: Output = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write the pages of runs or comparisons again. Their files are read; nothing is computed anew."""
    writers = [_page_writer(name, output) for name in runs]  # all names are checked before the first page is written
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


def _page_writer(name: str, output: Path) -> tuple[Path, Callable[[], object]]:
    """Path of the page of a run or a comparison, and a function that writes it.

    Raises:
        RunStateError: the run or file is missing, or cannot be read.
    """
    if not name.endswith(".json"):
        from loupe.report import run_page
        from loupe.rundir import open_run

        run = open_run(name, output)
        return run.file("report.html"), lambda: run_page.write_page(run.path)
    from loupe.evaluate.comparison_results import ComparisonResults
    from loupe.report import comparison_page

    path = next((file for file in (Path(name), output / name) if file.is_file()), None)
    if path is None:
        raise RunStateError(f"{name}: no such file. Give a run, or a JSON file written by `loupe compare`.")
    results = ComparisonResults.read(path)
    page_path = path.with_suffix(".html")
    return page_path, lambda: comparison_page.write_page(page_path, results)
