"""The command that draws the pages of runs again, from the files that they left."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.options import Json, Output, print_json


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Directories of runs, or their names.")],
    output: Output = Path("runs"),
    as_json: Json = False,
) -> None:
    """Draw report.html of runs again from their files, as after an update of Loupe."""
    from loupe.errors import LoupeError
    from loupe.ledger import open_run
    from loupe.report.page import write_page

    found = [open_run(run, output) for run in runs]  # all of them, before the first is drawn
    pages = []
    for run in found:
        try:
            pages.append(write_page(run.path))
        except OSError as error:
            raise LoupeError(
                f"{run.file('report.html')} cannot be written: {error.strerror or error}. "
                "Free space or give write permission, or copy the run directory to where you may write."
            ) from None
        if not as_json:
            print(pages[-1])
    if as_json:
        print_json(
            [
                {"run": str(run.path), "report": str(page), "bytes": page.stat().st_size}
                for run, page in zip(found, pages, strict=True)
            ]
        )
