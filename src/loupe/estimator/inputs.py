"""Inputs of the scikit-learn estimator: images in any form as a table, or a table of numbers."""

import os
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import issparse

from loupe.data.sources.arrays import from_arrays
from loupe.data.sources.pixel_arrays import is_array
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError

Array = npt.NDArray[Any]
ImageShape = tuple[int, ...] | None

SHAPES = "Give (height, width), or (height, width, channels) with 1, 3 or 4 channels."


def checked_shape(image_shape: Any) -> ImageShape:
    """Shape of an image in a row of a flat array, as a tuple.

    Raises:
        ConfigError: it is no shape of an image.
    """
    if image_shape is None:
        return None
    is_sequence = isinstance(image_shape, Sequence) and not isinstance(image_shape, str)
    shape = tuple(image_shape) if is_sequence else ()
    whole = all(isinstance(side, int | np.integer) and side > 0 for side in shape)
    if len(shape) not in (2, 3) or not whole or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ConfigError(f"image_shape={image_shape!r}: no shape of an image. {SHAPES}")
    return tuple(int(side) for side in shape)


def are_images(x: Any, image_shape: ImageShape) -> bool:
    """True for images, or rows of their pixels; False for what scikit-learn takes for a table of numbers."""
    if image_shape is not None:
        return True
    if issparse(x):
        return False
    if isinstance(x, list | tuple):
        return bool(x) and _is_image(x[0])
    shape, kind = getattr(x, "shape", None), getattr(getattr(x, "dtype", None), "kind", "")
    if shape is None or not is_array(x):
        return isinstance(x, str | bytes | os.PathLike | Image.Image)
    is_list = len(shape) == 1 and shape[0] > 0 and (kind in "OU" or not kind or not isinstance(x, np.ndarray))
    return len(shape) in (3, 4) or (is_list and _is_image(np.asarray(x, dtype=object).tolist()[0]))


def _is_image(item: Any) -> bool:
    if isinstance(item, str | bytes | bytearray | os.PathLike | Image.Image) or callable(getattr(item, "read", None)):
        return True
    return len(getattr(item, "shape", np.shape(item) if isinstance(item, list | tuple) else ())) >= 2


def has_unit_range(x: Any) -> bool | None:
    """True for floats from 0 to 1, False for floats beyond, None for other images: read once, from the training."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")) or len(x.shape) < 2:
        return None
    array = np.asarray(x)
    return bool(array.max() <= 1) if array.dtype.kind == "f" and array.size else None


def table_of(
    x: Any,
    image_shape: ImageShape,
    unit: bool | None,
    label_N: npt.NDArray[np.int64] | None = None,
    classes: tuple[str, ...] = ("0",),
) -> ImageTable:
    """Table of images, one for each item.

    Args:
        x: array [N, H, W] or [N, H, W, C]; a list of paths, PIL images or arrays; or, with `image_shape`, an array of
            rows of pixels.
        unit: range of floats in the training, of `has_unit_range`, which holds for all images after it.
        label_N: index of the class of each image; None where it is not known, and not used.

    Raises:
        DataError: something else.
    """
    name, shape = "X", getattr(x, "shape", None)
    is_flat = image_shape is not None and not are_images(x, None)
    images = _unflattened(np.asarray(x), image_shape, name) if is_flat and image_shape is not None else x
    if shape is not None and len(shape) == 1 and not isinstance(x, np.ndarray):
        images = list(x)  # a column of paths
    if unit is not None and hasattr(images, "dtype") and getattr(images.dtype, "kind", "") == "f":
        images = _scaled(np.asarray(images), name, unit=unit)
    count = len(images) if hasattr(images, "__len__") and not isinstance(images, str | bytes) else 1
    labels_N = np.zeros(count, np.int64) if label_N is None else label_N
    return from_arrays(images, labels_N, classes=classes, name=name)


def _unflattened(array: Array, image_shape: tuple[int, ...], name: str) -> Array:
    if array.ndim != 2 or array.shape[1] != prod(image_shape) or array.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: image_shape={image_shape} needs rows of {prod(image_shape):,} numbers, or images; got "
            f"{array.dtype} {list(array.shape)}."
        )
    return array.reshape(len(array), *image_shape)


def _scaled(array: Array, name: str, *, unit: bool) -> Array:
    """Floats as pixels, in the range of the training images: a few dark images alone would be taken for another."""
    most = 1 if unit else 255
    if not np.isfinite(array).all() or array.min(initial=0) < 0 or array.max(initial=0) > most:
        raise DataError(f"{name}: pixels must be finite, from 0 to {most} as in fit. Give them in the range of fit.")
    return np.rint(array.astype(np.float64) * (255 if unit else 1)).astype(np.uint8)
