"""Page of a comparison: the chosen recipe, its evidence and its cost, as one HTML file made from the JSON file.

Learning curves and hashes come from the runs' files, where these lie beside the page.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loupe.errors import LoupeError, counted
from loupe.evaluate.comparison_results import (
    CandidateFigures,
    CandidateRow,
    ComparisonResults,
    SplitFigures,
)
from loupe.evaluate.history import Row as History
from loupe.evaluate.history import read_history, strength_of
from loupe.evaluate.metrics import Metric
from loupe.evaluate.paired import Difference
from loupe.evaluate.results import RunResults, results_of
from loupe.evaluate.selection import Judgement
from loupe.evaluate.spread import AccuracySpread, Spread
from loupe.files import write_atomic
from loupe.provenance import RunEnvironment, environment_of
from loupe.report import charts, figures, receipt, texts
from loupe.report.comparison_tables import beside_accuracy
from loupe.report.content import Drawing, bar_drawing
from loupe.report.template import render
from loupe.rundir import RunDirectory

WIDE_PX, NARROW_PX = 760, 330
SPLITS = {"train": "training", "val": "validation", "test": "test"}
COLORS = ("first", "second", "third", "fourth", "fifth", "sixth")
COSTS = ("Parameters", "Time of one training", "Predictions per second")


@dataclass(frozen=True)
class Cell:
    """Cell of the table: a value, and small lines below it."""

    value: str
    below: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """One candidate. `color` names the colour of its curve, `number` its position among the curves."""

    name: str
    settings: str
    chosen: bool
    verdict: str
    why: str | None
    cells: Sequence[Cell]
    runs: Sequence[tuple[str, str]]
    number: int
    color: str


def write_page(path: Path, results: ComparisonResults) -> None:
    """Write the page of a comparison to `path`; links to runs are relative to its folder."""
    write_atomic(path, render("comparison.html", _gather(results, path.parent)))


def columns() -> list[str]:
    """Headings of the columns of `_cells`."""
    return ["Validation accuracy", "Test accuracy", *(one.heading for one in beside_accuracy()), *COSTS]


def _gather(results: ComparisonResults, folder: Path) -> dict[str, Any]:
    """Values of the template."""
    judgement = results.judgement
    chosen, chosen_figures = results.chosen
    images = {SPLITS[split]: number for split, number in results.images.items()}
    rows = [row_of(row, judgement, number) for number, row in enumerate(results.rows, 1)]
    shares = [f"{number:,}" for number in images.values()]
    epochs = {row.name: measured.seconds_per_epoch for row, measured in results.measured if measured.trained_epochs}
    return {
        "content": results,
        "judgement": judgement,
        "chosen": chosen,
        "figures": chosen_figures,
        "rows": rows,
        "columns": columns(),
        "accuracy": accuracy_of(results),
        "cost": _cost(results),
        "untimed": [row.name for row, measured in results.measured if measured.seconds is None],
        "seconds": bar_drawing(
            "Seconds per epoch", epochs, [texts.duration(value) for value in epochs.values()], figures.SECOND
        )
        if epochs
        else None,
        "splits": bar_drawing("Images", images, shares, figures.FIRST),
        "curves": _curves(results, rows, folder),
        "differences": [_difference(one) for one in judgement.differences],
        "hashes": _hashes(results, folder),
        "environment": {
            name: value for name, value in results.environment.items() if value is not None and name != "command"
        },
    }


def _hashes(results: ComparisonResults, folder: Path) -> list[receipt.Row]:
    """Hashes of data, splits, code and weights; none if no run lies beside the page."""
    facts: list[tuple[RunResults | None, RunEnvironment]] = []
    for run in (RunDirectory(folder / name) for _, measured in results.measured for name in measured.runs):
        with suppress(LoupeError, OSError):  # the results stand without the files of a damaged run
            facts.append((results_of(run), environment_of(run)))
    return receipt.hashes(facts)


def row_of(row: CandidateRow, judgement: Judgement, number: int) -> Row:
    """Row of a candidate; `number` is its position in the table, from 1."""
    return Row(
        name=row.name,
        settings=row.settings,
        chosen=row.name == judgement.chosen,
        verdict=_verdict(row.name, judgement),
        why=row.why,
        cells=_cells(row.measured) if row.measured else [],
        # Quoted whole and after a "./", the name of a directory can be nothing but the name of a directory.
        runs=[
            (f"report {number}", f"./{quote(run, safe='/.')}/report.html")
            for number, run in enumerate(row.measured.runs if row.measured else (), 1)
        ],
        number=number,
        color=COLORS[(number - 1) % len(COLORS)],
    )


def _verdict(name: str, judgement: Judgement) -> str:
    """Verdict on a candidate without its name, which stands above it."""
    verdict = judgement.verdicts.get(name, "").removeprefix(f"{name}: ")
    absent = "The other recipes are compared with it." if name == judgement.chosen else "No verdict was recorded."
    return verdict or absent


def _cells(measured: CandidateFigures) -> list[Cell]:
    """The cells of one candidate, in the order of the columns."""
    judged, parameters = measured.validation, measured.parameters
    return [
        _share(judged.accuracy),
        _share(measured.test.accuracy) if measured.test else Cell("locked"),
        *(_metric(judged.metric(one.key), one) for one in beside_accuracy()),
        Cell(
            texts.count(parameters.total),
            (
                f"{texts.count(parameters.trainable)} trainable",
                f"{texts.count(parameters.non_trainable)} non-trainable",
            ),
        ),
        Cell(
            texts.spent(measured.seconds),
            (
                texts.length(measured.stages, measured.epochs),
                f"{texts.duration(measured.seconds_per_epoch)} per epoch" if measured.trained_epochs else "",
            ),
        ),
        Cell(texts.count(measured.images_per_second), (f"{measured.bytes / 2**20:.1f} MiB",)),
    ]


def _share(accuracy: AccuracySpread) -> Cell:
    below = [texts.between(accuracy.low, accuracy.high, as_percent=True) or ""]
    if accuracy.lowest != accuracy.highest:
        below.append(f"seeds {texts.between(accuracy.lowest, accuracy.highest, as_percent=True)}")
    return Cell(texts.percent(accuracy.value), below)


def _metric(found: Spread, metric: Metric) -> Cell:
    interval = texts.interval(found, as_percent=metric.as_percent)
    return Cell(texts.estimate(found, as_percent=metric.as_percent), [interval] if interval else [])


def accuracy_of(results: ComparisonResults) -> Drawing:
    """Two bars for each candidate: validation, hollow, and test, filled, where it was opened."""
    groups = [
        (texts.short(row.name, 40), _bar(measured.validation), _bar(measured.test) if measured.test else None)
        for row, measured in results.measured
    ]
    words = "Accuracy. " + " ".join(
        f"{name}: validation {val.text}" + (f", test {test.text}." if test else ".") for name, val, test in groups
    )
    wide = figures.grouped_bars(groups, label=words, width_px=WIDE_PX)
    return Drawing("Accuracy", wide, figures.grouped_bars(groups, label=words, width_px=NARROW_PX, names_above=True))


def _bar(block: SplitFigures) -> figures.Bar:
    accuracy = block.accuracy
    return figures.Bar(accuracy.value, texts.percent(accuracy.value), accuracy.low, accuracy.high)


def _cost(results: ComparisonResults) -> Drawing | None:
    """Candidates with a known time; None if there is none."""
    points = [
        charts.Point(
            texts.short(row.name, 30),
            max(measured.seconds, 0.01),
            measured.validation.accuracy.value,
            low=measured.validation.accuracy.low,
            high=measured.validation.accuracy.high,
            chosen=row.name == results.judgement.chosen,
        )
        for row, measured in results.measured
        if measured.seconds is not None
    ]
    if not points:
        return None
    words = "Validation accuracy against training time. " + " ".join(
        f"{point.name}: {texts.percent(point.value)} in {texts.duration(point.seconds)}." for point in points
    )
    wide, narrow = (
        charts.accuracy_against_cost(points, label=words, width_px=width_px) for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing("Validation accuracy against time", wide, narrow)


def _curves(results: ComparisonResults, rows: Sequence[Row], folder: Path) -> list[Drawing]:
    """Validation accuracy of each candidate's first run over the epochs, and over the L2 strengths of solved heads.

    Empty where no run is beside the page.
    """
    histories = {row.name: _history(RunDirectory(folder / measured.runs[0])) for row, measured in results.measured}
    selected = {
        row.name: stage.l2_strength
        for row, measured in results.measured
        for stage in measured.stages
        if stage.strengths
    }
    epochs = [_line(row, histories.get(row.name, []), strengths=False) for row in rows]
    strengths = [_line(row, histories.get(row.name, []), strengths=True) for row in rows]
    strengths = [replace(line, kept=selected.get(line.curve.name)) for line in strengths]
    drawings = _drawing("epoch", epochs), _drawing("L2 strength", strengths)
    return [drawing for drawing in drawings if drawing]


def _history(run: RunDirectory) -> list[History]:
    with suppress(LoupeError, OSError):
        return read_history(run)
    return []


def _line(row: Row, history: Sequence[History], *, strengths: bool) -> charts.Line:
    """Epochs of one candidate, numbered from 1, or the L2 strengths of its solved head."""
    points = [(strength_of(one), one.get("val_accuracy")) for one in history]
    points = [(strength, value) for strength, value in points if (strength is not None) == strengths]
    at = [strength or float(epoch) for epoch, (strength, _) in enumerate(points, 1)]
    color = figures.SERIES[(row.number - 1) % len(figures.SERIES)]
    return charts.Line(at, figures.Curve(row.name, [value for _, value in points], color))


def _drawing(unit: str, lines: Sequence[charts.Line]) -> Drawing | None:
    """Chart of the lines; None where nothing was measured."""
    if not any(line.points for line in lines):
        return None
    title = f"Validation accuracy by {unit}"
    words = f"{title}. " + " ".join(_in_words(line, unit) for line in lines if line.points)
    wide, narrow = (
        charts.learning_curves(lines, unit, label=words, width_px=width_px) for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing(title, wide, narrow)


def _in_words(line: charts.Line, unit: str) -> str:
    values = [value for _, value in line.points]
    ends = f"from {texts.percent(values[0])} to {texts.percent(values[-1])}"
    return f"{line.curve.name}: {ends} in {counted(len(values), unit)}."


def _difference(one: Difference) -> dict[str, str]:
    """One paired comparison, as the table of the tests shows it."""
    return {
        "name": one.second,
        "than": one.first,
        "points": f"{100 * one.value:+.1f}",
        "interval": f"{100 * one.low:+.1f} to {100 * one.high:+.1f}",
        "only": f"{one.only_second:g} against {one.only_first:g}",
        "p": _p(one.p),
        "corrected": _p(one.p_corrected),
    }


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
