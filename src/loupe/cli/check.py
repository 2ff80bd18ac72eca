"""`loupe check`: problems in the images of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console as RichConsole
from rich.text import Text

from loupe.cache import cache_folder
from loupe.cli.options import Columns, Data, FollowLinks, Images, Json, Quiet, Verify, print_json
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError, DiskError
from loupe.log import console, printable, terminal

if TYPE_CHECKING:
    from loupe.data.audit.near_duplicates import NearReport


def check(
    data: Data,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    near: Annotated[
        bool, typer.Option("--near", help="Also find near duplicates: re-encoded, cropped or mirrored copies.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="With --near: page of the pairs. FILE.pairs.csv lists all of them."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verify: Verify = False,
) -> None:
    """Find damaged, duplicated, leaking and unbalanced images. Exit code 1 on damage or leakage.

    Near duplicates (--near) must be confirmed by a person, and do not affect the exit code.
    """
    if report is not None and not near:
        raise ConfigError("--report needs --near, because its page shows near duplicates. Add --near.")
    options = ReadOptions.of(columns, images, follow_links)
    code = _check(data, options, near=near, report=report, as_json=as_json, quiet=quiet, verify=verify)
    raise typer.Exit(code)


def _check(
    data: str, options: ReadOptions, *, near: bool, report: Path | None, as_json: bool, quiet: bool, verify: bool
) -> int:
    """Check the images of `data` and return the exit code: 1 on damage or leakage of whole files.

    With `near`, near duplicates are searched too; `report` is the page that shows them, with a CSV beside it.
    """
    from loupe.cli.check_table import print_check
    from loupe.data.audit.check import check as examine
    from loupe.data.audit.near_duplicates import find_near, write_csv
    from loupe.data.dataset import open_dataset
    from loupe.report.check_page import write_page

    if report is not None:
        _check_writable(report)
    with terminal(quiet=quiet or as_json):
        dataset = open_dataset(data, options, verify=verify)
        table, content = dataset.table, dataset.hashes
        checked = examine(table, content)
        near_report = find_near(table, content, cache=cache_folder()) if near else None
    if report is not None and near_report is not None:
        write_page(report, table, checked, near_report)
        write_csv(_pairs_file(report), near_report)
    if as_json:
        print_json(checked.to_json() | {"near_duplicates": near_report.to_json() if near_report else None})
        return 0 if checked.ok else 1
    screen = console()
    print_check(checked, screen, near_report.findings() if near_report else ())
    if near_report is not None:
        _conclude(screen, near_report, report)
    return 0 if checked.ok else 1


def _conclude(screen: RichConsole, near_report: "NearReport", report: Path | None) -> None:
    """Print the conclusions about near duplicates, and the paths of the page and the CSV."""
    for sentence in near_report.conclusions():
        screen.print(Text(sentence, style="yellow" if near_report.pairs else "green"), soft_wrap=True)
    if report is not None:
        page, pairs = printable(str(report)), printable(str(_pairs_file(report)))
        screen.print(Text(f"Page: {page} (all pairs: {pairs})"), soft_wrap=True)
    elif near_report.pairs:
        screen.print("To see them side by side: loupe check DATA --near --report check.html", markup=False)


def _check_writable(report: Path) -> None:
    """Check, before the search, that the page can be written.

    Raises:
        ConfigError: the path is not an HTML file.
        DiskError: it cannot be written.
    """
    if report.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"--report {report}: not an HTML file. Give a name such as check.html.")
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        _pairs_file(report).touch()
    except OSError as error:
        raise DiskError(f"{report} cannot be written ({error.strerror or error}). Choose another file.") from None


def _pairs_file(report: Path) -> Path:
    """Path of the CSV beside the page: not `check.csv`, which may be the list of the images themselves."""
    return report.with_suffix(".pairs.csv")
