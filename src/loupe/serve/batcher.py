"""Adaptive batching: what waits when an engine becomes free is its next batch.

No image waits for others to come: alone it is computed at once, under load batches grow by themselves, as long as one
takes no longer than `BATCH_SECONDS`. Where an image of a batch takes as long as one alone, as on most CPUs, batches
thus stay small and answers come early; where it takes less, as on GPUs, batches grow. What may wait is bounded, and a
request that could not be answered in its time is refused before it costs anything.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter

import numpy as np

from loupe.data.pixels.decode import UInt8Array
from loupe.errors import DivergedError, counted
from loupe.models.pixel_engine import Array, PixelEngine
from loupe.serve.metrics import Metrics
from loupe.serve.pace import Pace
from loupe.serve.refusals import Refusal

BATCH_SECONDS = 0.05  # that a batch of several images should take at most
MEMORY = 0.8  # of the time that an image takes, from one batch to the next


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Image that waits for its logits."""

    pixels_HWC: UInt8Array
    logits_K: "asyncio.Future[Array]"


class Batcher:
    """Queue of images for one engine, which computes them in batches in threads of its own.

    It belongs to one event loop, in which all of its methods are called.

    Args:
        engine: computes logits of decoded images.
        name: name of the model, for metrics and messages.
        limit: number of images that may wait, from their admission to their logits.
        metrics: counts batches and what waits.
    """

    def __init__(self, engine: PixelEngine, name: str, limit: int, metrics: Metrics) -> None:
        self._engine = engine
        self._name = name
        self._limit = limit
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._free = engine.in_flight
        self._threads = ThreadPoolExecutor(engine.in_flight, thread_name_prefix="loupe-engine")
        self._seconds = 0.0  # that an image of a batch takes, measured
        self._pace = Pace()
        self.admitted = 0

    @contextmanager
    def admit(self, images: int, deadline: float) -> Iterator[None]:
        """Context in which so many images may be in the queue.

        Args:
            images: their number.
            deadline: time of the event loop at which they have to be answered.

        Raises:
            Refusal: too many wait, or they would wait beyond the deadline.
        """
        now = asyncio.get_running_loop().time()
        wait_seconds = (self.admitted + images) * self._pace.each_seconds
        if self.admitted and self.admitted + images > self._limit:
            self._refuse(f"{counted(self.admitted, 'image')} wait, and {self._limit} may", wait_seconds)
        if self.admitted and now + wait_seconds > deadline:
            self._refuse(f"{counted(self.admitted, 'image')} wait, too many for the deadline", wait_seconds)
        if not self.admitted:
            self._pace.begin(now)
        self._admit(images)
        try:
            yield
            self._pace.answered(images, asyncio.get_running_loop().time())
        finally:
            self._admit(-images)

    def _refuse(self, reason: str, wait_seconds: float) -> None:
        seconds = max(1, ceil(wait_seconds))
        raise Refusal(
            429, f"{reason}: try again in {counted(seconds, 'second')}.", headers={"Retry-After": str(seconds)}
        )

    def _admit(self, images: int) -> None:
        self.admitted += images
        self._metrics.queue(self._name, self.admitted)

    async def logits(self, pixels_HWC: UInt8Array) -> Array:
        """Logits, float32 [K], of one admitted image. Where the caller is cancelled, the image leaves the queue."""
        waiting = _Waiting(pixels_HWC, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        return await waiting.logits_K

    def _start(self) -> None:
        while self._free and (batch := self._next()):
            self._free -= 1
            task = asyncio.get_running_loop().run_in_executor(self._threads, self._compute, batch)
            task.add_done_callback(partial(self._finished, batch))

    def _next(self) -> list[_Waiting]:
        """Next batch: what waits, shared out over the threads that are free."""
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.logits_K.done())
        share = ceil(len(self._waiting) / self._free)
        quick = max(1, int(BATCH_SECONDS / self._seconds)) if self._seconds else 1
        return [self._waiting.popleft() for _ in range(min(self._engine.batch_images, share, quick))]

    def _compute(self, batch: Sequence[_Waiting]) -> tuple[Array, float]:
        began = perf_counter()
        (logits_BK,) = self._engine.run(iter([np.stack([waiting.pixels_HWC for waiting in batch])]))
        return logits_BK, perf_counter() - began

    def _finished(self, batch: Sequence[_Waiting], done: "asyncio.Future[tuple[Array, float]]") -> None:
        self._free += 1
        error = done.exception()
        if error is None:
            logits_BK, seconds = done.result()
            each = seconds / len(batch)
            self._seconds = MEMORY * self._seconds + (1 - MEMORY) * each if self._seconds else each
            self._metrics.batch(self._name, len(batch))
        for row, waiting in enumerate(batch):
            if waiting.logits_K.done():  # the request is over
                continue
            if error is not None:
                waiting.logits_K.set_exception(error)
            elif np.isfinite(logits_BK[row]).all():
                waiting.logits_K.set_result(logits_BK[row])
            else:
                waiting.logits_K.set_exception(DivergedError("the output of the network is not finite."))
        self._start()

    def close(self) -> None:
        """End the threads once they have finished their batches."""
        self._threads.shutdown(wait=False, cancel_futures=True)
