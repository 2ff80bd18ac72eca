"""The page of a comparison: which recipe to take, on what evidence, at what cost. One HTML file, made from its JSON.

Learning curves and hashes come from the runs' files, where these lie beside the page.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loupe.errors import LoupeError
from loupe.files import write_atomic
from loupe.report import charts, figures, receipt, texts
from loupe.report.content import Drawing, bar_drawing, read_history
from loupe.report.template import render
from loupe.rundir import RunDirectory

SCHEMA = 1
WIDE_PX, NARROW_PX = 760, 330
SPLITS = {"train": "training", "val": "validation", "test": "test"}
COLORS = ("first", "second", "third", "fourth", "fifth", "sixth")
COLUMNS = (
    "Validation accuracy",
    "Test accuracy",
    "Macro-F1",
    "AUC",
    "Log loss",
    "Calibration error",
    "Parameters",
    "Time of one training",
    "Predictions per second",
)


@dataclass(frozen=True)
class Cell:
    """What one place of the table says: a value, and below it, small, what belongs to it."""

    value: str
    below: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """One candidate as the page shows it. `color` is the name of its curve's, `number` its place among the curves."""

    name: str
    settings: str
    chosen: bool
    verdict: str | None
    why: str | None
    cells: Sequence[Cell]
    runs: Sequence[tuple[str, str]]
    number: int
    color: str


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page of a comparison's content to `path`; links to runs are relative to its folder.

    LoupeError where the content is of another schema, incomplete or damaged.
    """
    if content.get("schema") != SCHEMA:
        raise LoupeError(
            f"{path}: the comparison's schema {content.get('schema')} is not the one this Loupe reads ({SCHEMA}); use "
            "the version that wrote it."
        )
    try:
        shown = _gather(content, path.parent)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise LoupeError(
            f"{path}: the comparison's content is incomplete or damaged ({error!r}). Run loupe compare again."
        ) from None
    write_atomic(path, render("comparison.html", shown))


def _gather(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that the template names."""
    judgement = content["judgement"]
    done = [row for row in content["rows"] if row["measured"]]
    chosen = next(row for row in done if row["name"] == judgement["chosen"])
    images = {SPLITS[split]: number for split, number in content["images"].items()}
    rows = [_row(row, judgement, number) for number, row in enumerate(content["rows"], 1)]
    shares = [f"{number:,}" for number in images.values()]
    epochs = {row["name"]: row["measured"]["seconds_per_epoch"] for row in done}
    return {
        "content": content,
        "judgement": judgement,
        "chosen": chosen,
        "rows": rows,
        "columns": COLUMNS,
        "accuracy": _accuracy(done),
        "cost": _cost(done, judgement["chosen"]),
        "untimed": [row["name"] for row in done if row["measured"]["seconds"] is None],
        "seconds": bar_drawing(
            "Seconds per epoch", epochs, [texts.duration(value) for value in epochs.values()], figures.SECOND
        ),
        "splits": bar_drawing("Images", images, shares, figures.FIRST),
        "curves": _curves(done, rows, folder),
        "differences": [_difference(one) for one in judgement["differences"]],
        "hashes": _hashes(done, folder),
        "environment": {
            name: value for name, value in content["environment"].items() if value is not None and name != "command"
        },
    }


def _hashes(done: Sequence[Mapping[str, Any]], folder: Path) -> list[receipt.Row]:
    """Of the data, the splits, the code and the weights; none where no run is beside the page."""
    facts: list[tuple[dict[str, Any] | None, dict[str, Any] | None]] = []
    for run in (RunDirectory(folder / name) for row in done for name in row["measured"]["runs"]):
        with suppress(LoupeError):  # a damaged file of a run takes nothing from what was judged
            facts.append((run.read_json("results.json"), run.read_json("environment.json")))
    return receipt.hashes(facts)


def _row(row: Mapping[str, Any], judgement: Mapping[str, Any], number: int) -> Row:
    measured = row["measured"] or {}
    return Row(
        name=row["name"],
        settings=row["settings"],
        chosen=row["name"] == judgement["chosen"],
        verdict=(judgement["verdicts"].get(row["name"]) or "").removeprefix(f"{row['name']}: ") or None,
        why=row["why"],
        cells=_cells(measured) if measured else [],
        # Quoted whole and after a "./", the name of a directory can be nothing but the name of a directory.
        runs=[
            (f"report {number}", f"./{quote(run, safe='/.')}/report.html")
            for number, run in enumerate(measured.get("runs", ()), 1)
        ],
        number=number,
        color=COLORS[(number - 1) % len(COLORS)],
    )


def _cells(measured: Mapping[str, Any]) -> list[Cell]:
    """The cells of one candidate, in the order of COLUMNS."""
    judged, parameters = measured["validation"], measured["parameters"]
    frozen = f"{texts.count(parameters['trainable'])} trainable"
    return [
        _share(judged),
        _share(measured["test"]) if measured["test"] else Cell("locked"),
        *(
            Cell(texts.estimate(judged[key]), _interval(judged[key]))
            for key in ("macro_f1", "roc_auc", "log_loss", "ece")
        ),
        Cell(texts.count(parameters["total"]), (frozen, f"{texts.count(parameters['non_trainable'])} not")),
        Cell(
            texts.spent(measured["seconds"]),
            (f"{measured['epochs']:g} epochs", f"{texts.duration(measured['seconds_per_epoch'])} each"),
        ),
        Cell(texts.count(measured["images_per_second"]), (f"{measured['bytes'] / 2**20:.1f} MiB",)),
    ]


def _share(block: Mapping[str, Any]) -> Cell:
    accuracy = block["accuracy"]
    below = [texts.interval(accuracy, as_percent=True) or ""]
    if accuracy["lowest"] != accuracy["highest"]:
        ends = {"low": accuracy["lowest"], "high": accuracy["highest"]}
        below.append(f"seeds {texts.interval(ends, as_percent=True)}")
    return Cell(texts.percent(accuracy["value"]), below)


def _interval(metric: Mapping[str, Any]) -> list[str]:
    found = texts.interval(metric)
    return [found] if found else []


def _accuracy(done: Sequence[Mapping[str, Any]]) -> Drawing:
    """Two bars for each candidate: validation, hollow, and test, filled, where it was opened."""
    groups = [
        (texts.short(row["name"], 40), _bar(row["measured"]["validation"]), _bar(row["measured"]["test"]))
        for row in done
    ]
    words = "Accuracy. " + " ".join(
        f"{name}: validation {val.text if val else 'none'}" + (f", test {test.text}." if test else ".")
        for name, val, test in groups
    )
    wide = figures.grouped_bars(groups, label=words, width_px=WIDE_PX)
    return Drawing("Accuracy", wide, figures.grouped_bars(groups, label=words, width_px=NARROW_PX, names_above=True))


def _bar(block: Mapping[str, Any] | None) -> figures.Bar | None:
    if block is None:
        return None
    accuracy = block["accuracy"]
    return figures.Bar(accuracy["value"], texts.percent(accuracy["value"]), accuracy["low"], accuracy["high"])


def _cost(done: Sequence[Mapping[str, Any]], chosen: str) -> Drawing | None:
    """Those whose time is known; None where that of none is."""
    points = [_point(row, chosen) for row in done if row["measured"]["seconds"] is not None]
    if not points:
        return None
    words = "Validation accuracy against the time of one training. " + " ".join(
        f"{point.name}: {texts.percent(point.value)} in {texts.duration(point.seconds)}." for point in points
    )
    wide, narrow = (
        charts.accuracy_against_cost(points, label=words, width_px=width_px) for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing("Validation accuracy against time", wide, narrow)


def _point(row: Mapping[str, Any], chosen: str) -> charts.Point:
    accuracy, seconds = row["measured"]["validation"]["accuracy"], max(row["measured"]["seconds"], 0.01)
    ends = {end: accuracy[end] for end in ("low", "high")}
    name = texts.short(row["name"], 30)
    return charts.Point(name, seconds, accuracy["value"], **ends, chosen=row["name"] == chosen)


def _curves(done: Sequence[Mapping[str, Any]], rows: Sequence[Row], folder: Path) -> Drawing | None:
    """The validation accuracy of each candidate's first run over the epochs; None where no run is beside the page."""
    found = {row["name"]: _history(folder / row["measured"]["runs"][0]) for row in done}
    curves = [
        figures.Curve(row.name, found.get(row.name, []), figures.SERIES[(row.number - 1) % len(figures.SERIES)])
        for row in rows
    ]
    if not any(value is not None for curve in curves for value in curve.values):
        return None
    words = "Validation accuracy by epoch. " + " ".join(_in_words(curve) for curve in curves if any(curve.values))
    wide, narrow = (charts.learning_curves(curves, label=words, width_px=width_px) for width_px in (WIDE_PX, NARROW_PX))
    return Drawing("Validation accuracy by epoch", wide, narrow)


def _history(run: Path) -> list[float | None]:
    return [epoch.get("val_accuracy") for epoch in read_history(run / "metrics.csv")]


def _in_words(curve: figures.Curve) -> str:
    values = [value for value in curve.values if value is not None]
    return f"{curve.name}: from {texts.percent(values[0])} to {texts.percent(values[-1])} in {len(values)} epochs."


def _difference(one: Mapping[str, Any]) -> dict[str, str]:
    """One paired comparison, as the table of the tests shows it."""
    points = {key: f"{100 * one[key]:+.1f}" for key in ("value", "low", "high")}
    return {
        "name": one["second"],
        "than": one["first"],
        "points": points["value"],
        "interval": f"{points['low']} to {points['high']}",
        "only": f"{one['only_second']:g} against {one['only_first']:g}",
        "p": _p(one["p"]),
        "corrected": _p(one["p_corrected"]),
    }


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
