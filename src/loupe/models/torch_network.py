"""Stored network in PyTorch, from decoded pixels to logits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.data.pixels.batches import send
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.read_ahead import batch_size
from loupe.devices import Compute, keep_freed_memory
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, TorchEngine
from loupe.models.pixel_engine import Array

EngineBuilder = Callable[[Classifier, Compute], Engine]


def open_network(
    folder: Path, device: torch.device, build: EngineBuilder | None = None
) -> tuple[Classifier, "TorchNetwork"]:
    """Network of a bundle in evaluation mode on its device, and what predicts with it.

    Args:
        build: builder of what computes the logits; PyTorch by default.

    Raises:
        RunStateError: as for `bundle.load`.
    """
    keep_freed_memory()
    model, precision = bundle.load(folder, device)
    compute = Compute(device, precision)
    return model, TorchNetwork(model, compute, (build or TorchEngine)(model, compute))


class TorchNetwork:
    """Network that takes decoded pixels, on any device; `engine` computes the logits of preprocessed images."""

    def __init__(self, model: Classifier, compute: Compute, engine: Engine | None = None) -> None:
        self.engine = engine or TorchEngine(model, compute)
        self.name = self.engine.name
        self.batch_images = batch_size(model.preprocessing.size)
        self.in_flight = 1
        self._preprocessing = model.preprocessing
        self._device = compute.device

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        return self.engine.run(self._view(x_BHWC) for x_BHWC in pixels)

    def _view(self, x_BHWC: UInt8Array) -> Tensor:
        x_BCHW = send(torch.from_numpy(x_BHWC), self._device).permute(0, 3, 1, 2)
        return evaluation_view(x_BCHW, self._preprocessing)
