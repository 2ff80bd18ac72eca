"""Values of stored weights: those that no trained network has are refused before anything is computed with them.

Counters, and the scales and shifts of normalization layers, may be zero; additive masks may be infinite.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loupe.errors import counted

_COMPARED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # others are converted first


def defect(tensors: Mapping[str, Tensor], network: nn.Module | None = None) -> str | None:
    """Reason why tensors cannot be the weights of a trained network, with the name of a tensor; None if they can.

    Args:
        tensors: weights by name.
        network: network with these names, on any device; its first layer must not be zero.
    """
    if wrong := non_finite(tensors):
        return wrong
    matrices = [name for name, tensor in tensors.items() if tensor.ndim > 1 and _has_numbers(tensor)]
    zero = [name for name in matrices if _extent(tensors[name]) == (0, 0)]
    if zero and len(zero) == len(matrices):
        return f"{zero[0]} is zero" if len(zero) == 1 else f"{zero[0]} and all other weights of its layers are zero"
    first = None if network is None else _first_layer(network)
    if first in zero:
        return f"{first}, the first layer, is zero, so that all images look the same to it"
    return None


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """First tensor with NaN or infinite values, and their number; None if there is none."""
    for name, tensor in tensors.items():
        if not _has_numbers(tensor):
            continue
        low, high = _extent(tensor)
        is_mask = "mask" in name.rpartition(".")[2]
        if math.isnan(low) or (not is_mask and math.isinf(max(-low, high))):
            return f"{name} has {_wrong(tensor)}"
    return None


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


def _extent(tensor: Tensor) -> tuple[float, float]:
    """Lowest and highest value; both are NaN if one value is."""
    low, high = (tensor if tensor.dtype in _COMPARED else tensor.float()).aminmax()
    return low.item(), high.item()


def _wrong(tensor: Tensor) -> str:
    values = tensor.float()
    nan, wrong = int(values.isnan().sum()), int((~values.isfinite()).sum())
    what = "NaN" if nan == wrong else "infinite" if not nan else "NaN or infinite"
    return f"{counted(wrong, 'value')} of {values.numel():,} that {'is' if wrong == 1 else 'are'} {what}"


def _first_layer(network: nn.Module) -> str | None:
    """Name of the weights of the first convolution or linear layer; None without any."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return next((f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, layers)), None)
