"""Images in memory, for training, evaluation and prediction alike: arrays, tensors, PIL images, bytes, files, paths.

Arrays become BMP files, and other images keep the bytes of their files, so that all pass the same decoder.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loupe.data.sources.bmp import MAX_CHUNK_BYTES, bmp_chunks
from loupe.data.sources.pixel_arrays import as_array, images_of, is_array, to_uint8
from loupe.data.table import numbered
from loupe.errors import DataError

Images = NDArray[np.uint8] | list[str | bytes]
"""uint8 [N, H, W] or [N, H, W, C]; or for each image its path, or the bytes of its file."""

ALLOWED = (
    "Images are paths, file: URLs, arrays or tensors [H, W], [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels, PIL "
    "images, bytes of image files, files opened in binary mode, or a list of these"
)
CHUNK_BYTES = MAX_CHUNK_BYTES // 2


def read(images: Any, name: str, *, one: bool) -> Images:
    """Read images: all of one array, or the items of a list, which may be mixed.

    Args:
        images: what `ALLOWED` says; a list may also hold arrays of several images.
        name: name in errors.
        one: a single image is allowed too, and [H, W] and [H, W, C] are one; otherwise there is one for each label.

    Raises:
        DataError: something is no image; the message says what is allowed.
    """
    if not isinstance(images, list | tuple | Image.Image) and is_array(images):
        array = as_array(images, name)
        if not (array.ndim == 1 and array.dtype.kind in "OU"):  # a list in the form of an array
            return to_uint8([images_of(array, name, one=one, tensor=hasattr(images, "detach"))], [name])[0]
        images = array.tolist()
    if _is_single(images):
        if not one:
            raise DataError(
                f"{name}: one {type(images).__name__} is given where a list of images is needed. {ALLOWED}."
            )
        images = [images]
    if not isinstance(images, Iterable) or isinstance(images, Mapping | Set):
        raise DataError(f"{name}: expected an image or a list of images; got {_kind(images)}. {ALLOWED}.")
    return _joined(list(images), name)


def chunks(images: Images, prefix: str, separator: str = "#") -> Iterator[tuple[Any, pa.Array]]:
    """Names and bytes of the images, in chunks that are small enough for Arrow; a path has null for bytes."""
    if isinstance(images, np.ndarray):
        start = 0
        for data in bmp_chunks(images):
            yield numbered(prefix, start, start + len(data), separator), data
            start += len(data)
        return
    names: list[str] = []
    files: list[bytes | None] = []
    size = 0
    for number, item in enumerate(images):
        names.append(item if isinstance(item, str) else f"{prefix}{separator}{number}")
        files.append(None if isinstance(item, str) else item)
        size += len(item)
        if size > CHUNK_BYTES or number == len(images) - 1:
            yield names, pa.array(files, pa.binary())
            names, files, size = [], [], 0


def local_path(text: str) -> str:
    """Path of a `file:` URL; any other text is returned unchanged.

    Raises:
        DataError: the URL names another host.
    """
    if text[:5].lower() != "file:" or os.path.lexists(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise DataError(f"{text}: not a URL: {error}.") from None
    if parts.netloc.lower() not in ("", "localhost"):
        raise DataError(
            f"{text}: it names the host {parts.netloc!r}. Give a file of this machine, as file:///folder/a.png."
        )
    return url2pathname(parts.path)


def _is_single(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or _is_file(value)


def _is_file(value: Any) -> bool:
    return callable(getattr(value, "read", None))


def _joined(items: list[Any], name: str) -> Images:
    """Pixels if all items are arrays of one shape; otherwise paths and bytes, in the order of the items."""
    if not items:
        raise DataError(f"{name}: no images are given. {ALLOWED}.")
    names = [f"{name}: image {i}" for i in range(len(items))]
    singles = {i for i, item in enumerate(items) if _is_single(item)}
    arrays = [i for i in range(len(items)) if i not in singles]
    for i in arrays:
        if not is_array(items[i]):
            raise DataError(f"{names[i]}: expected an image; got {_kind(items[i])}. {ALLOWED}.")
    found = [
        images_of(as_array(items[i], names[i]), names[i], one=True, tensor=hasattr(items[i], "detach")) for i in arrays
    ]
    pixels = dict(zip(arrays, to_uint8(found, [names[i] for i in arrays]), strict=True))
    if not singles and len({part.shape[1:] for part in pixels.values()}) == 1:
        return np.concatenate([*pixels.values()])
    entries: list[str | bytes] = []
    for i, item in enumerate(items):
        entries += _bmp_files(pixels[i]) if i in pixels else [_entry(item, names[i])]
    return entries


def _kind(item: Any) -> str:
    return "None" if item is None else f"the type {type(item).__name__}"


def _bmp_files(pixels: NDArray[np.uint8]) -> list[bytes]:
    return [bytes(file.as_py()) for data in bmp_chunks(pixels) for file in data]


def _entry(item: Any, name: str) -> str | bytes:
    """Path, or bytes of an image file."""
    if isinstance(item, str | os.PathLike):
        return local_path(os.fsdecode(item))
    if isinstance(item, Image.Image):
        return _from_pil(item, name)
    return _read_file(item, name) if _is_file(item) else bytes(item)


def _read_file(file: Any, name: str) -> bytes:
    try:
        data = file.read()
        at_end = not data and file.seekable() and file.tell() > 0
    except Exception as error:  # a closed file, a file for writing, a lost connection
        raise DataError(f"{name}: the file cannot be read: {error}.") from None
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"{name}: the file gives {type(data).__name__}. Open it in binary mode: open(path, 'rb').")
    if at_end:
        raise DataError(f"{name}: the file is at its end. Call seek(0) before.")
    return bytes(data)


def _from_pil(image: Image.Image, name: str) -> bytes:
    """BMP file of a common image, as of an array; of other modes a file that keeps what they are."""
    try:
        upright = ImageOps.exif_transpose(image)
        upright.load()
    except Exception as error:  # a damaged file, which Pillow reads only now, can make it raise nearly anything
        raise DataError(f"{name}: a PIL image cannot be read: {error}.") from None
    if 0 in upright.size:
        raise DataError(f"{name}: a PIL image of {upright.width} x {upright.height} px has no pixels.")
    if upright.mode in {"RGB", "L", "RGBA"} and "transparency" not in upright.info:
        return _bmp_files(np.asarray(upright)[None])[0]
    buffer = BytesIO()
    try:
        upright.save(buffer, "TIFF" if upright.mode in {"CMYK", "YCbCr"} else "PNG")
    except Exception:
        raise DataError(
            f"{name}: a PIL image of mode {image.mode} cannot be classified. Convert it to RGB first."
        ) from None
    return buffer.getvalue()
