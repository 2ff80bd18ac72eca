"""Arrays and tensors as uint8 pixels: shapes and ranges that could mean two things are refused, with what to type."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import DataError

CHANNELS = (1, 3, 4)
DARK = 8
"""Floats above 1 of which none reaches this, and which are no whole numbers, may be of either range."""
_CHUNK_VALUES = 2**22


def is_array(value: Any) -> bool:
    """True for NumPy arrays, tensors of any library, and nested lists of numbers."""
    return isinstance(value, np.ndarray | list | tuple) or hasattr(value, "__array__")


def as_array(value: Any, name: str) -> NDArray[Any]:
    """NumPy array of an array or tensor, also of a tensor on a GPU, with gradients, or in bfloat16.

    Raises:
        DataError: it cannot be converted, for example lists of different lengths.
    """
    try:
        if hasattr(value, "detach"):  # PyTorch
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
        return np.asarray(value)
    except Exception as error:  # each library has its own
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: the {type(value).__name__} cannot be converted to an array: {reason}.") from None


def images_of(array: NDArray[Any], name: str, *, one: bool, tensor: bool = False) -> NDArray[Any]:
    """Images as [N, H, W] or [N, H, W, C].

    Args:
        array: images.
        name: name in errors.
        one: [H, W] and [H, W, C] are one image each; otherwise the first axis always counts images.
        tensor: the error shows how to transpose a PyTorch tensor.

    Raises:
        DataError: the shape is another, or channels come first.
    """
    shape, move = list(array.shape), "permute" if tensor else "transpose"
    if array.size == 0:
        raise DataError(f"{name}: there are no images in the array of shape {shape}.")
    if (array.ndim == 4 and shape[3] in CHANNELS) or (array.ndim == 3 and not one):
        return array
    if array.ndim == 4 and shape[1] in CHANNELS:
        raise DataError(
            f"{name}: channels must be last; got {shape}. These look channels-first: give x.{move}(0, 2, 3, 1)."
        )
    if one and (array.ndim == 2 or (array.ndim == 3 and shape[2] in CHANNELS)):
        return array[None]
    if array.ndim == 3 and shape[0] in CHANNELS[1:]:
        raise DataError(
            f"{name}: channels must be last; got {shape}. If it is one image with the channels first, give "
            f"x.{move}(1, 2, 0). If these are {shape[0]} grey images, give x[..., None]."
        )
    if array.ndim == 3:
        return array
    single = "[H, W], [H, W, C], " if one else ""
    raise DataError(
        f"{name}: images must be an array {single}[N, H, W] or [N, H, W, C] with 1, 3 or 4 channels; got {shape}."
    )


def to_uint8(arrays: Sequence[NDArray[Any]], names: Sequence[str]) -> list[NDArray[np.uint8]]:
    """Pixels from 0 to 255 of arrays that were given together.

    Integers are pixels from 0 to 255, and booleans black and white. Floats are from 0 to 1 if none is above 1; from 0
    to 255 if they are whole numbers, or reach `DARK`.

    Raises:
        DataError: values are outside of these ranges, or some arrays have floats to 1 and others to 255.
    """
    is_unit = {
        name: found for array, name in zip(arrays, names, strict=True) if (found := _range(array, name)) is not None
    }
    if len({*is_unit.values()}) > 1:
        unit = next(name for name, found in is_unit.items() if found)
        other = next(name for name, found in is_unit.items() if not found)
        raise DataError(
            f"{unit} has floats from 0 to 1, and {other} from 0 to 255. Give all of them in one range, best as uint8."
        )
    factors = (
        255 if array.dtype == np.bool_ or is_unit.get(name) else 1 for array, name in zip(arrays, names, strict=True)
    )
    return [_scaled(array, factor) for array, factor in zip(arrays, factors, strict=True)]


def _range(array: NDArray[Any], name: str) -> bool | None:
    """True for floats from 0 to 1, False for floats from 0 to 255, None for zeros and for other types."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: pixels must be numbers from 0 to 255; got the type {array.dtype}.")
    if array.dtype.kind == "b":
        return None
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name}: pixels must be finite; there are NaN or infinite values.")
    if low < 0 or high > 255:
        raise DataError(
            f"{name}: pixels must be 0 to 255, or floats from 0 to 1; got {low:g} to {high:g}. Give the pixels before "
            "they were normalised, or scale them to uint8. Loupe normalises them itself."
        )
    if array.dtype.kind != "f" or high == 0:
        return None
    if 1 < high < DARK and not all(np.array_equal(part, np.rint(part)) for part in _parts(array)):
        raise DataError(
            f"{name}: floats to {high:g} may be of the range 0 to 1 or 0 to 255. Give x.clip(0, 1), or "
            "x.round().astype('uint8')."
        )
    return bool(high <= 1)


def _scaled(array: NDArray[Any], factor: int) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        return array.astype(np.uint8) * np.uint8(factor)
    pixels = np.empty(array.shape, np.uint8)
    for target, part in zip(_parts(pixels), _parts(array), strict=True):
        target[...] = np.rint(part.astype(np.float64) * factor)
    return pixels


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of some images at a time, so that temporary arrays stay small."""
    at_once = max(1, _CHUNK_VALUES * len(array) // array.size)
    return (array[start : start + at_once] for start in range(0, len(array), at_once))
