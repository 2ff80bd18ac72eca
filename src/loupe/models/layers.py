"""Layers missing from PyTorch, or faster here."""

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary


class Flatten(nn.Module):
    """Flattening of [B, C, H, W] to [B, H·W·C]: Keras's order, and a view if the input is channels-last."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.permute(0, 2, 3, 1).flatten(1)


class AveragePool(nn.Module):
    """Mean over all positions: [B, C, H, W] to [B, C]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean(dim=(2, 3))


class MaxPool(nn.Module):
    """Maximum over all positions: [B, C, H, W] to [B, C]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flatten(2).amax(dim=2)


class Dropout(nn.Dropout):
    """Dropout from 16 random bits for each value in place of a float: on a CPU the mask takes a tenth of the time.

    The rate is exact to 1/131,072, and values are scaled by the rounded rate, so that the mean is exact. On other
    devices this is PyTorch's dropout.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or dropped == 0 or input.device.type != "cpu":
            return super().forward(input)
        return drop(input, dropped)


def drop(input: Tensor, dropped: int, generator: torch.Generator | None = None) -> Tensor:
    """Input with `dropped` of 65,536 values set to 0 and the others scaled, [B, ...]; modes of PyTorch see the call."""
    if has_torch_function_unary(input):
        dropout: Tensor = handle_torch_function(drop, (input,), input, dropped, generator)
        return dropout
    values = input.numel()
    words = torch.empty((values + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[:values]
    # The mask has the memory layout of the input, as multiplication is slow otherwise.
    inner = input.permute(0, 2, 3, 1) if input.ndim == 4 else input
    mask = torch.empty(inner.shape, dtype=input.dtype)
    torch.ge(bits.view(inner.shape), dropped - 2**15, out=mask)
    mask.mul_(2**16 / (2**16 - dropped))
    return input * (mask.permute(0, 3, 1, 2) if input.ndim == 4 else mask)


class TokenPool(nn.Module):
    """Pooling of the tokens of a vision transformer, [B, N, C], to [B, C].

    Attributes:
        prefix: number of tokens before those of the patches: the class token, and registers.
        reads_patches: true if it reads the tokens of the patches, not the class token alone.
    """

    prefix: int
    reads_patches: bool
