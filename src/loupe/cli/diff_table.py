"""Differences between a run and the run that it repeats, in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from rich.markup import escape
from rich.table import Table

from loupe.errors import counted
from loupe.log import console, printable, rounded
from loupe.runs.diff_results import (
    CurveDifference,
    Differences,
    PredictionDifference,
    RunDifferences,
    SplitDifference,
    TensorDifference,
    ValueDifference,
)

MOST_ROWS = 25  # of one kind; against.json has all of them
HASHES = {"hashes.data": "images", "hashes.weights": "pretrained weights", "hashes.code": "sources of Loupe"}
Cells = tuple[str, str, str]


def print_report(report: RunDifferences) -> None:
    """Print the verdict and, if figures differ, a table with the values of both runs."""
    out = console()
    first = _plain(report.first)
    if report.same:
        out.print(f"Same as {first}: every figure is the same ({_compared(report.compared)}).", soft_wrap=True)
        if report.circumstances:
            out.print(f"The circumstances differ, without effect: {_circumstances(report)}.", soft_wrap=True)
        return
    out.print(f"Differs from {first}. All differences are in against.json; the first are:", soft_wrap=True)
    table = Table(box=None)
    table.add_column("", overflow="fold")
    for name in ("earlier run", "this run"):
        table.add_column(name, overflow="fold")
    for cells in _rows(report.differences):
        table.add_row(*map(_plain, cells))
    out.print(table)
    out.print(_reason(report), soft_wrap=True)


def _rows(differences: Differences) -> Iterator[Cells]:
    yield from _first([_value(row) for row in differences.results], "results")
    yield from _first([_curve(row) for row in differences.curves], "curves")
    yield from _first([_split(row) for row in differences.split], "split")
    yield from _first([_prediction(row) for row in differences.predictions], "predictions")
    changed = [row for row in differences.weights if isinstance(row, TensorDifference)]
    if changed:
        number, largest = sum(row.unequal for row in changed), max(row.largest_difference or 0 for row in changed)
        yield f"weights: {number:,} values in {counted(len(changed), 'tensor')}, by up to {largest:.2g}", "", ""
    yield from _first([_value(row) for row in differences.weights if isinstance(row, ValueDifference)], "weights")


def _first(rows: Sequence[Cells], part: str) -> Iterator[Cells]:
    """First rows of one kind, and the number of the others."""
    yield from rows[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        yield f"and {len(rows) - MOST_ROWS:,} more of {part}", "", ""


def _value(row: ValueDifference) -> Cells:
    return row.key, _said(row, "first"), _said(row, "second")


def _curve(row: CurveDifference | ValueDifference) -> Cells:
    key, first, second = _value(row)
    if not isinstance(row, CurveDifference):
        return key, first, second
    if row.l2_strength is None:
        at, noun = f"epoch {row.epoch}", "epoch"
    else:
        at, noun = f"L2 strength {rounded(row.l2_strength)}", "row"
    others = f"; {counted(row.epochs, noun)} differ" if row.epochs > 1 else ""
    return f"{key} of {at}{others}", first, second


def _split(row: SplitDifference | ValueDifference) -> Cells:
    return _value(row) if isinstance(row, ValueDifference) else (f"{row.key}: {row.images:,}", "", "")


def _prediction(row: PredictionDifference | ValueDifference) -> Cells:
    if isinstance(row, ValueDifference):
        key, first, second = _value(row)
        return f"predictions: {key}", first, second
    alone = row.images_of_one_run_alone
    only = f"; {counted(alone, 'image')} in one run only" if alone else ""
    return (
        f"predictions of {row.key}: another class for {row.of_another_class:,} of {counted(row.images, 'image')}, "
        f"logits differ by up to {row.largest_difference:.2g}{only}",
        "",
        "",
    )


def _reason(report: RunDifferences) -> str:
    """Possible causes; without any, where to report the difference."""
    if report.circumstances:
        return f"Possible causes: {_circumstances(report)}."
    if report.differences.split:
        return (
            "The same recipe and images have another split. A fold of a cross-validation is such a run; repeat it with "
            "loupe.cross_validate."
        )
    if report.device == "cpu":
        return (
            "No recorded circumstance differs: versions, device, threads, recipe, data. On a CPU this is a bug of "
            "Loupe. Please report it, with both folders."
        )
    return (
        f"No recorded circumstance differs. On {report.device} the order of additions varies from run to run, so "
        "last digits do too, and everything computed from them."
    )


def _circumstances(report: RunDifferences) -> str:
    rows = report.circumstances
    said = [
        f"{HASHES.get(row.key, row.key)} {_said(row, 'first')} → {_said(row, 'second')}" for row in rows[:MOST_ROWS]
    ]
    more = [f"and {len(rows) - MOST_ROWS:,} more"] if len(rows) > MOST_ROWS else []
    return _plain("; ".join([*said, *more]))


def _compared(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)


def _said(row: ValueDifference, side: Literal["first", "second"]) -> str:
    if not row.has(side):
        return "absent"
    value = row.first if side == "first" else row.second
    if isinstance(value, str) and len(value) == 64:
        return value[:12]  # of a hash, enough to tell two apart
    return "none" if value is None else str(value)


def _plain(text: str) -> str:
    """Escape names of runs and classes, so that they are neither markup nor terminal commands."""
    return escape(printable(text))
