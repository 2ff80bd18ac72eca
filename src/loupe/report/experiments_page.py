"""Page of `loupe reproduce`: published and measured results of each experiment, as one HTML file.

It is made from the content of experiments.json alone and needs no network, no script and no server. A number that was
not measured is never shown as one: its row says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loupe.data.remote.redaction import redacted_word
from loupe.errors import counted
from loupe.evaluate.experiment_results import ExperimentFigures, ExperimentResults, ExperimentRow
from loupe.evaluate.spread import Spread
from loupe.files import write_atomic
from loupe.log import command_line
from loupe.recipes.published.publication import Published
from loupe.report import figures, texts
from loupe.report.content import Drawing
from loupe.report.template import render

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
    "Test-set evaluations",
)
BUDGETS = {
    "quick": "a part of its published epochs",
    "published": "as many epochs as published",
}


@dataclass(frozen=True)
class Cell:
    """Cell of the table: the measured value, and smaller text below it."""

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


def write_page(path: Path, results: ExperimentResults) -> None:
    """Write the page of the experiments to `path`; links to run directories are relative to its folder."""
    write_atomic(path, render("experiments.html", _gather(results)))


def _gather(results: ExperimentResults) -> dict[str, Any]:
    """Values of the template."""
    rows = results.rows
    verdicts = [row.verdict for row in rows if row.measured and row.verdict]
    measured = sum(row.measured is not None for row in rows)
    return {
        "version": results.version,
        "command": results.command,
        "environment": {name: _said(name, value) for name, value in results.environment.items() if value is not None},
        "seeds": results.seeds,
        "budget": results.budget,
        "budget_meaning": BUDGETS.get(results.budget),
        "total": len(rows),
        "measured": measured,
        "judged": len(verdicts),
        "reached": sum(verdict == "reached" for verdict in verdicts),
        "unjudged": measured - len(verdicts),
        "open": sum(row.verdict is not None and not row.decided for row in rows),
        "looks": _looks(rows),
        "columns": COLUMNS,
        "experiments": [_experiment(number, row) for number, row in enumerate(rows, 1)],
        "accuracy": _drawing("Accuracy", rows, _accuracy_bars),
        "seconds": _drawing("Seconds per epoch", rows, _seconds_bars),
    }


def _said(name: str, value: Any) -> Any:
    """Value of an environment; its command as it was typed."""
    if name != "command" or not isinstance(value, list):
        return value
    return command_line([redacted_word(str(word)) for word in value])


def _looks(rows: Sequence[ExperimentRow]) -> dict[str, int]:
    """Evaluations of each dataset's test set. Each row counts the whole folder of runs, so the largest is the total."""
    looks: dict[str, int] = {}
    for row in rows:
        if row.measured:
            dataset = row.published.dataset
            looks[dataset] = max(looks.get(dataset, 0), row.measured.test_looks)
    return looks


Bars = tuple[figures.Bar | None, figures.Bar | None]


def _drawing(
    title: str, rows: Sequence[ExperimentRow], bars_of: Callable[[Published, ExperimentFigures | None], Bars]
) -> Drawing | None:
    """Figure with two bars for each experiment; None if no experiment has a bar."""
    groups = [(texts.short(row.name, 40), *bars_of(row.published, row.measured)) for row in rows]
    groups = [group for group in groups if group[1] or group[2]]
    if not groups:
        return None
    title = f"{title}, published and measured"
    words = f"{title}. " + " ".join(_in_words(*group) for group in groups)
    wide = figures.grouped_bars(groups, label=words, width_px=WIDE_PX)
    narrow = figures.grouped_bars(groups, label=words, width_px=NARROW_PX, names_above=True)
    return Drawing(title, wide, narrow)


def _in_words(name: str, published: figures.Bar | None, measured: figures.Bar | None) -> str:
    """Alt text of one group of bars."""
    parts = [f"{kind} {bar.text}" for kind, bar in (("published", published), ("measured", measured)) if bar]
    return f"{name}: {', '.join(parts if measured else [*parts, 'not measured'])}."


def _accuracy_bars(published: Published, measured: ExperimentFigures | None) -> Bars:
    reference = None
    if published.accuracy is not None:
        text, end = _published_accuracy(published), published.accuracy_to
        reference = figures.Bar(published.accuracy, text, published.accuracy if end else None, end)
    if measured is None:
        return reference, None
    accuracy = measured.accuracy
    return reference, figures.Bar(accuracy.value, texts.percent(accuracy.value), accuracy.low, accuracy.high)


def _seconds_bars(published: Published, measured: ExperimentFigures | None) -> Bars:
    seconds = [published.seconds_per_epoch, measured.seconds_per_epoch if measured else None]
    first, second = (None if value is None else figures.Bar(value, texts.duration(value)) for value in seconds)
    return first, second


def _experiment(number: int, row: ExperimentRow) -> Experiment:
    runs = row.measured.runs if row.measured else ()
    return Experiment(
        name=row.name,
        anchor=f"experiment-{number}",
        about=row.published.dataset,
        measured=row.measured is not None,
        cells=_cells(row, row.published, row.measured),
        wording=_wording(row, row.published, row.measured),
        # Quoted whole and after a "./", the name of a directory can be nothing but the name of a directory.
        runs=[(run, f"./{quote(run, safe='')}/report.html") for run in runs],
    )


def _cells(row: ExperimentRow, published: Published, measured: ExperimentFigures | None) -> list[Cell]:
    """The cells of one row, in the order of COLUMNS."""
    epochs = [_rounded(published.epochs), _rounded(measured.epochs) if measured else texts.UNDEFINED]
    return [
        Cell(_published_accuracy(published), _on_validation(published.judged_on)),
        _measured_accuracy(row, measured),
        _metric(published.micro_f1, measured.micro_f1 if measured else None),
        _metric(published.roc_auc, measured.roc_auc if measured else None),
        _metric(published.log_loss, measured.log_loss if measured else None),
        Cell(_count(measured.parameters.total if measured else None), _beside(published.parameters, texts.count)),
        Cell(" → ".join(epochs)),
        Cell(
            texts.duration(measured.seconds_per_epoch if measured else None),
            _beside(published.seconds_per_epoch, texts.duration),
        ),
        Cell(texts.duration(measured.seconds if measured else None), _beside(published.seconds, texts.duration)),
        Cell(_count(measured.test_looks if measured else None)),
    ]


def _rounded(epochs: float) -> str:
    return f"{epochs:.1f}".removesuffix(".0")


def _measured_accuracy(row: ExperimentRow, measured: ExperimentFigures | None) -> Cell:
    """The mean over the seeds with its interval, the lowest and highest seed, and the verdict; or why there is none."""
    if measured is None:
        return Cell(row.why or "not measured", words=True)
    accuracy = measured.accuracy
    below = [f"95 % interval {texts.between(accuracy.low, accuracy.high, as_percent=True)}"]
    if len(measured.seeds) > 1:
        below.append(f"seeds {texts.between(accuracy.lowest, accuracy.highest, as_percent=True)}")
    below += _on_validation(measured.judged_on)
    return Cell(texts.percent(accuracy.value), below + ([row.verdict_text] if row.verdict else []))


def _metric(published: float | None, measured: Spread | None) -> Cell:
    return Cell(texts.number(measured.value if measured else None), _beside(published, texts.number))


def _beside(value: float | None, text: Callable[[float], str]) -> list[str]:
    return [] if value is None else [f"published {text(value)}"]


def _count(value: float | None) -> str:
    return texts.UNDEFINED if value is None else texts.count(value)


def _on_validation(judged_on: str) -> list[str]:
    return ["on validation images"] if judged_on == "validation" else []


def _published_accuracy(published: Published) -> str:
    low, high = published.accuracy, published.accuracy_to
    return texts.percent(low) if high is None else texts.between(low, high, as_percent=True) or ""


def _wording(row: ExperimentRow, published: Published, measured: ExperimentFigures | None) -> list[tuple[str, str]]:
    """Details from the document, then those of the run; empty ones are left out."""
    said = {
        "Network": published.network,
        "Pixels": published.pixels,
        "Training": published.training,
        "Pretrained weights": published.weights,
        "Parameters published": _parameters(published.parameters, published.non_trainable, published.derived),
        "Remark": published.remark,
        "Not measured": None if measured else row.why,
        "Recipe": row.recipe,
    }
    if measured:
        said |= {
            "Settings used": measured.settings,
            "Parameters measured": _parameters(measured.parameters.total, measured.parameters.non_trainable),
            "Judged on": counted(measured.images, f"{measured.judged_on} image"),
            "Macro-F1": texts.number(measured.macro_f1.value),
            "Diagnosis": measured.diagnosis,
        }
    return [(term, text) for term, text in said.items() if text]


def _parameters(total: int | None, non_trainable: int | None, derived: bool = False) -> str | None:
    if total is None:
        return None
    frozen = f", of them {texts.count(non_trainable)} not trainable" if non_trainable else ""
    return texts.count(total) + frozen + ("; counted from the layers, not printed in the document" if derived else "")
