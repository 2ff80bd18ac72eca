"""Batches of rows, and items that a thread computes ahead of their use. Nothing here needs PyTorch."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np

from loupe.config.size import Size

T = TypeVar("T")


def batch_size(size: Size) -> int:
    """Batch size for evaluation of images of that size: activations take a few hundred megabytes."""
    return int(np.clip(2**22 // size.area_px, 16, 512))


def cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Rows of `order` in batches. A last batch of one image joins the one before, for batch normalisation."""
    starts = list(range(0, len(order), batch_size))
    if batch_size > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return [order[start:end] for start, end in pairwise([*starts, len(order)])]


def steps_in(images: int, batch_size: int) -> int:
    """Number of batches that `cut` makes of a number of images."""
    if batch_size == 1:
        return images
    full, rest = divmod(images, batch_size)
    return full + (1 if rest > 1 or (rest == 1 and full == 0) else 0)


@dataclass(frozen=True)
class _Failure(Generic[T]):
    error: BaseException


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Items computed up to `depth` ahead by a thread; its exceptions are raised here."""
    ready: queue.Queue[T | _Failure[T] | None] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(item: T | _Failure[T] | None) -> None:
        while not abandoned.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item)
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=make, name="loupe-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        abandoned.set()
        thread.join()
