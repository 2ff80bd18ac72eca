"""`loupe check`: what is wrong with the images of a set."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.errors import LoupeError
from loupe.options import Data, Json, Quiet


def check(
    data: Data,
    near: Annotated[
        bool, typer.Option("--near", help="Look for near duplicates as well: re-encoded, cropped, mirrored copies.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="With --near: a page with the pairs, and FILE.pairs.csv with all of them."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for damaged, duplicated, leaking and unbalanced images. Exit code 1 on damage or leakage.

    Near duplicates (--near) are for your eye to judge, and do not change the exit code.
    """
    if report is not None and not near:
        raise LoupeError("--report shows near duplicates: give --near too.")
    from loupe import checking

    code = checking.check(data, near=near, report=report, as_json=as_json, quiet=quiet)
    raise typer.Exit(code)
