"""Shares of a batch, each computed by a process of its own, with the random numbers of the whole batch.

A share has every n-th image of the batch. What layers draw at random is drawn for the whole batch, and each process
takes its rows: its masks are those that one process draws for the same images, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loupe.errors import ConfigError
from loupe.models.layers import drop
from loupe.models.slices import BatchPart, Moments

Pair = tuple[Tensor, Tensor]
# Functions that multiply their input by random numbers; all but `drop` take (input, p, training, inplace).
DROPPING = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, drop})
FILLING = frozenset(
    {Tensor.bernoulli_, Tensor.random_, Tensor.uniform_, Tensor.normal_, Tensor.exponential_, Tensor.cauchy_}
)
CREATING: dict[Any, Callable[[Tensor], Tensor]] = {torch.rand: Tensor.uniform_, torch.randn: Tensor.normal_}
LIKE: dict[Any, Callable[[Tensor], Tensor]] = {torch.rand_like: Tensor.uniform_, torch.randn_like: Tensor.normal_}
# Functions that draw inside PyTorch, and the argument with which they do: its name and position.
REFUSED: dict[Any, tuple[str, int]] = {
    F.alpha_dropout: ("training", 2),
    F.feature_alpha_dropout: ("training", 2),
    F.rrelu: ("training", 3),
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
}


class Share(BatchPart):
    """Context in which a process computes the images number `index`, `index + count`, ... of a batch.

    Random tensors whose first dimension is that of the images, or several rows for each of them, are the rows of those
    of the whole batch; others are the same in all processes. A sum over the masks of a batch, as DropBlock takes one,
    is that of the share. Layers of batch normalisation without running statistics normalise by the share.
    """

    def __init__(self, index: int, count: int, batch_images: int, gather: Callable[[Tensor], list[Tensor]] | None):
        """Take the number of this process, that of all processes, and the images of the whole batch.

        Args:
            gather: function that returns the tensors of all processes, in their order; None: batch normalisation is
                over the share.
        """
        self._rows = slice(index, None, count)
        self._batch_images = batch_images
        self._each = [len(range(number, batch_images, count)) for number in range(count)]
        self._gather = gather
        super().__init__(self._each[index])

    def exchange(self, value: Pair) -> list[Pair]:
        assert self._gather is not None
        return [(first, second) for first, second in self._gather(torch.stack(value))]

    def moments(self, own: Moments) -> list[Moments]:
        """Moments of all shares; their numbers of values are known from their numbers of images."""
        values, mean_C, var_C = own
        pairs = self.exchange((mean_C, var_C))
        return [(values // self.images * images, *pair) for images, pair in zip(self._each, pairs, strict=True)]

    def is_synchronised(self, input: Tensor, running_mean: Tensor | None) -> bool:
        """True for layers with running statistics; standardised weights have none, and no images."""
        return self._gather is not None and running_mean is not None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.batch_norm:
            return self.batch_norm(*args, **kwargs)
        if func in DROPPING:
            return self._drop(func, *args, **kwargs)
        if func in FILLING and self._is_of_images(args[0].shape):
            whole = self._whole(args[0])
            func(whole, *args[1:], **kwargs)
            return args[0].copy_(self._mine(whole))
        if func in CREATING or func in LIKE:
            return self._created(func, *args, **kwargs)
        if func in REFUSED:
            _refuse(func, args, kwargs)
        return func(*args, **kwargs)

    def _drop(self, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if func is not drop:
            p, training, inplace = _dropout_arguments(*args, **kwargs)
            if not training or p == 0:
                return input
            args, kwargs = (p, True, False), {}
        with torch.no_grad():
            mask = self._mine(func(self._whole(input).fill_(1), *args, **kwargs))
        return input.mul_(mask) if func is not drop and inplace else input * mask

    def _created(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Random tensor of a function that creates one; a first one that is drawn from no generator has its shape."""
        empty = torch.empty_like if func in LIKE else torch.empty
        found: Tensor = empty(*args, **{key: value for key, value in kwargs.items() if key != "generator"})
        if not self._is_of_images(found.shape):
            return func(*args, **kwargs)
        with torch.no_grad():
            whole = self._whole(found)
            (CREATING | LIKE)[func](whole)
            found.copy_(self._mine(whole))
        return found

    def _is_of_images(self, shape: Sequence[int]) -> bool:
        """True for a tensor of one row, or of several, for each image."""
        if len(shape) == 1:
            return shape[0] == self.images
        return len(shape) > 1 and shape[0] > 0 and shape[0] % self.images == 0

    def _whole(self, share: Tensor) -> Tensor:
        """Tensor for the whole batch in the memory layout of that of the share, without values."""
        rows = len(share) // self.images
        layout = sorted(range(1, share.ndim), key=share.stride, reverse=True)
        before = sum(share.stride(dim) > share.stride(0) for dim in layout) if len(share) > 1 else 0
        layout.insert(before, 0)
        shape = (rows * self._batch_images, *share.shape[1:])
        return torch.empty_permuted(shape, layout, dtype=share.dtype, device=share.device)

    def _mine(self, whole: Tensor) -> Tensor:
        """Rows of this share of a tensor of the whole batch."""
        if len(whole) == self._batch_images:
            return whole[self._rows]
        return whole.view(self._batch_images, -1, *whole.shape[1:])[self._rows].flatten(0, 1)


def _dropout_arguments(p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[float, bool, bool]:
    return p, training, inplace


def _refuse(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a function that draws inside PyTorch.

    Raises:
        ConfigError: it draws.
    """
    name, position = REFUSED[func]
    given = args[position] if position < len(args) else kwargs.get(name)
    if given and kwargs.get("training", True):
        raise ConfigError(
            f"{func.__name__} draws its random numbers inside PyTorch, so that several processes cannot draw those of "
            "one. Train in one process, or take another network."
        )
