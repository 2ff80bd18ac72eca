"""Classifier: a network with the preprocessing of its input and the classes of its output."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, counted


class Classifier(nn.Module):
    """Network of a trunk, which computes features, and a head, which computes logits.

    The trunk is a sequence of blocks. Any number of them, from the first on, can be frozen: their weights then get no
    gradient, and their batch normalisation keeps its statistics, also while the rest is training.

    Attributes:
        preprocessing: from a decoded image to the input.
        classes: class of each logit, in order.
        frozen: number of frozen blocks of the trunk.
        batch_statistics: in training, True if batch normalisation in the trunk normalises by the batch, False if it
            keeps its running statistics.
        temperature: divisor of logits for calibrated probabilities; `forward` does not divide by it.
    """

    def __init__(
        self, trunk: nn.Sequential, head: nn.Sequential, preprocessing: Preprocessing, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.preprocessing = preprocessing
        self.classes = classes
        self.frozen = 0
        self.batch_statistics = True
        self.temperature = 1.0
        for layer in trunk.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(_lay_out_gradient)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Logits [B, K] of images [B, 3, H, W], or of the outputs of the blocks before block `first`."""
        logits_BK: Tensor = self.head(self.trunk[first:](x) if first else self.trunk(x))
        return logits_BK

    def blocks_before(self, part: str) -> int:
        """Number of frozen blocks if `part` is trained: head, last-block, last-N or all.

        Raises:
            ConfigError: the trunk has too few blocks.
        """
        if part in {"head", "all"}:
            return len(self.trunk) if part == "head" else 0
        trained = 1 if part == "last-block" else int(part.removeprefix("last-"))
        if trained >= len(self.trunk):
            raise ConfigError(
                f"part {part!r}: this network has {counted(len(self.trunk), 'block')}. Use part head, all, or "
                f"last-N with N up to {len(self.trunk) - 1}."
                if len(self.trunk) > 1
                else f"part {part!r}: this network cannot be cut into blocks. Use part head or all."
            )
        return len(self.trunk) - trained

    def learn(self, part: str, *, batch_statistics: bool = True) -> None:
        """Freeze the blocks before `part`, and unfreeze the rest; without batch statistics, the trunk keeps its own."""
        self.frozen = self.blocks_before(part)
        self.batch_statistics = batch_statistics
        for number, block in enumerate(self.trunk):
            block.requires_grad_(number >= self.frozen)
        self.head.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as in PyTorch; frozen blocks, and layers that keep their statistics, stay in `eval`."""
        super().train(mode)
        for block in self.trunk[: self.frozen]:
            block.eval()
        if not self.batch_statistics:
            for layer in self.trunk.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self


def _lay_out_gradient(_layer: nn.Module, _inputs: Any, output_BCHW: Tensor) -> None:
    """Set the memory layout of the gradient of a map to that of the map, channels-last.

    The gradient of an average has another layout, with which the backward pass of batch normalisation takes fifteen
    times as long on a CPU.
    """
    if output_BCHW.requires_grad:
        output_BCHW.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def _channels_last(gradient_BCHW: Tensor) -> Tensor:
    return gradient_BCHW.contiguous(memory_format=torch.channels_last)
