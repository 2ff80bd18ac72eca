"""The table of `loupe reproduce` as Markdown, for people and repositories, and as CSV, for spreadsheets."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from loupe.report import texts

Row = Mapping[str, Any]
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
    "looks at test",
)
METRICS = ("accuracy", "micro_f1", "macro_f1", "roc_auc", "log_loss")


def markdown(content: Mapping[str, Any]) -> str:
    """The whole table, with what each experiment was trained with below it."""
    lines = [
        f"# Published experiments, budget {content['budget']}",
        "",
        f"`{content['command']}`",
        "",
        texts.made_on(content),
        "",
        "Published before measured in every cell that has two figures. Accuracy is on test images unless the row says "
        "validation; F1 is micro. The interval tells how far the figure could move with other images, the seeds how "
        "far with other trainings.",
        "",
        *texts.markdown_table(HEADER, map(cells, content["rows"])),
        "",
        *_notes(content["rows"]),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    """One row as text, in the order of HEADER."""
    published, measured = row["published"], row["measured"]
    name = row["name"] + (" (validation)" if published["judged_on"] == "validation" else "")
    if measured is None:
        counts = texts.count(published["parameters"]) if published["parameters"] else texts.UNDEFINED
        empty = [_pair(published[key], None) for key in ("micro_f1", "roc_auc", "log_loss")]
        return [name, _published(published), row["why"], "", *empty, counts, str(published["epochs"]), "", "", ""]
    accuracy = measured["accuracy"]
    parameters = measured["parameters"]
    return [
        name,
        _published(published),
        f"**{texts.percent(accuracy['value'])}** ({texts.interval(accuracy, as_percent=True)}), {row['verdict']}",
        f"{len(measured['seeds'])}: {texts.percent(accuracy['lowest'])} to {texts.percent(accuracy['highest'])}",
        *(_pair(published[key], measured[key]["value"]) for key in ("micro_f1", "roc_auc", "log_loss")),
        f"{texts.count(parameters['total'])} ({texts.count(parameters['non_trainable'])} non-trainable)",
        f"{published['epochs']} → {measured['epochs']:g}",
        f"{published['seconds_per_epoch'] or texts.UNDEFINED} → {measured['seconds_per_epoch']:.1f}",
        f"{texts.duration(published['seconds'])} → {texts.duration(measured['seconds'])}",
        str(measured["test_looks"]),
    ]


def _published(published: Row) -> str:
    if published["accuracy"] is None:
        return "not given"
    upper = f" to {texts.percent(published['accuracy_to'])}" if published["accuracy_to"] else ""
    return texts.percent(published["accuracy"], 2) + upper


def _pair(published: float | None, measured: float | None) -> str:
    return f"{texts.number(published)} → {texts.number(measured)}"


def _notes(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row["measured"]:
            yield f"- `{row['recipe']}`: {row['measured']['settings']}. {row['measured']['diagnosis'] or ''}".rstrip()


def csv_table(content: Mapping[str, Any]) -> str:
    """One row for each experiment: published and measured figures as numbers, fractions and seconds."""
    text = io.StringIO()
    rows = [_flat(row) for row in content["rows"]]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    published, measured = row["published"], row["measured"] or {}
    flat = {"experiment": row["name"], "recipe": row["recipe"], "why": row["why"], "verdict": row["verdict"]}
    keys = ("judged_on", "accuracy", "accuracy_to", "micro_f1", "roc_auc", "log_loss", "parameters", "non_trainable")
    for key in (*keys, "epochs", "seconds_per_epoch", "seconds"):
        flat[f"published_{key}"] = published[key]
    for key in METRICS:
        for figure in ("value", "low", "high", "lowest", "highest"):
            flat[f"{key}_{figure}"] = measured.get(key, {}).get(figure)
    parameters = measured.get("parameters", {})
    flat |= {key: parameters.get(name) for key, name in (("parameters", "total"), ("non_trainable", "non_trainable"))}
    for key in ("images", "epochs", "seconds_per_epoch", "seconds", "test_looks", "settings"):
        flat[key] = measured.get(key)
    return {**flat, "seeds": len(measured["seeds"]) if measured else None}
