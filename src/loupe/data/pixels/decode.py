"""Bytes of an image file to 8-bit RGB pixels: the only decoder, for training, evaluation, prediction and serving
alike.

Accepted by content, never by file name: JPEG, PNG, WebP, BMP, GIF, TIFF. The rules:

* grey and 1-bit become three equal channels; a palette is looked up; CMYK is converted without a colour profile, and
  a CMYK JPEG is read as inverted, which is Adobe's convention (Pillow, ImageMagick and browsers do the same). Colour
  profiles are ignored.
* 16 bits a channel keep their upper byte, so 65535 becomes 255 and 0 stays 0, in grey as in colour; 12-bit grey is
  scaled likewise.
* 32-bit integers, signed 16-bit integers, floats and CIELAB (TIFF) are refused: their range is not stated in the
  file.
* alpha, a transparent palette entry or a transparent colour is laid over white.
* the orientation of EXIF or XMP is applied; a block that cannot be read counts as upright, as in every viewer.
* of animations and multi-page files the first frame is taken.
* more than `MAX_PIXELS` are refused from the header, before any pixel is decoded.
* a large JPEG is reduced by 2, 4 or 8 while it is decoded, as far as both sides keep twice the wanted length.

Damage that a file can reveal (a cut-off file, an impossible header, a wrong checksum in a PNG) is an ImageError. JPEG
has no checksums: a flipped bit inside its data can pass as other pixels.
"""

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from loupe.config.recipe import Interpolation, Resize
from loupe.errors import ConfigError, ImageError

DECODER_VERSION = 1
"""Part of the key of every stored pixel: raise it whenever the same bytes would give other pixels."""

MAX_PIXELS = 178_956_970
"""The most pixels an image may have: 512 MiB as RGB, the limit above which Pillow by default refuses too."""

UInt8Array = npt.NDArray[np.uint8]

# Opened through their classes rather than Image.open, whose limits are globals of the process and whose warnings
# other threads would see; it also takes twice as long.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_METADATA = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_WHITE_IS_ZERO = 0


def load(data: bytes, path: str, *, load_px: int, resize: Resize, interpolation: Interpolation) -> UInt8Array:
    """The image as uint8 [load_px, load_px, 3]: decoded, then made square. Raises ImageError.

    This is the one way in for pixels: the store and prediction both call it, so training and serving cannot disagree.
    """
    return to_square(decode(data, path, at_least_px=load_px), load_px, resize, interpolation)


def decode(data: bytes, path: str, *, at_least_px: int | None = None) -> Image.Image:
    """The first frame, upright, in 8-bit RGB, by the rules above; `path` only names the image in the ImageError.

    `at_least_px` is the side that the caller will resize to; it lets a JPEG of more than twice that be reduced while
    decoding.
    """
    return finish(open_header(data, path), data, path, at_least_px=at_least_px)


def finish(image: ImageFile.ImageFile, data: bytes, path: str, *, at_least_px: int | None = None) -> Image.Image:
    """What `decode` does, for an image that `open_header` opened from the same bytes."""
    try:
        # Asking a smaller JPEG changes nothing, and takes a tenth of the time that decoding a small one does.
        if at_least_px is not None and image.format == "JPEG" and min(image.size) >= 4 * at_least_px:
            image.draft(None, (2 * at_least_px, 2 * at_least_px))
        if image.format == "PNG":
            _verify_png(data)
        image.load()
        return _upright(image, _rgb(image))
    except Exception as error:  # a hostile file can make Pillow raise nearly anything
        raise ImageError(path, _reason(error)) from error


def open_header(data: bytes, path: str) -> ImageFile.ImageFile:
    """The image with its header read and no pixel decoded: `.format`, `.mode`, `.size`. Raises ImageError."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process, so damaged images would pass as grey ones. "
            "Set it to False; --skip-damaged leaves damaged images out."
        )
    name = sniff(data)
    if name is None:
        raise ImageError(path, _not_an_image(data))
    try:
        image = _READERS[name](BytesIO(data), "")
    except Exception as error:  # as above
        raise ImageError(path, f"damaged {name} header: {_reason(error)}") from error
    width_px, height_px = image.size
    if width_px * height_px > MAX_PIXELS:
        raise ImageError(path, f"{width_px} x {height_px} px is above the limit of {MAX_PIXELS:,} pixels")
    return image


def sniff(data: bytes) -> str | None:
    """The name of the format that the first bytes announce, or None where it is not one of the accepted."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for signature, name in _SIGNATURES if data.startswith(signature)), None)


def to_square(image: Image.Image, load_px: int, resize: Resize, interpolation: Interpolation) -> UInt8Array:
    """An RGB image as uint8 [load_px, load_px, 3], antialiased where it shrinks (but for `nearest`).

    `crop`: the shorter side becomes `load_px` and the centre is kept. `pad`: the longer side becomes `load_px` and
    the rest is black, half on each side. `squash`: both sides become `load_px`. An image that has the size already
    keeps its pixels.
    """
    width_px, height_px = image.size
    if resize == "crop":
        side_px = min(width_px, height_px)
        # A whole-pixel corner, so that a crop which needs no scaling moves no pixel by a half.
        left_px, top_px = (width_px - side_px) // 2, (height_px - side_px) // 2
        square = _scale(
            image, (load_px, load_px), interpolation, (left_px, top_px, left_px + side_px, top_px + side_px)
        )
    elif resize == "pad":
        factor = load_px / max(width_px, height_px)
        inner_px = max(1, round(width_px * factor)), max(1, round(height_px * factor))
        square = Image.new("RGB", (load_px, load_px))
        corner_px = (load_px - inner_px[0]) // 2, (load_px - inner_px[1]) // 2
        square.paste(_scale(image, inner_px, interpolation, (0, 0, width_px, height_px)), corner_px)
    else:
        square = _scale(image, (load_px, load_px), interpolation, (0, 0, width_px, height_px))
    return np.asarray(square)


def _scale(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: tuple[int, int, int, int]
) -> Image.Image:
    if (box[2] - box[0], box[3] - box[1]) == size:
        return image if size == image.size else image.crop(box)
    return image.resize(size, _RESAMPLING[interpolation], box=box)


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _over_white(*_upper_bytes(image))
    if image.mode in ("I", "F", "LAB"):
        kind = {"I": "32-bit or signed integers", "F": "floats", "LAB": "CIELAB colours"}[image.mode]
        raise ValueError(f"{kind} have no stated range; convert the image to 8 or 16 bits a channel, grey or RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        # The colour is given with 16 bits, of which the pixels have only the upper byte left.
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return _over_white(rgba.convert("RGB"), rgba.getchannel("A"))


def _over_white(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _upper_bytes(image: ImageFile.ImageFile) -> tuple[Image.Image, Image.Image | None]:
    """16-bit (or, in TIFF, 12-bit) grey as RGB, with the alpha of its transparent level, if it has one."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    level_HW = np.asarray(image).astype(np.uint16)
    grey_HW = (level_HW >> (bits - 8)).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        grey_HW = 255 - grey_HW
    rgb = Image.fromarray(grey_HW).convert("RGB")
    clear = image.info.get("transparency")
    if clear is None:
        return rgb, None
    return rgb, Image.fromarray(np.where(level_HW == clear, 0, 255).astype(np.uint8))


def _upright(image: ImageFile.ImageFile, rgb: Image.Image) -> Image.Image:
    # Most images carry no metadata, and asking takes longer than decoding a small one. TIFF is turned by Pillow as it
    # loads.
    if image.format == "TIFF" or _METADATA.isdisjoint(image.info):
        return rgb
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block of metadata, beside whole pixels
        return rgb
    return rgb if method is None else rgb.transpose(method)


def _verify_png(data: bytes) -> None:
    """Raises ValueError where the checksum of a chunk that holds pixels, palette or header is wrong; Pillow passes
    over some."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        kind = data[position + 4 : position + 8]
        is_critical = not kind[0] & 0x20
        if is_critical and end + 4 > len(data):
            raise ValueError(f"damaged PNG: cut off in chunk {kind!r}")
        if is_critical and zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise ValueError(f"damaged PNG: wrong checksum in chunk {kind!r}")
        if kind == b"IEND":
            return
        position = end + 4


def _not_an_image(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return f"not a {', '.join(list(_READERS)[:-1])} or {list(_READERS)[-1]} image (it begins with {data[:8]!r})"


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "decoding it needs more memory than there is"
    # One line, whatever bytes of the file Pillow quotes.
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
