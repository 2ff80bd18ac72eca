"""Slices of a batch, each computed by a thread of its own; batch normalisation is over the whole batch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Moments = tuple[int, Tensor, Tensor]  # number of values, mean and variance of each channel
_local = threading.local()


class Meeting:
    """Exchange between the threads of all slices, which sleep until the last one has come.

    Attributes:
        slices: number of them.
    """

    def __init__(self, slices: int) -> None:
        self.slices = slices
        self._barrier = threading.Barrier(slices)
        # Two tables in turn: while one is filled, a late thread still reads the other.
        self._tables: tuple[list[Any], list[Any]] = ([None] * slices, [None] * slices)

    def exchange(self, index: int, turn: int, value: Any) -> list[Any]:
        """Values of all slices, in their order; `turn` is the number of exchanges of this slice before."""
        table = self._tables[turn % 2]
        table[index] = value
        self._barrier.wait()
        return table.copy()

    def abort(self) -> None:
        """End the waiting of all threads with a BrokenBarrierError, as one of them failed."""
        self._barrier.abort()


class Slice:
    """Slice of a batch, as the layers that need to know of it see it.

    Attributes:
        index: number of the slice, from 0.
        generator: random numbers of this slice.
    """

    def __init__(self, index: int, meeting: Meeting, seed: int) -> None:
        self.index = index
        self.generator = torch.Generator().manual_seed(seed)
        self._meeting = meeting
        self._turn = 0

    def exchange(self, value: Any) -> list[Any]:
        """Values of all slices, in their order."""
        self._turn += 1
        return self._meeting.exchange(self.index, self._turn, value)


def current() -> Slice | None:
    """Slice that this thread computes; None outside of one."""
    return getattr(_local, "slice", None)


@contextmanager
def computing(part: Slice) -> Iterator[None]:
    """Context in which layers compute this slice in this thread."""
    _local.slice = part
    try:
        yield
    finally:
        _local.slice = None


class BatchNorm(torch.autograd.Function):
    """Batch normalisation of a slice [B, C, H, W] by the mean and variance of the whole batch.

    Returns the normalised slice, and the mean and the variance (divided by the number of values less 1) of the batch.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3; the moments are merged as in Chan, Golub and LeVeque
    1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, part: Slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        values, mean_C, var_C = merged(part.exchange(_moments(x_BCHW, weight_C)))
        y_BCHW = torch.native_batch_norm(x_BCHW, weight_C, bias_C, mean_C, var_C, False, 0.0, epsilon)[0]
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, var_C)
        ctx.values, ctx.epsilon, ctx.part = values, epsilon, part
        unbiased_C = var_C * (values / max(values - 1, 1))
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        return y_BCHW, mean_C, unbiased_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, mean_C, var_C = ctx.saved_tensors
        gradient_BCHW, inverse_C = gradients[0], (var_C + ctx.epsilon).rsqrt()
        _, weight_gradient_C, bias_gradient_C = torch.ops.aten.native_batch_norm_backward(
            gradient_BCHW, x_BCHW, weight_C, mean_C, var_C, None, None, False, ctx.epsilon, [False, True, True]
        )
        everywhere = ctx.part.exchange((weight_gradient_C, bias_gradient_C))
        along_C, shift_C = (torch.stack(sums).sum(0) / ctx.values for sums in zip(*everywhere, strict=True))
        # weight / deviation * (gradient - its mean - normalised x * mean of gradient * normalised x)
        scale_C = weight_C * inverse_C
        slope_C = -scale_C * inverse_C * along_C
        offset_C = -scale_C * shift_C - slope_C * mean_C
        scale, slope, offset = (row_C.to(x_BCHW.dtype).view(1, -1, 1, 1) for row_C in (scale_C, slope_C, offset_C))
        x_gradient_BCHW = torch.addcmul(offset, x_BCHW, slope).addcmul_(gradient_BCHW, scale)
        return x_gradient_BCHW, weight_gradient_C, bias_gradient_C, None, None


def _moments(x_BCHW: Tensor, like_C: Tensor) -> Moments:
    """Number of values, mean and variance of each channel; of reduced precision, the moments are in fp32."""
    mean_C, var_C = torch.ops.aten.batch_norm_update_stats(
        x_BCHW, torch.zeros_like(like_C), torch.zeros_like(like_C), 0.0
    )
    return x_BCHW.numel() // x_BCHW.shape[1], mean_C, var_C


def merged(parts: list[Moments]) -> Moments:
    """Moments of all values together."""
    values = sum(count for count, _, _ in parts)
    mean_C = torch.stack([mean_C * (count / values) for count, mean_C, _ in parts]).sum(0)
    squares = [(var_C + (part_C - mean_C).square()) * (count / values) for count, part_C, var_C in parts]
    return values, mean_C, torch.stack(squares).sum(0)
