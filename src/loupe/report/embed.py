"""Pictures embedded in a page as data URIs, so that it needs no other file: one encoding for every page."""

import io
from base64 import b64encode

import numpy as np
from PIL import Image

from loupe.data.pixels.decode import decode
from loupe.data.table import ImageTable

LARGEST_PX = 160  # larger pictures are reduced to it
LOSSLESS_PX = 64  # up to here every pixel is kept
SIGNATURES = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


def encode(pixels: np.ndarray) -> bytes:
    """Pixels as WebP: exact for small images, so that every pixel can be seen; larger ones reduced to `LARGEST_PX`.

    Exact WebP at its fastest takes 28 % fewer bytes than PNG of images of 32 px, in half the time.

    Args:
        pixels: uint8 [H, W, 3].
    """
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_PX:
        image.save(buffer, "WEBP", lossless=True, method=0)
    else:
        image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """An encoded picture as the source of an `img` element.

    Raises:
        ValueError: it is neither PNG, JPEG nor WebP.
    """
    kinds = [kind for signature, kind in SIGNATURES.items() if data.startswith(signature)]
    if not kinds:
        raise ValueError("a picture is neither PNG, JPEG nor WebP")
    return f"data:image/{kinds[0]};base64,{b64encode(data).decode()}"


def source_of_pixels(pixels: np.ndarray) -> str:
    """Pixels, uint8 [H, W, 3], as the source of an `img` element."""
    return data_uri(encode(pixels))


def source_of_image(table: ImageTable, row: int) -> str:
    """An image of a table, uncropped, as the source of an `img` element.

    Raises:
        ImageError: it cannot be decoded.
    """
    return source_of_pixels(np.asarray(decode(table.encoded(row), table.paths[row], at_least_px=LARGEST_PX)))
