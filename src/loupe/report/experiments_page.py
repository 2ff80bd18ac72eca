"""The page of `loupe reproduce`: what documents published beside what was measured here, as one HTML file.

It is made from the content of experiments.json alone and needs no network, no script and no server. A number that was
not measured is never shown as one: its row says why.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loupe.errors import LoupeError
from loupe.files import write_atomic
from loupe.log import command_line
from loupe.report import figures, texts
from loupe.report.content import Drawing
from loupe.report.template import render

SCHEMA = 1
WIDE_PX, NARROW_PX = 760, 330  # widths at which the figures are drawn: a whole desk page, a phone
COLUMNS = (
    "Published accuracy",
    "Measured accuracy",
    "Micro-F1",
    "AUC",
    "Loss",
    "Parameters",
    "Epochs, published → measured",
    "Seconds per epoch",
    "Total time",
    "Looks at the test set",
)
BUDGETS = {
    "quick": "a part of its published epochs",
    "published": "as many epochs as published",
}


@dataclass(frozen=True)
class Cell:
    """What one place of the table says: the measured value, and below it, small, what belongs to it."""

    value: str
    below: Sequence[str] = ()
    words: bool = False


@dataclass(frozen=True)
class Experiment:
    """One experiment as the page shows it; `anchor` is the id of its details, `runs` are names with their links."""

    name: str
    anchor: str
    about: str
    measured: bool
    cells: Sequence[Cell]
    wording: Sequence[tuple[str, str]]
    runs: Sequence[tuple[str, str]]


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page of experiments.json's content to `path`; links to run directories are relative to its folder.

    LoupeError where the content is of another schema, incomplete or damaged.
    """
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, Mapping) else None
        raise LoupeError(
            f"experiments.json for {path}: schema {found} is not the one this Loupe reads ({SCHEMA}); "
            "use the version that wrote it."
        )
    try:
        shown = _gather(content)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise LoupeError(
            f"experiments.json for {path}: incomplete or damaged ({error!r}). Restore it, or run loupe reproduce again."
        ) from None
    write_atomic(path, render("experiments.html", shown))


def _gather(content: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template names."""
    rows: list[Mapping[str, Any]] = content["rows"]
    verdicts = [row["verdict"] for row in rows if row["measured"] and row["verdict"]]
    measured = sum(row["measured"] is not None for row in rows)
    return {
        "version": content["version"],
        "command": content["command"],
        "environment": {
            name: _said(name, value) for name, value in content["environment"].items() if value is not None
        },
        "seeds": content["seeds"],
        "budget": content["budget"],
        "budget_meaning": BUDGETS.get(content["budget"]),
        "total": len(rows),
        "measured": measured,
        "judged": len(verdicts),
        "reached": sum(verdict == "reached" for verdict in verdicts),
        "unjudged": measured - len(verdicts),
        "looks": _looks(rows),
        "columns": COLUMNS,
        "experiments": [_experiment(number, row) for number, row in enumerate(rows, 1)],
        "accuracy": _drawing("Accuracy", rows, _accuracy_bars),
        "seconds": _drawing("Seconds per epoch", rows, _seconds_bars),
    }


def _said(name: str, value: Any) -> Any:
    """What an environment says, the command as it was typed."""
    return command_line(value) if name == "command" and isinstance(value, list) else value


def _looks(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The looks at each dataset's test set. Rows count for a whole runs folder, so the largest holds the others."""
    looks: dict[str, int] = {}
    for row in rows:
        if row["measured"]:
            dataset = row["published"]["dataset"]
            looks[dataset] = max(looks.get(dataset, 0), row["measured"]["test_looks"])
    return looks


def _drawing(title: str, rows: Sequence[Mapping[str, Any]], bars_of: Callable[..., Any]) -> Drawing | None:
    """The two bars of each experiment that has one of them; None where no experiment has any."""
    groups = [(texts.short(row["name"], 40), *bars_of(row["published"], row["measured"])) for row in rows]
    groups = [group for group in groups if group[1] or group[2]]
    if not groups:
        return None
    title = f"{title}, published and measured"
    words = f"{title}. " + " ".join(_in_words(*group) for group in groups)
    wide = figures.grouped_bars(groups, label=words, width_px=WIDE_PX)
    narrow = figures.grouped_bars(groups, label=words, width_px=NARROW_PX, names_above=True)
    return Drawing(title, wide, narrow)


def _in_words(name: str, published: figures.Bar | None, measured: figures.Bar | None) -> str:
    """One group of bars, for who does not see it."""
    parts = [f"{kind} {bar.text}" for kind, bar in (("published", published), ("measured", measured)) if bar]
    return f"{name}: {', '.join(parts if measured else [*parts, 'not measured'])}."


Bars = tuple[figures.Bar | None, figures.Bar | None]


def _accuracy_bars(published: Mapping[str, Any], measured: Mapping[str, Any] | None) -> Bars:
    reference = None
    if published["accuracy"] is not None:
        text, end = _published_accuracy(published), published["accuracy_to"]
        reference = figures.Bar(published["accuracy"], text, published["accuracy"] if end else None, end)
    if measured is None or measured["accuracy"]["value"] is None:
        return reference, None
    metric = measured["accuracy"]
    return reference, figures.Bar(metric["value"], texts.percent(metric["value"]), metric["low"], metric["high"])


def _seconds_bars(published: Mapping[str, Any], measured: Mapping[str, Any] | None) -> Bars:
    seconds = [published["seconds_per_epoch"], measured["seconds_per_epoch"] if measured else None]
    first, second = (None if value is None else figures.Bar(value, texts.duration(value)) for value in seconds)
    return first, second


def _experiment(number: int, row: Mapping[str, Any]) -> Experiment:
    published, measured = row["published"], row["measured"]
    runs = measured["runs"] if measured else []
    return Experiment(
        name=row["name"],
        anchor=f"experiment-{number}",
        about=published["dataset"],
        measured=measured is not None,
        cells=_cells(row),
        wording=_wording(row),
        # Quoted whole and after a "./", the name of a directory can be nothing but the name of a directory.
        runs=[(run, f"./{quote(run, safe='')}/report.html") for run in runs],
    )


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    """The cells of one row, in the order of COLUMNS."""
    published, measured = row["published"], row["measured"] or {}
    total = (measured.get("parameters") or {}).get("total")
    epochs = [texts.UNDEFINED if value is None else f"{value:.1f}".removesuffix(".0") for value in _epochs(row)]
    looks = measured.get("test_looks")
    return [
        Cell(_published_accuracy(published), _on_validation(published)),
        _measured_accuracy(row),
        *(_metric(published, measured, key) for key in ("micro_f1", "roc_auc", "log_loss")),
        Cell(_count(total), _beside(published["parameters"], texts.count)),
        Cell(" → ".join(epochs)),
        Cell(
            texts.duration(measured.get("seconds_per_epoch")), _beside(published["seconds_per_epoch"], texts.duration)
        ),
        Cell(texts.duration(measured.get("seconds")), _beside(published["seconds"], texts.duration)),
        Cell(_count(looks)),
    ]


def _measured_accuracy(row: Mapping[str, Any]) -> Cell:
    """The mean over the seeds with its interval, the lowest and highest seed, and the verdict; or why there is none."""
    measured = row["measured"]
    if measured is None:
        return Cell(row["why"] or "not measured", words=True)
    metric, below = measured["accuracy"], []
    if interval := texts.interval(metric, as_percent=True):
        below.append(f"95 % interval {interval}")
    if len(measured["seeds"]) > 1:
        ends = {"low": metric["lowest"], "high": metric["highest"]}
        below.append(f"seeds {texts.interval(ends, as_percent=True)}")
    below += _on_validation(measured)
    return Cell(texts.estimate(metric, as_percent=True), below + ([row["verdict"]] if row["verdict"] else []))


def _metric(published: Mapping[str, Any], measured: Mapping[str, Any], key: str) -> Cell:
    value = measured[key]["value"] if measured else None
    return Cell(texts.number(value), _beside(published[key], texts.number))


def _epochs(row: Mapping[str, Any]) -> tuple[float, float | None]:
    return row["published"]["epochs"], row["measured"]["epochs"] if row["measured"] else None


def _beside(value: float | None, text: Callable[[float], str]) -> list[str]:
    return [] if value is None else [f"published {text(value)}"]


def _count(value: float | None) -> str:
    return texts.UNDEFINED if value is None else texts.count(value)


def _on_validation(judged: Mapping[str, Any]) -> list[str]:
    return ["on validation images"] if judged["judged_on"] == "validation" else []


def _published_accuracy(published: Mapping[str, Any]) -> str:
    low, high = published["accuracy"], published["accuracy_to"]
    return texts.percent(low) if high is None else texts.interval({"low": low, "high": high}, as_percent=True) or ""


def _wording(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the document says of the experiment, then what was run here; what is empty is left out."""
    published, measured = row["published"], row["measured"] or {}
    said = {
        "Network": published["network"],
        "Pixels": published["pixels"],
        "Training": published["training"],
        "Pretrained weights": published["weights"],
        "Parameters published": _parameters(published["parameters"], published["non_trainable"], published["derived"]),
        "Remark": published["remark"],
        "Not measured": None if measured else row["why"],
        "Recipe": row["recipe"],
        "Settings used": measured.get("settings"),
        "Parameters measured": _parameters(*(measured["parameters"][key] for key in ("total", "non_trainable")))
        if measured
        else None,
        "Judged on": texts.several(measured["images"], f"{measured['judged_on']} image") if measured else None,
        "Macro-F1": texts.number(measured["macro_f1"]["value"]) if measured else None,
        "Diagnosis": measured.get("diagnosis"),
    }
    return [(term, str(text)) for term, text in said.items() if text]


def _parameters(total: int | None, non_trainable: int | None, derived: bool = False) -> str | None:
    if total is None:
        return None
    frozen = f", of them {texts.count(non_trainable)} not trainable" if non_trainable else ""
    return texts.count(total) + frozen + ("; counted from the layers, not printed in the document" if derived else "")
