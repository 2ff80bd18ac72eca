"""Outputs of frozen blocks in batches, in place of images, and the augmentation that goes with them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from loupe.augment.pipeline import Augmenter
from loupe.data.array_file import Array
from loupe.data.pixels.batches import Batch
from loupe.data.pixels.read_ahead import cut


@dataclass(frozen=True)
class ActivationLoader:
    """Loader of activations in place of images.

    Attributes:
        views: one array [N, ...] for each view of the images.
        view_row_N: row in these arrays of each image of the table; -1 if the image is not in them.
        first_epoch: epoch that uses the first view.
        turn: index of the view that `batches` reads.
    """

    views: tuple[Tensor, ...]
    view_row_N: np.ndarray
    labels_N: Tensor
    device: torch.device
    first_epoch: int = 0
    turn: int = 0

    def at(self, epoch: int) -> Self:
        """Loader of the view of that epoch; views are used in turn."""
        return replace(self, turn=(epoch - self.first_epoch) % len(self.views))

    def batches(
        self,
        order: np.ndarray,
        batch_size: int,
        *,
        first: int = 0,
        share: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """Batches of the activations of the images of `order`, from batch number `first` on; of each, the `share`."""
        rows = self.views[self.turn]
        for whole_B in cut(order, batch_size)[first:]:
            index_B = share(whole_B) if share else whole_B
            view_row_B = torch.from_numpy(self.view_row_N[index_B]).to(rows.device)
            x = rows.index_select(0, view_row_B).to(self.device).float()
            y_B = self.labels_N.index_select(0, torch.from_numpy(index_B).to(self.device))
            yield Batch(x.permute(0, 3, 1, 2) if x.ndim == 4 else x, y_B, index_B)


@dataclass(frozen=True)
class IdentityAugment:
    """Augmentation that changes nothing: activations were augmented as images."""

    seed: int

    def train(self, x: Tensor, index_B: np.ndarray, epoch: int) -> Tensor:
        return x


@dataclass(frozen=True)
class CyclicAugment:
    """Augmenter whose views are used in turn from epoch to epoch, as cached views are."""

    augmenter: Augmenter
    first_epoch: int
    views: int

    @property
    def seed(self) -> int:
        return self.augmenter.seed

    def train(self, x_BCHW: Tensor, index_B: np.ndarray, epoch: int) -> Tensor:
        turn = (epoch - self.first_epoch) % self.views
        return self.augmenter.train(x_BCHW, index_B, self.first_epoch + turn)


def on_device(views: Sequence[Array], device: torch.device, room_bytes: int) -> tuple[Tensor, ...]:
    """Views as tensors; those that fit into `room_bytes`, taken in order, are copied to the device.

    The budget is for all views together: the network that trains on them, and its gradients, need the rest of a GPU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that the arrays are read-only; nothing writes to them
        rows = [torch.from_numpy(view) for view in views]
    for number, view in enumerate(views):
        if view.nbytes <= room_bytes:
            rows[number] = rows[number].to(device)
            room_bytes -= view.nbytes
    return tuple(rows)
