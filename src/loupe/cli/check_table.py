"""The findings of `loupe check` in the terminal: a table of counts, then each kind of finding with its cases."""

from collections.abc import Iterable
from itertools import chain

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loupe.data.audit.check_report import CheckReport
from loupe.data.audit.findings import findings, listed
from loupe.errors import counted, enumerated
from loupe.log import printable
from loupe.report.check_conclusions import conclusions

MOST_LINES = 10  # of one kind of finding
MOST_CLASSES = 200  # in the table of counts
MOST_ROWS = 8  # of one use of folders or files
ORDER = ("train", "val", "test", "class", "no split", "predict", "skipped")
USES = {"predict": "set aside for predict", "no split": "no split: to be drawn"}


def print_check(report: CheckReport, console: Console, also: Iterable[tuple[str, list[str]]] = ()) -> None:
    """Print the counts of the data set, then the findings; those in `also` do not enter the verdict."""
    console.print(_layout_table(report))
    console.print(_counts_table(report))
    for line in _facts(report):
        console.print(printable(line), markup=False, highlight=False)
    found = [(title, listed(lines, MOST_LINES), len(lines)) for title, lines in findings(report)]
    found += [(title, lines[:MOST_LINES], len(lines)) for title, lines in also]  # the nearest first
    for title, lines, count in found:
        console.print(Text(title, style="bold"))
        more = [f"... and {count - MOST_LINES:,} more"] if count > MOST_LINES else []
        for line in [*lines, *more]:
            console.print(f"  {printable(line)}", markup=False, highlight=False, soft_wrap=True)
    concluded = conclusions(report)
    style = "red" if concluded.problems else "yellow" if concluded.cautions else "green"
    for sentence in concluded.sentences:
        console.print(Text(printable(sentence), style=style), soft_wrap=True)


def _layout_table(report: CheckReport) -> Table:
    """Use of each folder, file or value, as it was understood; of a long list the first of each use."""
    table = Table(title=Text("layout"), title_justify="left")
    table.add_column("folder, file or value", overflow="fold")
    table.add_column("used as", no_wrap=True)
    table.add_column("classes", overflow="fold")
    table.add_column("images", justify="right")
    for use in sorted({row.use for row in report.layout}, key=ORDER.index):
        rows = [row for row in report.layout if row.use == use]
        shown = rows[:MOST_ROWS] if len(rows) > MOST_ROWS + 1 else rows
        for row in shown:
            names = enumerated(row.classes, most=3) if row.classes else ""
            table.add_row(Text(printable(row.source)), USES.get(use, use), Text(printable(names)), f"{row.images:,}")
        if rest := rows[len(shown) :]:
            images = sum(row.images for row in rest)
            table.add_row(f"... and {len(rest):,} more", USES.get(use, use), "", f"{images:,}")
    return table


def _counts_table(report: CheckReport) -> Table:
    table = Table(title=Text(f"{printable(report.name)}: {counted(report.images, 'image')}"), title_justify="left")
    table.add_column("class")
    for split in report.counts:
        table.add_column(split, justify="right")
    names = [*dict.fromkeys(chain.from_iterable(report.counts.values()))]
    for name in listed(names, MOST_CLASSES):
        table.add_row(Text(printable(name)), *(f"{row.get(name, 0):,}" for row in report.counts.values()))
    if len(names) > MOST_CLASSES:
        table.add_row(f"... and {len(names) - MOST_CLASSES:,} more (all: --json)")
    if len(table.rows) > 1:
        table.add_section()
        table.add_row("all", *(f"{sum(row.values()):,}" for row in report.counts.values()))
    return table


def _facts(report: CheckReport) -> list[str]:
    facts = []
    for side, extent in (("width", report.width_px), ("height", report.height_px)):
        if extent is not None:
            facts.append(f"{side}: {extent['min']} to {extent['max']} px, median {extent['median']:g}")
    for title, found in (("formats", report.formats), ("colour modes", report.modes)):
        facts.append(f"{title}: " + (", ".join(f"{name} {count:,}" for name, count in found.items()) or "none"))
    return facts
