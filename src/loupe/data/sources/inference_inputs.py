"""Inputs for prediction: paths, arrays and PIL images, all through the same decoder."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from loupe.data.sources.folders import from_paths
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError, ImageError

Pictures = str | Path | np.ndarray | Image.Image | Iterable[str | Path | np.ndarray | Image.Image]


def table_of(images: Pictures) -> ImageTable:
    """Table of unlabelled images for prediction.

    Raises:
        DataError: an input is not an image, or a path matches nothing.
    """
    if isinstance(images, str | Path):
        return from_paths([images])
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and _is_one(images)):
        images = [images]
    items = list(images)
    paths = [item for item in items if isinstance(item, str | Path)]
    if len(paths) == len(items):
        return from_paths(paths, unique=False)
    data = [_encoded(item) for item in items]
    rows = make_rows(n=len(data), data=data, path=[f"image {number}" for number in range(len(data))], label=None)
    return ImageTable(rows, classes=(), name="images")


def _encoded(item: Any) -> bytes:
    """Bytes of an image file for one input."""
    if isinstance(item, str | Path):
        try:
            return Path(item).read_bytes()
        except OSError as error:
            raise ImageError(item, f"cannot be read: {error.strerror or error}") from None
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or not _is_one(item) or not item.size:
            raise DataError(f"an image must be a uint8 array [H, W, 3] or [H, W]; got {item.dtype} {list(item.shape)}.")
        item = Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
    if not isinstance(item, Image.Image):
        raise DataError(f"an image must be a path, a uint8 array or a PIL image; got {type(item).__name__}.")
    buffer = BytesIO()
    try:
        item.load()
    except (OSError, SyntaxError) as error:  # the latter of a damaged PNG
        raise DataError(f"a PIL image cannot be read: {error}.") from None
    try:
        ImageOps.exif_transpose(item).save(buffer, "TIFF" if item.mode in {"CMYK", "YCbCr"} else "PNG")
    except OSError:
        raise DataError(f"a PIL image of mode {item.mode} cannot be classified. Convert it to RGB first.") from None
    return buffer.getvalue()


def _is_one(array: np.ndarray) -> bool:
    """True for the array of a single image, [H, W] or [H, W, channels]."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
