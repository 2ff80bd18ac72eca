"""Image decoder: bytes of an image file to 8-bit RGB pixels, for training, evaluation, prediction and serving.

The format is recognised by content, not by file name; `loupe.data.formats` lists the formats. Rules:

* Grey and 1-bit images get three equal channels. Palettes are resolved. CMYK is converted without a colour profile, and
  a CMYK JPEG is read as inverted, which is Adobe's convention (as in Pillow, ImageMagick and browsers). Colour profiles
  are ignored.
* 16-bit channels keep their upper byte, so 65535 becomes 255 and 0 stays 0; 12-bit grey is scaled likewise. With
  `levels` (low, high), stored values from low to high become 0 to 255 instead. Not so 16-bit colour, of which Pillow
  reads the upper byte alone, nor 8-bit images where high exceeds 255: they are refused.
* 32-bit integers, signed 16-bit integers, floats and CIELAB (TIFF) are refused: the file does not state their range.
* Transparent pixels (alpha, palette entry or colour) are composited over white. A BMP, Targa or DDS whose alpha is 0
  in every pixel is opaque: many programs leave that byte unused.
* The orientation of EXIF or XMP is applied; unreadable metadata counts as upright.
* The first frame of animations and multi-page files is used.
* Images that would take too much memory or time are refused by their header, before decoding (`limits`).
* The image is resized by Pillow's antialiasing filters, in 8-bit fixed-point arithmetic.

Two definitions of the pixels differ in the last two steps, and a model keeps the one that it was trained with:

* 2, of new models: every image is decoded whole. It is resized in two passes, first the width and then the height, each
  rounded to 8 bits. So the pixels are a function of the decoded image alone, which an exported model can compute too.
* 1, of models from before: a JPEG is reduced by 2, 4 or 8 during decoding, as long as both sides keep twice the target
  size. Pillow chooses the order of the passes: the width first, or, from Pillow 13 on, the height of tall images.

Detectable damage (a truncated file, an invalid header, a wrong checksum in a PNG) is an ImageError. JPEG has no
checksums, so a flipped bit in its data may decode to other pixels without an error.
"""

import zlib
from functools import cache
from io import BytesIO
from math import ceil
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from loupe.config.base import Channels, Levels
from loupe.config.recipe import PIXEL_DEFINITION, Interpolation, PixelDefinition, Preprocessing, Resize
from loupe.config.size import Size, SizePx
from loupe.data.formats import FORMATS, readable_names, reader_of, sniff
from loupe.data.pixels import limits
from loupe.errors import ConfigError, ImageError, enumerated

DECODER_VERSION = 2
"""Part of the key of the pixel cache: increase it with every change that gives other pixels for the same bytes."""

UInt8Array = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom

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
_UNUSED_ALPHA = frozenset({"BMP", "DIB", "TGA", "DDS"})
_METADATA = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_WHITE_IS_ZERO = 0
_CLEAR, _OPAQUE = np.uint8(0), np.uint8(255)


class DecoderSettings(TypedDict):
    """Settings of `load`, all of which are part of the key of the pixel cache."""

    load_px: SizePx
    resize: Resize
    interpolation: Interpolation
    levels: Levels | None
    channels: Channels
    definition: PixelDefinition


def settings_of(preprocessing: Preprocessing) -> DecoderSettings:
    """Settings of `load` for a network's images."""
    return DecoderSettings(
        load_px=preprocessing.load_px,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
        levels=preprocessing.range,
        channels=preprocessing.channels,
        definition=preprocessing.pixel_definition,
    )


def load(
    data: bytes,
    path: str,
    *,
    load_px: SizePx,
    resize: Resize,
    interpolation: Interpolation,
    levels: Levels | None = None,
    channels: Channels = 3,
    definition: PixelDefinition = 1,
) -> UInt8Array:
    """Decode an image and resize it to `load_px`, uint8 [H, W, channels].

    All pixels pass through this function, in training and in serving.

    Raises:
        ImageError: the image is damaged, or its format is not supported.
    """
    size = Size.of(load_px)
    image = decode(data, path, at_least_px=max(size) if definition == 1 else None, levels=levels)
    try:
        return resized(image if channels == 3 else image.convert("L"), size, resize, interpolation, definition)
    except (ValueError, MemoryError) as error:
        raise ImageError(path, _reason(error)) from error


def in_colour(pixels: UInt8Array) -> UInt8Array:
    """Pixels [..., 1 or 3] as [..., 3], for display."""
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


def decode(data: bytes, path: str, *, at_least_px: int | None = None, levels: Levels | None = None) -> Image.Image:
    """Decode the first frame, upright, in 8-bit RGB, by the rules of the module.

    Args:
        data: bytes of the image file.
        path: name of the image in errors.
        at_least_px: longer side to which the caller will resize; allows the reduction of a large JPEG during decoding.
        levels: stored values that become 0 and 255; None for the upper byte.

    Raises:
        ImageError: the image is damaged, or its format is not supported.
    """
    return finish(open_header(data, path), data, path, at_least_px=at_least_px, levels=levels)


def finish(
    image: ImageFile.ImageFile,
    data: bytes,
    path: str,
    *,
    at_least_px: int | None = None,
    levels: Levels | None = None,
) -> Image.Image:
    """Decode an image that `open_header` opened from the same bytes; otherwise as `decode`."""
    try:
        stored = image.size
        # No effect on a smaller JPEG, but a tenth of the time of decoding a small one.
        if at_least_px is not None and image.format == "JPEG" and min(image.size) >= 4 * at_least_px:
            image.draft(None, (2 * at_least_px, 2 * at_least_px))
        limits.check_decoding(image, stored, data, stretched=levels is not None)
        if image.format == "PNG":
            _verify_png(data)
        is_reduced = levels is not None and _is_wide_colour(image)
        image.load()
        if is_reduced:
            raise ValueError("16 bits with colour or alpha are read as the upper 8, where input.range cannot apply")
        return _upright(image, _rgb(image, levels))
    except Exception as error:  # a hostile file can make Pillow raise nearly anything
        raise ImageError(path, _reason(error)) from error


def open_header(data: bytes, path: str) -> ImageFile.ImageFile:
    """Read the header of an image without decoding pixels: `.format`, `.mode`, `.size`.

    Raises:
        ImageError: the header is damaged, the format is not supported, or the image is too large.
        ConfigError: Pillow is set to accept truncated images.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so truncated images would decode with grey areas. "
            "Set it to False; --skip-damaged leaves damaged images out."
        )
    name = sniff(data)
    if name is None:
        raise ImageError(path, _not_an_image(data))
    reader = reader_of(name)
    if reader is None:
        raise ImageError(path, f"{name} images cannot be read here. {FORMATS[name].remedy}")
    try:
        limits.check_file(name, data)
    except ValueError as error:
        raise ImageError(path, str(error)) from error
    try:
        image = reader(BytesIO(data), "")
    except Exception as error:  # as above
        raise ImageError(path, f"damaged {name} header: {_reason(error)}") from error
    try:
        limits.check_pixels(image.size)
    except ValueError as error:
        raise ImageError(path, str(error)) from error
    return image


def resized(
    image: Image.Image,
    size: Size,
    resize: Resize,
    interpolation: Interpolation,
    definition: PixelDefinition = PIXEL_DEFINITION,
) -> UInt8Array:
    """Resize an RGB or grey image to uint8 [H, W, channels], antialiased if smaller (except `nearest`).

    `crop` scales both sides alike so that the image covers the size, and keeps the centre. `pad` scales both sides
    alike so that the image fits into the size, and adds black borders of equal width. `squash` scales each side by
    itself. An image of the right size keeps its pixels.
    """
    width_px, height_px = image.size
    wanted = size.width_px, size.height_px
    whole = 0, 0, width_px, height_px
    if resize == "crop":
        sized = _scale(image, wanted, interpolation, _covering(image.size, wanted), definition)
    elif resize == "pad":
        factor = min(size.width_px / width_px, size.height_px / height_px)
        inner_px = max(1, round(width_px * factor)), max(1, round(height_px * factor))
        sized = Image.new(image.mode, wanted)
        corner_px = (wanted[0] - inner_px[0]) // 2, (wanted[1] - inner_px[1]) // 2
        sized.paste(_scale(image, inner_px, interpolation, whole, definition), corner_px)
    else:
        sized = _scale(image, wanted, interpolation, whole, definition)
    pixels = np.asarray(sized)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _covering(image: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """Largest box of the wanted proportions about the centre of the image; both sizes are (width, height)."""
    width_px, height_px = image
    box_width: float = min(width_px, height_px * wanted[0] / wanted[1])
    box_height: float = min(height_px, width_px * wanted[1] / wanted[0])
    # An integer corner, so that a crop without scaling does not shift by half a pixel.
    left_px, top_px = (width_px - box_width) // 2, (height_px - box_height) // 2
    return left_px, top_px, left_px + box_width, top_px + box_height


def _scale(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: Box,
    definition: PixelDefinition,
) -> Image.Image:
    boxed = box[2] - box[0], box[3] - box[1]
    if boxed == size:
        return image if size == image.size else image.crop(box)
    rows_px = boxed[1] if definition == 1 else image.height
    limits.check_resizing(size, (ceil(boxed[0]), ceil(rows_px)))
    method = _RESAMPLING[interpolation]
    if definition == 1 or interpolation == "nearest":
        return image.resize(size, method, box=box)
    wide = image.resize((size[0], image.height), method, box=(box[0], 0, box[2], image.height))
    return wide.resize(size, method, box=(0, box[1], size[0], box[3]))


def stored_levels(data: bytes, path: str) -> tuple[Levels, int]:
    """Lowest and highest pixel value of an image as stored, and its bits: 8, or more for 16-bit grey.

    Raises:
        ImageError: the image is damaged, or its format is not supported.
    """
    image = open_header(data, path)
    rgb = finish(image, data, path)
    return wide_levels(image) or (extremes(rgb), 8)


def wide_levels(image: ImageFile.ImageFile) -> tuple[Levels, int] | None:
    """Lowest and highest pixel value of a decoded image of more than 8 bits, and its bits; None for other images."""
    if not _is_wide(image):
        return None
    level_HW, bits = _levels(image)
    return (int(level_HW.min()), int(level_HW.max())), bits


def extremes(rgb: Image.Image) -> Levels:
    """Lowest and highest value over all channels of an RGB image."""
    lows, highs = zip(*rgb.getextrema(), strict=True)
    return int(min(lows)), int(max(highs))


def _is_wide(image: ImageFile.ImageFile) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})


def _is_wide_colour(image: ImageFile.ImageFile) -> bool:
    """True for 16-bit colour, before it is decoded: Pillow names it in the arguments of its decoder."""
    wide_pnm = image.format == "PPM" and image.mode == "RGB"
    for tile in getattr(image, "tile", ()):
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(value, str) and ";16" in value for value in arguments) and not _is_wide(image):
            return True
        if wide_pnm and any(isinstance(value, int) and value > 255 for value in arguments[1:]):
            return True
    return False


def _rgb(image: ImageFile.ImageFile, levels: Levels | None) -> Image.Image:
    if _is_wide(image):
        return _over_white(*_scaled_grey(image, levels))
    if levels is not None and levels[1] > 255:
        raise ValueError(f"it has 8 bits per channel, and input.range is [{levels[0]}, {levels[1]}]")
    if image.mode in ("I", "F", "LAB"):
        kind = {"I": "32-bit or signed integers", "F": "floats", "LAB": "CIELAB colours"}[image.mode]
        raise ValueError(f"{kind} have no defined range; convert the image to 8 or 16 bits per channel, grey or RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return _stretched(image, levels)
    if not image.has_transparency_data:
        return _stretched(image.convert("RGB"), levels)
    if image.format in _UNUSED_ALPHA and image.mode in {"RGBA", "LA"} and not image.getchannel("A").getbbox():
        return _stretched(image.convert("RGBA").convert("RGB"), levels)
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        # The colour has 16 bits, of which the pixels keep only the upper byte.
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    rgba: Image.Image = image
    if image.mode != "RGBA":  # else it would be copied
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return _over_white(_stretched(rgba.convert("RGB"), levels), rgba.getchannel("A"))


def _stretched(rgb: Image.Image, levels: Levels | None) -> Image.Image:
    return rgb if levels is None else rgb.point(scale_levels(np.arange(256), levels).tolist() * 3)


def scale_levels(level: npt.NDArray[Any], levels: Levels) -> UInt8Array:
    """Stored values on the scale 0 to 255: `low` and less become 0, `high` and more become 255, rounded half up."""
    low, high = levels
    inside = np.clip(level.astype(np.int64), low, high) - low
    return ((2 * 255 * inside + (high - low)) // (2 * (high - low))).astype(np.uint8)


@cache
def _scaled_table(levels: Levels) -> UInt8Array:
    """Pixel value of each of the 65,536 stored ones."""
    return scale_levels(np.arange(2**16), levels)


def _over_white(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _levels(image: ImageFile.ImageFile) -> tuple[npt.NDArray[np.uint16], int]:
    """Pixel values of 16-bit grey (12-bit in some TIFF), where 0 is black, and their bits."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = int(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
    level_HW = np.asarray(image).astype(np.uint16, copy=False)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        level_HW = np.uint16(2**bits - 1) - level_HW
    return level_HW, bits


def _scaled_grey(image: ImageFile.ImageFile, levels: Levels | None) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey (12-bit in some TIFF) as RGB, and the alpha of its transparent level, if any."""
    level_HW, bits = _levels(image)
    grey_HW = (level_HW >> (bits - 8)).astype(np.uint8) if levels is None else _scaled_table(levels)[level_HW]
    rgb = Image.fromarray(grey_HW).convert("RGB")
    clear = image.info.get("transparency")
    if clear is None:
        return rgb, None
    return rgb, Image.fromarray(np.where(np.asarray(image) == clear, _CLEAR, _OPAQUE))


def _upright(image: ImageFile.ImageFile, rgb: Image.Image) -> Image.Image:
    # Most images have no metadata, and parsing takes longer than decoding a small image. Pillow rotates TIFF itself.
    if image.format == "TIFF" or _METADATA.isdisjoint(image.info):
        return rgb
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block of metadata, beside whole pixels
        return rgb
    return rgb if method is None else rgb.transpose(method)


def _verify_png(data: bytes) -> None:
    """Check the checksums of the critical chunks (header, palette, pixels), some of which Pillow ignores.

    Raises:
        ValueError: a checksum is wrong, or a chunk is truncated.
    """
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        kind = data[position + 4 : position + 8]
        is_critical = not kind[0] & 0x20
        if is_critical and end + 4 > len(data):
            raise ValueError(f"damaged PNG: truncated in chunk {kind!r}")
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
    return f"not a {enumerated(readable_names(), 'or')} image (it begins with {data[:8]!r})"


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    # One line, whatever bytes of the file Pillow quotes.
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
