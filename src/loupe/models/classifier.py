"""A network with what it takes to use it: the preprocessing of its input and the classes of its output."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError


class Classifier(nn.Module):
    """A trunk that makes features and a head that makes logits.

    The trunk is a sequence of blocks. Any number of them, from the first on, can be frozen: their weights then get no
    gradient, and their batch normalisation keeps its statistics, also while the rest is training.

    Attributes:
        preprocessing: from a decoded image to the input.
        classes: the class of each logit, in order.
        frozen: how many blocks of the trunk are frozen.
        batch_statistics: whether batch normalisation in the trunk normalises by the batch while it trains.
        temperature: what logits are divided by for calibrated probabilities. The network itself gives them undivided.
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
        """Logits, [B, classes], of images [B, 3, H, W], or of what the blocks before number `first` make of them."""
        logits_BK: Tensor = self.head(self.trunk[first:](x) if first else self.trunk(x))
        return logits_BK

    def blocks_before(self, part: str) -> int:
        """Number of frozen blocks if `part` is trained: head, last-block, last-N or all.

        Raises:
            LoupeError: the trunk has fewer blocks.
        """
        if part in {"head", "all"}:
            return len(self.trunk) if part == "head" else 0
        learning = 1 if part == "last-block" else int(part.removeprefix("last-"))
        if learning >= len(self.trunk):
            raise ConfigError(
                f"part {part!r}: this network can be cut into {len(self.trunk)} blocks, so that the last "
                f"{len(self.trunk) - 1} can learn while the others are frozen, or all of them (part all)."
                if len(self.trunk) > 1
                else f"part {part!r}: Loupe does not know how to cut this network. Use part head or all."
            )
        return len(self.trunk) - learning

    def learn(self, part: str, *, batch_statistics: bool = True) -> None:
        """Freezes what lies before `part`, and frees the rest; without batch statistics, none of the trunk's change."""
        self.frozen = self.blocks_before(part)
        self.batch_statistics = batch_statistics
        for number, block in enumerate(self.trunk):
            block.requires_grad_(number >= self.frozen)
        self.head.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but frozen blocks, and statistics that are to stay, are in evaluation mode."""
        super().train(mode)
        for block in self.trunk[: self.frozen]:
            block.eval()
        if not self.batch_statistics:
            for layer in self.trunk.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self


def _lay_out_gradient(_layer: nn.Module, _inputs: Any, made_BCHW: Tensor) -> None:
    """Has the gradient of a map laid out as the map is, channels-last: that of an average over it is not.

    Batch normalisation on a CPU takes fifteen times as long to go back where the two differ.
    """
    if made_BCHW.requires_grad:
        made_BCHW.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def _channels_last(gradient_BCHW: Tensor) -> Tensor:
    return gradient_BCHW.contiguous(memory_format=torch.channels_last)
