"""The table of `loupe reproduce` as Markdown, for people and repositories, and as CSV, for spreadsheets."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from loupe import csv_files
from loupe.evaluate.experiment_results import ExperimentResults, ExperimentRow
from loupe.recipes.published.publication import Published
from loupe.report import texts

HEADER = (
    "experiment",
    "published",
    "measured (95 % interval)",
    "seeds, lowest to highest",
    "F1",
    "AUC",
    "loss",
    "parameters",
    "epochs",
    "s per epoch",
    "time",
    "test evaluations",
)
METRICS = ("accuracy", "micro_f1", "macro_f1", "roc_auc", "log_loss")
FIGURES = ("value", "low", "high", "lowest", "highest")
OF_PUBLISHED = (
    *("judged_on", "accuracy", "accuracy_to", "micro_f1", "roc_auc", "log_loss", "parameters", "non_trainable"),
    *("epochs", "seconds_per_epoch", "seconds"),
)
OF_MEASURED = ("images", "epochs", "seconds_per_epoch", "seconds", "test_looks", "settings")
COLUMNS = (
    *("experiment", "recipe", "why", "verdict"),
    *(f"published_{key}" for key in OF_PUBLISHED),
    *(f"{key}_{figure}" for key in METRICS for figure in FIGURES),
    *("parameters", "non_trainable", *OF_MEASURED, "seeds"),
)


def markdown(results: ExperimentResults) -> str:
    """Whole table, and the settings of each experiment below it."""
    lines = [
        f"# Published experiments, budget {results.budget}",
        "",
        f"`{results.command}`",
        "",
        texts.made_on(results.version, results.environment),
        "",
        "Published before measured in every cell that has two figures. Accuracy is on test images unless the row says "
        "validation; F1 is micro. The interval is over images, the range is over seeds.",
        "",
        *texts.markdown_table(HEADER, map(cells, results.rows)),
        "",
        *_notes(results.rows),
    ]
    return "\n".join(lines) + "\n"


def cells(row: ExperimentRow) -> list[str]:
    """One row as text, in the order of HEADER."""
    published, measured = row.published, row.measured
    name = row.name + (" (validation)" if published.judged_on == "validation" else "")
    if measured is None:
        counts = texts.count(published.parameters) if published.parameters else texts.UNDEFINED
        empty = [_pair(value, None) for value in (published.micro_f1, published.roc_auc, published.log_loss)]
        return [name, _accuracy(published), row.why or "", "", *empty, counts, str(published.epochs), "", "", ""]
    accuracy, parameters = measured.accuracy, measured.parameters
    interval = texts.between(accuracy.low, accuracy.high, as_percent=True)
    return [
        name,
        _accuracy(published),
        f"**{texts.percent(accuracy.value)}** ({interval}){f', {row.verdict_text}' if row.verdict else ''}",
        f"{len(measured.seeds)}: {texts.percent(accuracy.lowest)} to {texts.percent(accuracy.highest)}",
        _pair(published.micro_f1, measured.micro_f1.value),
        _pair(published.roc_auc, measured.roc_auc.value),
        _pair(published.log_loss, measured.log_loss.value),
        f"{texts.count(parameters.total)} ({texts.count(parameters.non_trainable)} non-trainable)",
        f"{published.epochs} → {measured.epochs:g}",
        f"{published.seconds_per_epoch or texts.UNDEFINED} → {measured.seconds_per_epoch:.1f}",
        f"{texts.duration(published.seconds)} → {texts.duration(measured.seconds)}",
        str(measured.test_looks),
    ]


def _accuracy(published: Published) -> str:
    if published.accuracy is None:
        return "not given"
    upper = f" to {texts.percent(published.accuracy_to)}" if published.accuracy_to else ""
    return texts.percent(published.accuracy, 2) + upper


def _pair(published: float | None, measured: float | None) -> str:
    return f"{texts.number(published)} → {texts.number(measured)}"


def _notes(rows: Iterable[ExperimentRow]) -> Iterator[str]:
    for row in rows:
        if row.measured:
            yield f"- `{row.recipe}`: {row.measured.settings}. {row.measured.diagnosis or ''}".rstrip()


def write_csv(path: Path, results: ExperimentResults) -> None:
    """One row for each experiment: published and measured figures as numbers, fractions and seconds."""
    csv_files.write(path, COLUMNS, map(_flat, results.rows))


def _flat(row: ExperimentRow) -> dict[str, object]:
    """One experiment as columns; what was not measured is empty."""
    measured = row.measured
    flat: dict[str, object] = {"experiment": row.name, "recipe": row.recipe, "why": row.why, "verdict": row.verdict}
    flat |= {f"published_{key}": getattr(row.published, key) for key in OF_PUBLISHED}
    for key in METRICS:
        metric = getattr(measured, key, None)
        flat |= {f"{key}_{figure}": getattr(metric, figure, None) for figure in FIGURES}
    parameters = measured.parameters if measured else None
    flat["parameters"] = parameters.total if parameters else None
    flat["non_trainable"] = parameters.non_trainable if parameters else None
    flat |= {key: getattr(measured, key, None) for key in OF_MEASURED}
    return {**flat, "seeds": len(measured.seeds) if measured else None}
