"""Prediction of units, one after another: images of the next unit are decoded while the network predicts this one.

Batches do not cross the border of a unit. So the rows of a unit are a function of its images and the model alone, and
the same in any process, after any restart.
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from loupe.bulk.decoding import Decoded
from loupe.bulk.models import BulkModel
from loupe.bulk.parts import UnitPredictions, part_table
from loupe.bulk.plan import Plan, Unit
from loupe.bulk.reading import READERS, read, temporary, unread
from loupe.bulk.remote import READERS as REMOTE_READERS
from loupe.bulk.remote import REMOTE
from loupe.bulk.shards import SHARDS, image_sizes, readers_of
from loupe.bulk.vanished import check_there
from loupe.data.parallel import PROCESSES_PAY_IMAGES, SMALL_FILE_BYTES, File, in_order
from loupe.data.processes import Processes, worker_count
from loupe.models.pixel_engine import Array

PROBED_IMAGES = 32


def predict_unit(plan: Plan, number: int, model: BulkModel) -> pa.Table:
    """Rows of one unit, in the order of its images: a function of the images and the model, without other effects.

    Raises:
        LoupeError: as for `predict_units`.
    """
    return next(predict_units(plan, [number], model))[1]


def predict_units(
    plan: Plan, numbers: Iterable[int], model: BulkModel, on_batch: Callable[[int], None] = lambda images: None
) -> Generator[tuple[Unit, pa.Table], None, None]:
    """Units and their rows, in the order of the numbers, in constant memory. Close the generator to stop early.

    Args:
        plan: plan of the prediction.
        numbers: numbers of units, drawn as they are needed: some units ahead.
        model: model of the plan.
        on_batch: called with the number of images that were predicted or found damaged, after every batch.

    Raises:
        DataError: images cannot be read because their folder or disk is gone.
        DiskError, NotEnoughMemoryError: an image cannot be read or decoded now, and is perhaps not damaged.
        DivergedError: the output of the network is not finite.
        RecordError: the plan is damaged.
    """
    asked: deque[tuple[_Answers, np.ndarray | None]] = deque()

    def pixels(chunks: Iterator[tuple[Unit, Decoded[Any]]]) -> Iterator[Any]:
        for unit, of_unit in groupby(chunks, key=itemgetter(0)):
            answers = _Answers(unit)
            decoded = answers.noting((chunk for _, chunk in of_unit), on_batch)
            for batch in model.batches(decoded):
                asked.append((answers, batch.row_B))
                yield batch.pixels
            asked.append((answers, None))  # the end of the unit

    def ended() -> Iterator[tuple[Unit, pa.Table]]:
        while asked and asked[0][1] is None:
            answers = asked.popleft()[0]
            yield answers.unit, answers.table(plan, len(model.classes))

    with closing(_decoded(plan, numbers, model)) as chunks:
        for logits_BK in model.run(pixels(chunks)):
            yield from ended()
            answers, row_B = asked.popleft()
            assert row_B is not None
            answers.add(row_B, logits_BK)
            on_batch(len(row_B))
            yield from ended()
        yield from ended()


@dataclass
class _Answers:
    """Answers for the images of a unit, as they come."""

    unit: Unit
    row_B: list[np.ndarray] = field(default_factory=list)
    logits_BK: list[Array] = field(default_factory=list)
    content: dict[int, str | None] = field(default_factory=dict)
    reason: dict[int, str] = field(default_factory=dict)
    unread: dict[int, bool] = field(default_factory=dict)

    def noting(self, chunks: Iterable[Decoded[Any]], on_batch: Callable[[int], None]) -> Iterator[Decoded[Any]]:
        """The same chunks; their hashes and damage are noted."""
        for chunk in chunks:
            self.content |= chunk.content
            self.unread |= chunk.unread
            self.reason |= {damage.index: damage.error.reason for damage in chunk.damaged}
            if chunk.damaged:
                on_batch(len(chunk.damaged))
            yield chunk

    def add(self, row_B: np.ndarray, logits_BK: Array) -> None:
        self.row_B.append(row_B)
        self.logits_BK.append(logits_BK)

    def table(self, plan: Plan, classes: int) -> pa.Table:
        check_there(plan, self.unit, self.unread)
        made = UnitPredictions(
            unit=self.unit,
            row_N=np.concatenate(self.row_B) if self.row_B else np.empty(0, np.int64),
            logits_NK=np.concatenate(self.logits_BK) if self.logits_BK else np.empty((0, classes), np.float32),
            content=self.content,
            reason=self.reason,
        )
        return part_table(plan.record, made)


def _decoded(plan: Plan, numbers: Iterable[int], model: BulkModel) -> Generator[tuple[Unit, Decoded[Any]], None, None]:
    """Decoded chunks of units, in order and some ahead, also over the border of a unit."""
    open_unit, decode = READERS[plan.record.asked.kind], model.decode

    def tasks() -> Iterator[tuple[Unit, Callable[[int], bytes], range]]:
        for number in numbers:
            unit = plan.unit(number)
            encoded = open_unit(plan.record, unit)
            for start in range(0, len(unit), model.chunk_images):
                yield unit, encoded, range(start, min(start + model.chunk_images, len(unit)))

    def work(task: tuple[Unit, Callable[[int], bytes], range]) -> tuple[Unit, Decoded[Any]]:
        unit, encoded, rows = task
        files = [read(unit, encoded, row) for row in rows]
        decoded = processes.run(decode, files)
        if _starved(files, decoded):
            decoded = processes.run(decode, files)
        if starved := _starved(files, decoded):
            raise temporary(starved, MemoryError())
        return unit, replace(decoded, unread=unread(files))

    waiting = tasks()
    first = next(waiting, None)
    if first is None:
        return
    workers = max(worker_count(), REMOTE_READERS if plan.record.asked.kind == REMOTE else 0)
    if plan.record.asked.kind == SHARDS:
        workers = readers_of(first[0], model.chunk_images, workers)
    small = plan.record.asked.kind != REMOTE and _small_files(plan.record.asked.kind, *first[:2])
    many = plan.record.images >= PROCESSES_PAY_IMAGES
    children = workers if small and many and workers > 1 and not hasattr(sys, "frozen") else 0
    with Processes(children) as processes:
        yield from in_order(work, chain([first], waiting), 1 if small and not children else workers)


def _starved(files: list[File], decoded: Decoded[Any]) -> str | None:
    """Path of an image that was not decoded although its bytes may be intact: for a lack of memory."""
    passing = {damage.index for damage in decoded.damaged if not damage.permanent}
    return next((file.path for file in files if file.index in passing and isinstance(file.data, bytes)), None)


def _small_files(kind: str, unit: Unit, encoded: Callable[[int], bytes]) -> bool:
    """True if the images of a unit are small on average; a small sample of them, unless their sizes are known."""
    if kind == SHARDS:
        sizes = image_sizes(unit)
    else:
        files = [read(unit, encoded, row) for row in range(0, len(unit), max(1, len(unit) // PROBED_IMAGES))]
        sizes = [len(file.data) for file in files if isinstance(file.data, bytes)]
    return bool(sizes) and sum(sizes) < SMALL_FILE_BYTES * len(sizes)
