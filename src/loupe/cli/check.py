"""`loupe check`: problems in the images of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console as RichConsole
from rich.text import Text

from loupe.cache import cache_folder
from loupe.cli.options import Data, Json, Quiet, print_json
from loupe.errors import ConfigError, DiskError
from loupe.log import printable, terminal

if TYPE_CHECKING:
    from loupe.data.audit.near_duplicates import NearReport


def check(
    data: Data,
    near: Annotated[
        bool, typer.Option("--near", help="Also find near duplicates: re-encoded, cropped or mirrored copies.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="With --near: page of the pairs. FILE.pairs.csv lists all of them."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find damaged, duplicated, leaking and unbalanced images. Exit code 1 on damage or leakage.

    Near duplicates (--near) have to be judged by a person, and do not change the exit code.
    """
    if report is not None and not near:
        raise ConfigError("--report shows near duplicates: add --near.")
    code = _check(data, near=near, report=report, as_json=as_json, quiet=quiet)
    raise typer.Exit(code)


def _check(data: str, *, near: bool, report: Path | None, as_json: bool, quiet: bool) -> int:
    """Check the images of `data` and return the exit code: 1 on damage or leakage of whole files.

    With `near`, near duplicates are searched too; `report` is the page that shows them, with a CSV beside it.
    """
    from loupe.cli.check_table import print_check
    from loupe.data.audit.check import check as examine
    from loupe.data.audit.near_duplicates import find_near, write_csv
    from loupe.data.dataset import open_dataset
    from loupe.report.check_page import write_page

    if report is not None:
        _make_room(report)
    with terminal(quiet=quiet or as_json):
        dataset = open_dataset(data)
        table, content = dataset.table, dataset.hashes
        found = examine(table, content)
        alike = find_near(table, content, cache=cache_folder()) if near else None
    if report is not None and alike is not None:
        write_page(report, table, found, alike)
        write_csv(_rows_file(report), alike)
    if as_json:
        print_json(found.to_json() | {"near_duplicates": alike.to_json() if alike else None})
        return 0 if found.ok else 1
    screen = RichConsole(highlight=False)
    print_check(found, screen, alike.findings() if alike else ())
    if alike is not None:
        _conclude(screen, alike, report)
    return 0 if found.ok else 1


def _conclude(screen: RichConsole, alike: "NearReport", report: Path | None) -> None:
    """Print the conclusions about near duplicates, and where they are shown."""
    for sentence in alike.conclusions():
        screen.print(Text(sentence, style="yellow" if alike.pairs else "green"), soft_wrap=True)
    if report is not None:
        page, rows = printable(str(report)), printable(str(_rows_file(report)))
        screen.print(Text(f"Page: {page}; all pairs as CSV: {rows}"), soft_wrap=True)
    elif alike.pairs:
        screen.print("To see them side by side: loupe check DATA --near --report check.html", markup=False)


def _make_room(report: Path) -> None:
    """Raise a LoupeError now if the page could not be written after the search."""
    if report.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"--report is an HTML file, for example check.html; got {str(report)!r}.")
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        _rows_file(report).touch()
    except OSError as error:
        raise DiskError(f"{report} cannot be written ({error.strerror or error}). Choose another file.") from None


def _rows_file(report: Path) -> Path:
    """`check.pairs.csv` beside `check.html`: not `check.csv`, which may be the list of the images themselves."""
    return report.with_suffix(".pairs.csv")
