"""Prediction in bulk: a source is listed, predicted unit by unit, and joined; and goes on where it was stopped."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loupe.bulk.models import BulkModel
from loupe.bulk.output import AGAIN, Output, Summary
from loupe.bulk.parts import whole_part, write_part
from loupe.bulk.plan import PLAN, UNIT_IMAGES, Asked, Plan, check_same, make_plan, open_plan
from loupe.bulk.predict_units import predict_units
from loupe.bulk.source import Source
from loupe.errors import DiskError, counted, disk_error
from loupe.log import logger, progress_bar

ATTEMPTS = 3  # to write parts that can be read back


@dataclass(frozen=True)
class BulkResult:
    """Result of a prediction in bulk.

    Attributes:
        summary: plan, and number of images of each label.
        predicted: number of images that this process predicted.
        seconds: time of that.
    """

    summary: Summary
    predicted: int
    seconds: float

    @property
    def images_per_second(self) -> float | None:
        """Speed of this process; None where it predicted nothing."""
        return self.predicted / self.seconds if self.predicted else None


@dataclass(frozen=True)
class Written:
    """Parts of a plan: numbers of the units that have none, and the counts of the others."""

    pending: list[int]
    labels: Counter[str]
    damaged: int
    images: int


PartsRunner = Callable[[Output, Plan, Written], float]
"""Predicts the pending units of a plan, writes their parts, and returns the time in seconds."""


def predict_bulk(
    output: Output,
    source: Source,
    asked: Asked,
    model: BulkModel,
    *,
    unit_images: int = UNIT_IMAGES,
    runner: PartsRunner | None = None,
) -> BulkResult:
    """Predict all images of a source in constant memory, or go on with a prediction that was stopped.

    Args:
        output: file or folder to write.
        source: images; listed where no plan is there yet.
        asked: source and settings.
        model: model of these settings.
        unit_images: number of images of a unit of a new plan.
        runner: place where units are predicted. Default: this process, with this model.

    Raises:
        ConfigError: there is another file at the output.
        RunStateError: another process writes it; or it was begun with another source, model or settings.
        DataError: the source cannot be read, or is gone.
        DiskError: the disk is full, or cannot be written.
    """
    output.check()
    try:
        with output.locked():
            if (found := output.finished()) is not None:
                check_same(asked, found.plan.asked, output.path, "Choose another --to, or remove it.")
                output.remove_plan(found.plan)
                logger.info(_told(output, found))
                return BulkResult(found, 0, 0.0)
            plan = plan_for(output, source, asked, unit_images)
            return _predict(output, plan, runner or partial(_predict_parts, model))
    except OSError as error:
        told = disk_error(error, output.path, "give the same command again: it goes on from here")
        raise told or DiskError(f"{error.filename or output.path}: {error.strerror or error}. {AGAIN}") from error


def _told(output: Output, found: Summary) -> str:
    """Sentences on a result that was complete before: of which images it is."""
    return (
        f"{output.path} is complete already: {counted(found.plan.images, 'image')}, as listed at {found.plan.listed}. "
        "The source was not listed again. To predict it as it is now, choose another --to."
    )


def plan_for(output: Output, source: Source, asked: Asked, unit_images: int = UNIT_IMAGES) -> Plan:
    """Plan of an output whose lock is held: the one that is there, else a new one of the source.

    Raises:
        RunStateError: that is of another source, model or settings, or damaged.
        LoupeError, OSError: as for `make_plan`.
    """
    output.remove_leftovers()
    if (output.plan_folder / PLAN).is_file():
        plan = open_plan(output.plan_folder)
        begun = output.path if output.is_folder else output.plan_folder
        remedy = f"Give the same ones, choose another --to, or remove {begun} to begin again."
        check_same(asked, plan.record.asked, output.path, remedy)
        logger.info(f"{output.path}: begun already. Its images are those listed at {plan.record.listed}.")
        return plan
    plan = make_plan(output.plan_folder, source, asked, unit_images=unit_images)
    for note in source.notes():
        logger.info(note)
    for warning in source.warnings():
        logger.warning(warning)
    return plan


def written(folder: Path, plan: Plan) -> Written:
    """Parts that are whole; damaged ones are removed."""
    pending, labels, damaged, images = [], Counter[str](), 0, 0
    for unit in plan.units():
        if part := whole_part(folder, plan, unit):
            labels.update(part.labels)
            damaged += part.damaged
            images += len(unit)
        else:
            pending.append(unit.number)
    return Written(pending, labels, damaged, images)


def _predict(output: Output, plan: Plan, runner: PartsRunner) -> BulkResult:
    predicted, seconds = 0, 0.0
    for _ in range(ATTEMPTS):
        parts = written(output.parts_folder, plan)
        if parts.pending:
            predicted += plan.record.images - parts.images
            seconds += runner(output, plan, parts)
            parts = written(output.parts_folder, plan)
        summary = Summary(plan=plan.record, labels=dict(parts.labels), damaged=parts.damaged)
        plan.close()
        if not parts.pending and output.finish(summary):
            return BulkResult(summary, predicted, seconds)
    raise DiskError(f"{output.parts_folder}: files read back are not those written. Check the disk, or choose another.")


def _predict_parts(model: BulkModel, output: Output, plan: Plan, parts: Written) -> float:
    """Predict the pending units and write their parts, each while the next is predicted; time in seconds."""
    model.load()
    began, done = time.perf_counter(), 0
    with progress_bar() as progress, ThreadPoolExecutor(1, thread_name_prefix="loupe-parts") as writer:
        bar = progress.add_task("predicting", total=plan.record.images, completed=parts.images, note="")

        def on_batch(images: int) -> None:
            nonlocal done
            done += images
            progress.update(bar, advance=images, note=f"{done / (time.perf_counter() - began):,.0f} images/s")

        if parts.images:
            logger.info(f"{counted(parts.images, 'image')} of {plan.record.images:,} are written already.")
        try:
            with closing(predict_units(plan, parts.pending, model, on_batch)) as tables:
                waiting: Future[Path] | None = None
                for unit, table in tables:
                    if waiting is not None:
                        waiting.result()
                    waiting = writer.submit(write_part, output.parts_folder, plan, unit, table)
                if waiting is not None:
                    waiting.result()
        except KeyboardInterrupt:
            logger.warning(f"stopped. What is written stays in {output.parts_folder}. {AGAIN}")
            raise
    return time.perf_counter() - began
