"""Batches of raw pixels on the device of training or prediction."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from loupe.data.pixels.store import PixelStore, RawStore

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Batch of images.

    Attributes:
        x_BCHW: uint8 pixels, channels-last, on the device.
        y_B: int64 labels on the device; -1 where unknown.
        index_B: int64 rows in the table.
    """

    x_BCHW: Tensor
    y_B: Tensor
    index_B: np.ndarray

    def __len__(self) -> int:
        return len(self.index_B)


class BatchLoader:
    """Loader of a store's images as batches on one device, in any order.

    On a GPU, raw pixels of at most `resident_bytes` are copied to the device once; otherwise a thread reads batches
    ahead. On a CPU only encoded images are read ahead, since raw pixels are in memory or in the page cache.
    """

    def __init__(
        self, store: PixelStore, labels_N: np.ndarray, device: torch.device, *, resident_bytes: int | None = None
    ) -> None:
        self.store = store
        self.device = device
        self.labels_N = torch.tensor(labels_N, dtype=torch.int64, device=device)
        self._resident_NHWC: Tensor | None = None
        if (
            device.type != "cpu"
            and isinstance(store, RawStore)
            and store.pixels.nbytes <= (room_bytes(device) if resident_bytes is None else resident_bytes)
        ):
            self._resident_NHWC = torch.from_numpy(np.array(store.pixels)).to(device)

    def at(self, epoch: int) -> Self:
        """Loader for an epoch: this one, because the images are the same in all epochs."""
        return self

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]:
        """Images of the rows `order` in batches (see `cut`), starting with batch number `first`."""
        ready = (self._batch(index_B) for index_B in cut(order, batch_size)[first:])
        on_cpu = isinstance(self.store, RawStore) and self.device.type == "cpu"
        immediate = self._resident_NHWC is not None or on_cpu
        return ready if immediate else ahead(ready)

    def _batch(self, index_B: np.ndarray) -> Batch:
        where_B = self._send(torch.from_numpy(index_B))
        if self._resident_NHWC is not None:
            x_BHWC = self._resident_NHWC.index_select(0, where_B)
        else:
            x_BHWC = self._send(torch.from_numpy(self.store.read(index_B)))
        return Batch(x_BHWC.permute(0, 3, 1, 2), self.labels_N.index_select(0, where_B), index_B)

    def _send(self, host: Tensor) -> Tensor:
        """Copy to the device; for CUDA from pinned memory, so that the CPU does not wait for the GPU."""
        return (
            host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host.to(self.device)
        )


@dataclass(frozen=True)
class ProgressLoader:
    """Loader that calls `on_batch` with the number of images after every batch."""

    loader: BatchLoader
    on_batch: Callable[[int], None]

    @property
    def labels_N(self) -> Tensor:  # noqa: N802
        return self.loader.labels_N

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]:
        for batch in self.loader.batches(order, batch_size, first=first):
            yield batch
            self.on_batch(len(batch))


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


def room_bytes(device: torch.device) -> int:
    """Memory for resident inputs on a GPU in bytes, a third of the free memory; 0 on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    return torch.mps.recommended_max_memory() // 3 if device.type == "mps" else 0


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
