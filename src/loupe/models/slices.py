"""Slices of a batch, each computed by a thread of its own; batch normalisation is over the whole batch."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from loupe.models.layers import drop

Moments = tuple[int, Tensor, Tensor]  # number of values, mean and variance of each channel
# Functions that draw from the generator of all threads, unless they are given another.
DRAWING = frozenset(
    {
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.bernoulli),
        *(Tensor.bernoulli_, Tensor.random_, Tensor.uniform_, Tensor.normal_, Tensor.exponential_),
    }
)
# Layers whose random numbers are drawn inside PyTorch, and one that has another way to the whole batch.
UNSUITABLE = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase, nn.SyncBatchNorm)
PACKAGES = ("torch.nn.", "timm.", "loupe.")


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


class BatchPart(TorchFunctionMode):
    """Context in which a part of a batch is computed, with batch normalisation over the whole batch.

    Attributes:
        images: number of them in the part.
        keeps_statistics: True for a part that updates the running statistics of its network.
    """

    keeps_statistics = True

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def exchange(self, value: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Values of all parts, in their order."""
        raise NotImplementedError

    def moments(self, own: Moments) -> list[Moments]:
        """Moments of all parts, in their order."""
        raise NotImplementedError

    def is_synchronised(self, input: Tensor, running_mean: Tensor | None) -> bool:
        """True for the input of a batch normalisation that is over the whole batch."""
        raise NotImplementedError

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Batch normalisation as `torch.nn.functional.batch_norm`, of a part of the batch."""
        if not training or not self.is_synchronised(input, running_mean):
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        weight = torch.ones(input.shape[1], device=input.device) if weight is None else weight
        bias = torch.zeros_like(weight) if bias is None else bias
        output: Tensor
        output, mean_C, var_C = BatchNorm.apply(input, weight, bias, eps, self)
        if self.keeps_statistics:
            for running_C, value_C in ((running_mean, mean_C), (running_var, var_C)):
                if running_C is not None:
                    running_C.lerp_(value_C, momentum)
        return output


class Slice(BatchPart):
    """Context in which a thread computes a slice of a batch.

    Batch normalisation is that of the whole batch, whose running statistics the first slice updates. Random numbers are
    those of the slice.
    """

    def __init__(self, index: int, images: int, meeting: Meeting, seed: int) -> None:
        super().__init__(images)
        self.keeps_statistics = index == 0
        self._index = index
        self._meeting = meeting
        self._generator = torch.Generator().manual_seed(seed)
        self._turn = 0

    def exchange(self, value: Any) -> list[Any]:
        self._turn += 1
        return self._meeting.exchange(self._index, self._turn, value)

    def moments(self, own: Moments) -> list[Moments]:
        return self.exchange(own)

    def is_synchronised(self, input: Tensor, running_mean: Tensor | None) -> bool:
        return len(input) % self.images == 0  # standardised weights have no images

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self.batch_norm(*args, **kwargs)
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is drop:
            return drop(args[0], args[1], self._generator)
        if func in DRAWING:
            return func(*args, **{**kwargs, "generator": self._generator})
        if func is Tensor.add_ and not self.keeps_statistics and not args[0].is_floating_point():
            return args[0]  # the number of batches that a layer has seen
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return F.dropout(input, p, training, inplace)
        mask = torch.empty_like(input).bernoulli_(1 - p, generator=self._generator).div_(1 - p)
        return input.mul_(mask) if inplace else input * mask


def can_be_sliced(model: nn.Module) -> bool:
    """True if all layers of a network can be computed in slices, and gain by it.

    These are the layers of PyTorch and timm, a few aside. Networks with convolutions of groups lose more in quiet than
    they gain beside other work (results/busy.md).
    """
    layers = [layer for layer in model.modules() if not any(True for _ in layer.children())]
    return all(
        type(layer).__module__.startswith(PACKAGES)
        and (not isinstance(layer, UNSUITABLE) or isinstance(layer, nn.Dropout))
        and getattr(layer, "groups", 1) == 1
        for layer in layers
    )


class BatchNorm(torch.autograd.Function):
    """Batch normalisation of a part of a batch [B, C, ...] by the mean and variance of the whole batch.

    Returns the normalised part, and the mean and the variance (divided by the number of values less 1) of the batch.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3; the moments are merged as in Chan, Golub and LeVeque
    1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, epsilon: float, part: BatchPart
    ) -> tuple[Tensor, Tensor, Tensor]:
        values, mean_C, var_C = merged(part.moments(_moments(x_BCHW, weight_C)))
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
        rows = (1, -1, *[1] * (x_BCHW.ndim - 2))
        scale, slope, offset = (row_C.to(x_BCHW.dtype).view(rows) for row_C in (scale_C, slope_C, offset_C))
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
