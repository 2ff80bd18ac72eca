"""`loupe predict --to OUT.parquet`: any number of images, in constant memory, to a Parquet file or a folder of them."""

from collections.abc import Sequence
from pathlib import Path

from loupe import ranks
from loupe.bulk.models import bulk_model
from loupe.bulk.opening import source_of
from loupe.bulk.output import Output
from loupe.bulk.plan import Settings, asked_of
from loupe.bulk.predict import BulkResult, PartsRunner, predict_bulk
from loupe.cli import tables
from loupe.cli.options import print_json
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ConfigError, counted, memory_remedy
from loupe.evaluate.unclassified import UNCLASSIFIED
from loupe.export.predictor import ExportedModel
from loupe.log import console, terminal
from loupe.runs.predictor import MEMORY_REMEDY, Predictor


def settings_of(opened: Predictor | ExportedModel, *, threshold: float, top: int, tta: str | None) -> Settings:
    """Settings of a prediction, as they are recorded."""
    model = bulk_model(opened)
    return Settings(
        model=model.hash,
        classes=model.classes,
        temperature=model.temperature,
        threshold=threshold,
        top=top,
        tta=tta,
    )


def predict_table(
    opened: Predictor | ExportedModel,
    output: Output,
    paths: Sequence[str],
    listed: Path | None,
    options: ReadOptions,
    settings: Settings,
    *,
    as_json: bool,
    runner: PartsRunner | None = None,
) -> None:
    """Predict all images of a source and print the number of images of each class.

    Args:
        opened: run or export.
        output: file or folder to write.
        paths: files, folders and globs.
        listed: list of images, in the place of the paths.
        options: options to read a list.
        settings: settings of the prediction.
        as_json: print JSON.
        runner: place where units are predicted. Default: this process.
    """
    if not ranks.current().alone:
        raise ConfigError(
            f"--to {output.path}: Parquet is written by one process. Leave --processes out, or write CSV."
        )
    source = source_of(paths, listed, options)
    with terminal(quiet=opened.quiet), memory_remedy(MEMORY_REMEDY):
        result = predict_bulk(output, source, asked_of(source, options, settings), bulk_model(opened), runner=runner)
    if as_json:
        print_json(_to_json(result, output, settings))
    else:
        _print(result, output, settings)


def _to_json(result: BulkResult, output: Output, settings: Settings) -> dict[str, object]:
    summary = result.summary
    return {
        **({"tta": settings.tta} if settings.tta else {}),
        "temperature": settings.temperature,
        "threshold": settings.threshold,
        "file": str(output.path),
        "images": summary.plan.images,
        "damaged": summary.damaged,
        "images_per_second": result.images_per_second,
        "counts": _counts(result, settings),
    }


def _print(result: BulkResult, output: Output, settings: Settings) -> None:
    tables.print_histogram(_counts(result, settings), output.path)
    summary = result.summary
    speed = "" if result.images_per_second is None else f"; {result.images_per_second:,.0f} images/s"
    console().print(f"{counted(summary.plan.images, 'image')}, {summary.damaged:,} damaged{speed}.")


def _counts(result: BulkResult, settings: Settings) -> dict[str, int]:
    return {name: result.summary.labels.get(name, 0) for name in (*settings.classes, UNCLASSIFIED)}
