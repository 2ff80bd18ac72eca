"""`loupe check`: the findings about a set of images, printed, and as a page that shows its near duplicates."""

from pathlib import Path

from rich.console import Console as RichConsole
from rich.text import Text

from loupe.console import Console, printable
from loupe.data.check import check as examine
from loupe.data.content import content_hashes
from loupe.data.near import NearReport, find_near, write_csv
from loupe.data.sources import open_table
from loupe.errors import LoupeError
from loupe.ledger import cache_folder
from loupe.options import print_json
from loupe.report.checked import write_page


def check(data: str, *, near: bool, report: Path | None, as_json: bool, quiet: bool) -> int:
    """Looks at the images that `data` names, and returns the exit code: 1 on damage or leakage of whole files.

    With `near`, near duplicates are looked for too; `report` is the page that then shows them, with a CSV beside it.
    """
    if report is not None:
        _make_room(report)
    console = Console(quiet=quiet or as_json)
    table = open_table(data, console=console)
    for note in table.notes:
        console.say(note)
    content = content_hashes(table, console)
    found = examine(table, content, console)
    alike = find_near(table, content, cache=cache_folder(), console=console) if near else None
    if report is not None and alike is not None:
        write_page(report, table, found, alike)
        write_csv(_rows_file(report), alike)
    if as_json:
        print_json(found.to_json() | {"near_duplicates": alike.to_json() if alike else None})
        return 0 if found.ok else 1
    screen = RichConsole(highlight=False)
    found.render(screen, alike.findings() if alike else ())
    if alike is not None:
        _conclude(screen, alike, report)
    return 0 if found.ok else 1


def _conclude(screen: RichConsole, alike: NearReport, report: Path | None) -> None:
    """What follows from the near duplicates, and where they can be seen."""
    for sentence in alike.conclusions():
        screen.print(Text(sentence, style="yellow" if alike.pairs else "green"), soft_wrap=True)
    if report is not None:
        page, rows = printable(str(report)), printable(str(_rows_file(report)))
        screen.print(Text(f"Side by side: {page}; every pair as a row: {rows}"), soft_wrap=True)
    elif alike.pairs:
        screen.print("To see them side by side: loupe check DATA --near --report check.html", markup=False)


def _make_room(report: Path) -> None:
    """Refuses before the long look what could not be written after it."""
    if report.suffix.lower() not in {".html", ".htm"}:
        raise LoupeError(f"--report is the page to write, as check.html; got {str(report)!r}.")
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        _rows_file(report).touch()
    except OSError as error:
        raise LoupeError(f"{report} cannot be written ({error.strerror or error}). Name another place.") from None


def _rows_file(report: Path) -> Path:
    """`check.pairs.csv` beside `check.html`: not `check.csv`, which may be the list of the images themselves."""
    return report.with_suffix(".pairs.csv")
