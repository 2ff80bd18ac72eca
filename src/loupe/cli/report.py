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
    """Write the pages of runs or comparisons again. From their files, for example after an update."""
    found = [_drawer(name, output) for name in runs]  # all of them, before the first is drawn
    pages = []
    for page, draw in found:
        try:
            draw()
        except OSError as error:
            raise DiskError(
                f"{page} cannot be written: {error.strerror or error}. Free space or give write permission, or copy "
                "its folder to where you may write."
            ) from None
        pages.append(page)
        if not as_json:
            print(page)
    if as_json:
        print_json([{"run": str(page.parent), "report": str(page), "bytes": page.stat().st_size} for page in pages])


def _drawer(name: str, output: Path) -> tuple[Path, Callable[[], object]]:
    """The page of a run or a comparison, and what draws it."""
    from loupe.evaluate.comparison_results import ComparisonResults
    from loupe.report import comparison_page
    from loupe.report import run_page as page
    from loupe.rundir import open_run

    if not name.endswith(".json"):
        run = open_run(name, output)
        return run.file("report.html"), lambda: page.write_page(run.path)
    path = next((place for place in (Path(name), output / name) if place.is_file()), None)
    if path is None:
        raise RunStateError(f"{name}: no such file. Give a JSON file that `loupe compare` wrote, or a run.")
    results = ComparisonResults.read(path)
    where = path.with_suffix(".html")
    return where, lambda: comparison_page.write_page(where, results)
