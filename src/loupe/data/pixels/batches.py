"""Batches of raw pixels on the device of training or prediction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from loupe.data.pixels.read_ahead import ahead, cut
from loupe.data.pixels.store import EncodedStore, PixelStore, RawStore

COPIED_BYTES = 64 * 2**20  # of pixels, in one copy to a GPU


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
            self._resident_NHWC = _resident(store.pixels, device)

    def at(self, epoch: int) -> Self:
        """Loader for an epoch: this one, because the images are the same in all epochs."""
        return self

    def batches(
        self,
        order: np.ndarray,
        batch_size: int,
        *,
        first: int = 0,
        share: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """Images of the rows `order` in batches (see `cut`), starting with batch number `first`.

        Args:
            share: function that returns the rows of a batch that are read; None: all of them.
        """
        rows = cut(order, batch_size)[first:]
        if isinstance(self.store, EncodedStore) and rows:
            self.store.expect(np.concatenate([*map(share, rows)] if share else rows))
        ready = (self._batch(share(index_B) if share else index_B) for index_B in rows)
        on_cpu = isinstance(self.store, RawStore) and self.device.type == "cpu"
        immediate = self._resident_NHWC is not None or on_cpu
        return ready if immediate else ahead(ready)

    def _batch(self, index_B: np.ndarray) -> Batch:
        where_B = send(torch.from_numpy(index_B), self.device)
        if self._resident_NHWC is not None:
            x_BHWC = self._resident_NHWC.index_select(0, where_B)
        else:
            x_BHWC = send(torch.from_numpy(self.store.read(index_B)), self.device)
        return Batch(x_BHWC.permute(0, 3, 1, 2), self.labels_N.index_select(0, where_B), index_B)


def send(host: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; for CUDA from pinned memory, so that the CPU does not wait for the GPU."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def _resident(pixels_NHWC: np.ndarray, device: torch.device) -> Tensor:
    """Copy of mapped pixels on the device, in parts, so that they are not all in the memory of the machine too."""
    resident_NHWC = torch.empty(pixels_NHWC.shape, dtype=torch.uint8, device=device)
    rows = max(1, COPIED_BYTES // max(1, pixels_NHWC[:1].nbytes))
    for start in range(0, len(pixels_NHWC), rows):
        resident_NHWC[start : start + rows].copy_(torch.from_numpy(np.array(pixels_NHWC[start : start + rows])))
    return resident_NHWC


def room_bytes(device: torch.device) -> int:
    """Memory for resident inputs on a GPU in bytes, a third of the free memory; 0 on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 3
    return torch.mps.recommended_max_memory() // 3 if device.type == "mps" else 0
