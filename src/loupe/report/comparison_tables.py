"""A comparison as JSON, for scripts, as Markdown, for people and repositories, and as CSV, for spreadsheets."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from loupe.report import texts

HEADER = (
    "recipe",
    "validation",
    "test",
    "macro-F1",
    "AUC",
    "log loss",
    "ECE",
    "parameters",
    "trainable",
    "non-trainable",
    "s per epoch",
    "time",
    "predictions/s",
    "MiB",
)
METRICS = ("accuracy", "macro_f1", "roc_auc", "log_loss", "ece")


def as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def markdown(content: Mapping[str, Any]) -> str:
    """The conclusion, the table, the verdicts, and what was run on what."""
    judgement, test = content["judgement"], content["test"]
    opened = f"opened for {', '.join(test['opened'])}" if test["opened"] else "not opened"
    lines = [
        f"# {plain(content['dataset'])}: recipes compared",
        "",
        plain(" ".join(text for text in (judgement["conclusion"], content["next"]) if text)),
        "",
        f"`{content['command']}`",
        "",
        texts.made_on(content),
        "",
        f"Judged on validation images; figures without another name are theirs, with 95 % intervals. The test set was "
        f"{opened}; looks at it in this runs folder so far: {test['looks']}.",
        "",
        *texts.markdown_table(HEADER, map(cells, content["rows"])),
        "",
        *(f"- {plain(verdict)}" for verdict in judgement["verdicts"].values()),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One candidate as text, in the order of HEADER."""
    measured = row["measured"]
    if measured is None:
        return [plain(row["name"]), plain(f"failed: {row['why']}"), *[""] * (len(HEADER) - 2)]
    judged, test, parameters = measured["validation"], measured["test"], measured["parameters"]
    return [
        plain(row["name"]),
        accuracy(judged),
        accuracy(test) if test else "locked",
        *(texts.number(judged[key]["value"]) for key in METRICS[1:]),
        texts.count(parameters["total"]),
        texts.count(parameters["trainable"]),
        texts.count(parameters["non_trainable"]),
        f"{measured['seconds_per_epoch']:.1f}",
        texts.spent(measured["seconds"]),
        texts.count(measured["images_per_second"]),
        f"{measured['bytes'] / 2**20:.1f}",
    ]


def plain(text: str) -> str:
    """A text that is one cell, and one line, of Markdown, whatever is in it."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def accuracy(block: Mapping[str, Any]) -> str:
    """`98.8 % (97.1–99.5 %)`, and the seeds where there are several."""
    found = block["accuracy"]
    seeds = ""
    if found["lowest"] != found["highest"]:
        seeds = f", seeds {texts.interval({'low': found['lowest'], 'high': found['highest']}, as_percent=True)}"
    return f"{texts.percent(found['value'])} ({texts.interval(found, as_percent=True)}{seeds})"


def csv_table(content: Mapping[str, Any]) -> str:
    """One row for each candidate and split, with every figure as a number."""
    out = io.StringIO()
    columns = [
        name for key in METRICS for name in (key, f"{key}_low", f"{key}_high", f"{key}_lowest", f"{key}_highest")
    ]
    fixed = ["recipe", "split", "images", "seeds", "parameters", "trainable", "non_trainable", "epochs"]
    fixed += ["seconds_per_epoch", "seconds", "images_per_second", "bytes"]
    writer = csv.DictWriter(out, [*fixed, *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_rows(content))
    return out.getvalue()


def _csv_rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in content["rows"]:
        measured = row["measured"]
        for split in ("validation", "test"):
            block = measured and measured[split]
            if not block:
                continue
            parameters = measured["parameters"]
            yield {
                "recipe": row["name"],
                "split": split,
                "images": block["images"],
                "seeds": len(measured["seeds"]),
                "parameters": parameters["total"],
                **{key: parameters[key] for key in ("trainable", "non_trainable")},
                **{
                    key: measured[key]
                    for key in ("epochs", "seconds_per_epoch", "seconds", "images_per_second", "bytes")
                },
                **{f"{key}{end}": block[key][part] for key in METRICS for end, part in _ENDS.items()},
            }


_ENDS = {"": "value", "_low": "low", "_high": "high", "_lowest": "lowest", "_highest": "highest"}
