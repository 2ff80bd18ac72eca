"""Differences between a run and the run that it repeats, in the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loupe.errors import counted
from loupe.log import printable

MOST_ROWS = 25  # of one kind; against.json has all of them
HASHES = {"hashes.data": "images", "hashes.weights": "pretrained weights", "hashes.code": "sources of Loupe"}
Row = Mapping[str, Any]
Cells = tuple[str, str, str]


def print_report(report: Mapping[str, Any]) -> None:
    """Print the verdict and, if figures differ, a table with the values of both runs."""
    out = Console(highlight=False)
    first = _plain(report["first"])
    if report["same"]:
        out.print(f"Same as {first}: every figure is the same ({_compared(report['compared'])}).", soft_wrap=True)
        if report["circumstances"]:
            out.print(f"The circumstances differ, without effect: {_circumstances(report)}.", soft_wrap=True)
        return
    out.print(f"Differs from {first}. All differences are in against.json; the first are:", soft_wrap=True)
    table = Table(box=None)
    table.add_column("", overflow="fold")
    for name in ("earlier run", "this run"):
        table.add_column(name, overflow="fold")
    for cells in _rows(report["differences"]):
        table.add_row(*map(_plain, cells))
    out.print(table)
    out.print(_reason(report), soft_wrap=True)


def _rows(differences: Mapping[str, Sequence[Row]]) -> Iterator[Cells]:
    for part, text in (("results", _value), ("curves", _curve), ("split", _split), ("predictions", _prediction)):
        yield from _first(differences[part], text, part)
    changed = [row for row in differences["weights"] if "unequal" in row]
    if changed:
        number, largest = sum(row["unequal"] for row in changed), max(row["largest_difference"] or 0 for row in changed)
        yield f"weights: {number:,} values in {counted(len(changed), 'tensor')}, by up to {largest:.2g}", "", ""
    yield from _first([row for row in differences["weights"] if "unequal" not in row], _value, "weights")


def _first(rows: Sequence[Row], text: Callable[[Row], Cells], part: str) -> Iterator[Cells]:
    """First rows of one kind, and the number of the others."""
    yield from map(text, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        yield f"and {len(rows) - MOST_ROWS:,} more of {part}", "", ""


def _value(row: Row) -> Cells:
    return row["key"], _said(row, "first"), _said(row, "second")


def _curve(row: Row) -> Cells:
    key, first, second = _value(row)
    if "epoch" not in row:
        return key, first, second
    others = f"; {counted(row['epochs'], 'epoch')} differ" if row["epochs"] > 1 else ""
    return f"{key} of epoch {row['epoch']}{others}", first, second


def _split(row: Row) -> Cells:
    return (f"{row['images']:,} {row['key']}", "", "") if "images" in row else _value(row)


def _prediction(row: Row) -> Cells:
    if "images" not in row:
        key, first, second = _value(row)
        return f"predictions: {key}", first, second
    alone = row["images_of_one_run_alone"]
    only = f"; {counted(alone, 'image')} in one run only" if alone else ""
    return (
        f"predictions of {row['key']}: another class for {row['of_another_class']:,} of "
        f"{counted(row['images'], 'image')}, logits differ by up to {row['largest_difference']:.2g}{only}",
        "",
        "",
    )


def _reason(report: Mapping[str, Any]) -> str:
    """Possible causes; without any, where to report the difference."""
    if report["circumstances"]:
        return f"Possible causes: {_circumstances(report)}."
    if report["differences"]["split"]:
        return (
            "The same recipe and images have another split. A fold of a cross-validation is such a run: "
            "loupe.cross_validate repeats it."
        )
    if report["device"] == "cpu":
        return (
            "No recorded circumstance differs: versions, device, threads, recipe, data. On a CPU this is a bug of "
            "Loupe. Please report it, with both folders."
        )
    return (
        f"No recorded circumstance differs. On {report['device']} the order of additions varies from run to run, so "
        "last digits do too, and everything computed from them."
    )


def _circumstances(report: Mapping[str, Any]) -> str:
    rows = report["circumstances"]
    said = [
        f"{HASHES.get(row['key'], row['key'])} {_said(row, 'first')} → {_said(row, 'second')}"
        for row in rows[:MOST_ROWS]
    ]
    more = [f"and {len(rows) - MOST_ROWS:,} more"] if len(rows) > MOST_ROWS else []
    return _plain("; ".join([*said, *more]))


def _compared(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)


def _said(row: Row, side: str) -> str:
    if side not in row:
        return "absent"
    value = row[side]
    if isinstance(value, str) and len(value) == 64:
        return value[:12]  # of a hash, enough to tell two apart
    return "none" if value is None else str(value)


def _plain(text: str) -> str:
    """Escape names of runs and classes, so that they are neither markup nor terminal commands."""
    return escape(printable(text))
