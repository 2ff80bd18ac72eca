"""A comparison as Markdown, for people and repositories, and as CSV, for spreadsheets."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from loupe import csv_files
from loupe.evaluate.comparison_results import CandidateRow, ComparisonPlan, ComparisonResults
from loupe.evaluate.metrics import Metric, headlines
from loupe.evaluate.spread import AccuracySpread
from loupe.log import duration, size_text
from loupe.report import texts

ENDS = {"": "value", "_low": "low", "_high": "high", "_lowest": "lowest", "_highest": "highest"}
OF_TRAINING = ("seconds", "images_per_second", "bytes")


def header() -> tuple[str, ...]:
    """Titles of the columns; those of headline metrics other than accuracy in the middle."""
    costs = ("parameters", "trainable", "non-trainable", "training", "s per epoch", "time", "predictions/s", "MiB")
    return ("recipe", "validation", "test", *(metric.title for metric in beside_accuracy()), *costs)


def beside_accuracy() -> tuple[Metric, ...]:
    """Headline metrics that a table shows of validation images alone."""
    return tuple(metric for metric in headlines() if metric.key != "accuracy")


def markdown(results: ComparisonResults) -> str:
    """Conclusion, table, verdicts, command and machine."""
    judgement, test = results.judgement, results.test
    opened = f"opened for {', '.join(test.opened)}" if test.opened else "not opened"
    lines = [
        f"# {plain(results.dataset)}: recipes compared",
        "",
        plain(" ".join(text for text in (judgement.conclusion, results.next) if text)),
        "",
        f"`{results.command}`",
        "",
        texts.made_on(results.version, results.environment),
        "",
        f"Judged on validation images. Columns without another name refer to them, with 95 % intervals. The test set "
        f"was {opened}. Test-set evaluations recorded in this folder: {test.looks}.",
        "",
        *texts.markdown_table(header(), map(cells, results.rows)),
        "",
        *(f"- {plain(verdict)}" for verdict in judgement.verdicts.values()),
    ]
    return "\n".join(lines) + "\n"


def plan_text(plan: ComparisonPlan) -> str:
    """Expected time and disk space of each recipe, as Markdown."""
    columns = ("recipe", "training", "time of one", "disk space", "trainings missing")
    images = ", ".join(f"{name} {number:,}" for name, number in plan.images.items())
    rows = [
        [
            plain(row.name),
            plain(row.settings),
            f"{'about ' * bool(plan.missing[row.name])}{duration(row.expected.seconds)}" if row.expected else "unknown",
            size_text(row.expected.disk_bytes) if row.expected else "",
            str(plan.missing[row.name]),
        ]
        for row in plan.rows
    ]
    lines = [f"# {plain(plan.dataset)}: plan", "", f"Images: {images}. {plan.total}", ""]
    return "\n".join([*lines, *texts.markdown_table(columns, rows)]) + "\n"


def cells(row: CandidateRow) -> list[str]:
    """One candidate as text, in the order of the header."""
    measured = row.measured
    if measured is None:
        return [plain(row.name), plain(f"failed: {row.why}"), *[""] * (len(header()) - 2)]
    judged, parameters = measured.validation, measured.parameters
    return [
        plain(row.name),
        accuracy(judged.accuracy),
        accuracy(measured.test.accuracy) if measured.test else "locked",
        *(texts.estimate(judged.metric(one.key), as_percent=one.as_percent) for one in beside_accuracy()),
        texts.count(parameters.total),
        texts.count(parameters.trainable),
        texts.count(parameters.non_trainable),
        texts.length(measured.stages, measured.epochs),
        f"{measured.seconds_per_epoch:.1f}" if measured.trained_epochs else texts.UNDEFINED,
        texts.spent(measured.seconds),
        texts.count(measured.images_per_second),
        f"{measured.bytes / 2**20:.1f}",
    ]


def plain(text: str) -> str:
    """A text that is one cell, and one line, of Markdown, whatever is in it."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def accuracy(found: AccuracySpread) -> str:
    """`98.8 % (97.1–99.5 %)`, and the seeds where there are several."""
    seeds = ""
    if found.lowest != found.highest:
        seeds = f", seeds {texts.between(found.lowest, found.highest, as_percent=True)}"
    return f"{texts.percent(found.value)} ({texts.between(found.low, found.high, as_percent=True)}{seeds})"


def write_csv(path: Path, results: ComparisonResults) -> None:
    """One row for each candidate and split, with every figure as a number."""
    keys = [metric.key for metric in headlines()]
    columns = [f"{key}{end}" for key in keys for end in ENDS]
    fixed = ["recipe", "split", "images", "seeds", "parameters", "trainable", "non_trainable"]
    length = ["strengths", "epochs", "seconds_per_epoch"]
    csv_files.write(path, [*fixed, *length, *OF_TRAINING, *columns], _csv_rows(results))


def _csv_rows(results: ComparisonResults) -> Iterator[dict[str, object]]:
    for row, measured in results.measured:
        for split, block in (("validation", measured.validation), ("test", measured.test)):
            if block is None:
                continue
            yield {
                "recipe": row.name,
                "split": split,
                "images": block.images,
                "seeds": len(measured.seeds),
                "parameters": measured.parameters.total,
                "trainable": measured.parameters.trainable,
                "non_trainable": measured.parameters.non_trainable,
                "strengths": measured.strengths,
                "epochs": measured.trained_epochs,
                "seconds_per_epoch": measured.seconds_per_epoch if measured.trained_epochs else None,
                **{key: getattr(measured, key) for key in OF_TRAINING},
                **{f"accuracy{end}": getattr(block.accuracy, part) for end, part in ENDS.items()},
                **{
                    f"{one.key}{end}": getattr(block.metric(one.key), part)
                    for one in beside_accuracy()
                    for end, part in ENDS.items()
                },
            }
