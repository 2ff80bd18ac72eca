"""Bounds on the memory and the time that one image file may take, from its header and before it is decoded.

The memory counts all channels as Pillow stores them (4 bytes for a colour pixel), the copies that are needed to reach
RGB, and the buffers of the decoder: coefficients of a progressive JPEG, canvases of a WebP, strips and tiles of a TIFF.
The time is counted in units of work that a file can ask for, so a verdict does not depend on the machine.
"""

import struct
from collections.abc import Iterator
from math import ceil
from typing import Any

from PIL import ExifTags, ImageFile, TiffImagePlugin

from loupe.data.pixels import jpeg2000, media_items
from loupe.log import size_text

MAX_BYTES = 512 * 10**6
"""Largest memory for the decoding of one image."""

MAX_SECONDS = 5.0
"""Longest time for the decoding of one image."""

MAX_PIXELS = 178_956_970
"""Largest number of pixels in an image, whatever they take: Pillow's own default limit."""

_ALLOWED_SECONDS = 4.0  # by the prices below, which leave a margin
_USUAL_PIXELS = 8_000_000  # whose memory is never above the limit: 60 bytes a pixel
_USUAL_FILE_BYTES = 2**20  # in which no number of segments takes long to read
_MOST_SEGMENTS = 4096
_MOST_CHUNKS = 100_000
_MOST_HEADER_BYTES = 32 * 2**20
_BLOCK_SECONDS = 60e-9  # for one block of 64 pixels in one scan of a JPEG
_SCAN_BLOCKS = 100  # price of an empty scan, in blocks
_LEAST_SCAN_BYTES = 10
_TILE_SECONDS = 20e-6  # for a strip or a tile that Pillow decodes itself
# Decoders that Pillow has in Python: seconds for a byte of the file, and for a pixel.
_SLOW = {
    "bmp_rle": (0.15e-6, 0.15e-6),
    "dds_rgb": (0.4e-6, 0.0),
    "ppm": (0.45e-6, 0.0),
    "ppm_plain": (0.12e-6, 0.0),
    "qoi": (0.6e-6, 0.01e-6),
}
_KEPT = {"WEBP": 12, "GIF": 2}
"""Bytes for a pixel in the buffers of decoders that keep them as long as the image."""
_MEDIA = frozenset({"AVIF", "HEIF"})
# For a pixel of a picture of AV1 or HEVC, and for a byte of its stream.
_PICTURE_SECONDS, _STREAM_SECONDS = 20e-9, 60e-9
_JPEG2000_BYTES = 6  # for a pixel of one channel, until it is decoded
_ONE_BYTE = frozenset({"1", "L", "P"})


def check_file(name: str, data: bytes) -> None:
    """Refuse a file before even its header is parsed, where that may take much memory or time.

    Raises:
        ValueError: the file exceeds a limit.
    """
    if name == "WebP":
        width_px, height_px = _webp_size(data)
        _check_memory(width_px * height_px * (_KEPT["WEBP"] + 4), (width_px, height_px))
    elif name == "TIFF":
        _check_tags(data)
    elif name == "JPEG 2000":
        memory, seconds = jpeg2000.cost(data)
        if memory > MAX_BYTES or seconds > _ALLOWED_SECONDS:
            raise ValueError(
                f"its tiles, precincts and code blocks would take {memory / 1e6:,.0f} MB and about {seconds:,.0f} s to "
                f"decode; the limits are {MAX_BYTES / 1e6:,.0f} MB and {MAX_SECONDS:g} s. Save it again"
            )
    elif name in _MEDIA:
        found = media_items.pictures(data)
        seconds = found.decoded * _PICTURE_SECONDS + len(data) * _STREAM_SECONDS
        if seconds > _ALLOWED_SECONDS or found.held * _media_bytes(name, found) > MAX_BYTES:
            raise ValueError(
                f"its pictures have {found.decoded / 1e6:,.0f} million pixels, {found.held / 1e6:,.0f} at a time: more "
                f"than the limits of {MAX_BYTES / 1e6:,.0f} MB and {MAX_SECONDS:g} s. Save it smaller"
            )
    elif len(data) > _USUAL_FILE_BYTES and name in ("JPEG", "PNG"):
        segments, most = (_jpeg_segments, _MOST_SEGMENTS) if name == "JPEG" else (_png_chunks, _MOST_CHUNKS)
        for number, _ in enumerate(segments(data)):
            if number > most:
                raise ValueError(f"more than {most:,} segments; save it again")


def check_pixels(size: tuple[int, int]) -> None:
    """Refuse a number of pixels above `MAX_PIXELS`.

    Raises:
        ValueError: the image exceeds the limit.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} px exceeds the limit of {MAX_PIXELS:,} pixels")


def check_decoding(image: ImageFile.ImageFile, stored: tuple[int, int], data: bytes, *, stretched: bool) -> None:
    """Refuse an image whose header is read and whose pixels would take too much memory or time.

    Args:
        image: image that is not decoded yet.
        stored: its size in the file; a JPEG may be reduced during decoding.
        data: bytes of the file.
        stretched: the pixel values are scaled afterwards.

    Raises:
        ValueError: the image exceeds a limit.
    """
    tile = image.tile[0] if image.tile else None
    buffer = 0
    if tile is not None and tile.codec_name == "jpeg":
        buffer = _check_scans(image, stored, data)
    elif image.format == "TIFF":
        buffer = _strip_bytes(image)
    elif image.format == "JPEG2000":
        buffer = image.width * image.height * len(image.getbands()) * _JPEG2000_BYTES + jpeg2000.cost(data)[0]
    if tile is not None and (len(image.tile) > 1 or tile.codec_name in _SLOW):
        byte, pixel = _SLOW.get(tile.codec_name, (0.0, 0.0))
        seconds = len(image.tile) * _TILE_SECONDS + len(data) * byte + image.width * image.height * pixel
        _check_time(seconds, stored)
    if image.format in _MEDIA:
        pixels = image.width * image.height
        found = media_items.pictures(data)
        held, each = max(pixels, found.held), _media_bytes(image.format, found)
        if held > _USUAL_PIXELS:
            _check_memory(decoding_bytes(image, kept=each, stretched=stretched) * held // max(1, pixels), stored)
    elif buffer or image.width * image.height > _USUAL_PIXELS or image.height > 2**20:
        _check_memory(decoding_bytes(image, buffer=buffer, stretched=stretched), stored)


def check_resizing(size: tuple[int, int], box: tuple[int, int]) -> None:
    """Refuse to resize a box of very unequal sides, where Pillow's coefficients and first pass take much memory.

    Raises:
        ValueError: the memory exceeds the limit.
    """
    first_pass = 4 * size[0] * box[1] if size[0] != box[0] else 0
    _check_memory(first_pass + 48 * max(box), box)


def decoding_bytes(
    image: ImageFile.ImageFile, *, buffer: int = 0, kept: int | None = None, stretched: bool = False
) -> int:
    """Memory that decoding an image takes until it is RGB and upright, from its header.

    Args:
        image: image that is not decoded yet.
        buffer: memory of its decoder, which is free again when the pixels are there.
        kept: bytes for a pixel in the buffers of a decoder that keeps them as long as the image; None for the usual.
        stretched: the pixel values are scaled afterwards.
    """
    width, height = image.size
    pixels = width * height
    stored = height * (16 + width * (1 if image.mode in _ONE_BYTE else 2 if image.mode.startswith("I;16") else 4))
    stored += pixels * (_KEPT.get(image.format or "", 0) if kept is None else kept)
    colour = height * (16 + 4 * width)
    copies = 0
    if image.mode.startswith("I"):
        copies = colour + 6 * pixels
    elif image.has_transparency_data:
        copies = (2 if image.mode == "RGBA" else 3) * colour + pixels
    elif image.mode != "RGB":
        copies = colour
    if stretched:
        copies += colour
    # The orientation is read only where it decides: parsing takes longer than decoding a small image.
    if stored + copies <= MAX_BYTES < stored + copies + colour and _is_rotated(image):
        copies += colour
    return stored + max(buffer, copies)


def _media_bytes(name: str | None, found: media_items.Pictures) -> int:
    """Bytes for a pixel that libavif and libheif keep: their planes, and what they convert them to."""
    return ceil(found.planes + 4 if name == "AVIF" else max(4, 2 * found.planes))


def _is_rotated(image: ImageFile.ImageFile) -> bool:
    try:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # a damaged block of metadata counts as upright
        return False


def _check_memory(needed: int, size: tuple[int, int]) -> None:
    if needed > MAX_BYTES:
        raise ValueError(
            f"{size[0]} x {size[1]} px would take {needed / 1e6:,.0f} MB of memory to decode; the limit is "
            f"{MAX_BYTES / 1e6:,.0f} MB. Save it smaller"
        )


def _check_time(seconds: float, size: tuple[int, int], why: str = "") -> None:
    if seconds > _ALLOWED_SECONDS:
        raise ValueError(
            f"{size[0]} x {size[1]} px{why} would take about {seconds:,.0f} s to decode; the limit is "
            f"{MAX_SECONDS:g} s. Save it again as PNG or as a baseline JPEG"
        )


def _check_scans(image: Any, stored: tuple[int, int], data: bytes) -> int:
    """Check the scans of a JPEG, and return the size of the coefficients that are kept between them."""
    behind = image.fp.tell()  # the header of the first scan
    first = data[behind - 8 - 2 * image.layers : behind]
    if not image.info.get("progressive") and first[:2] == b"\xff\xda" and first[4] == image.layers:
        return 0
    factors = [(across, down) for _, across, down, _ in image.layer]
    widest, tallest = max(across for across, _ in factors), max(down for _, down in factors)
    share = sum(across * down for across, down in factors) / max(1, widest * tallest)
    blocks = round((stored[0] / 8 + widest) * (stored[1] / 8 + tallest) * share)
    if len(data) // _LEAST_SCAN_BYTES * (blocks + _SCAN_BLOCKS) * _BLOCK_SECONDS > _ALLOWED_SECONDS:
        scans = 1 + data.count(b"\xff\xda", behind)
        _check_time(scans * (blocks + _SCAN_BLOCKS) * _BLOCK_SECONDS, stored, f" in {scans:,} scans")
    return int(blocks * 128)


def _strip_bytes(image: Any) -> int:
    """Size of the buffers for the largest strip or tile of a TIFF."""
    tags = image.tag_v2
    if image.tile and image.tile[0].codec_name != "libtiff":
        return 0

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        value = value[0] if isinstance(value, tuple) and value else value
        return max(1, int(value)) if isinstance(value, int) else default

    width, rows = image.width, min(number(TiffImagePlugin.ROWSPERSTRIP, image.height), image.height)
    if TiffImagePlugin.TILEWIDTH in tags:
        width, rows = number(TiffImagePlugin.TILEWIDTH, width), number(TiffImagePlugin.TILELENGTH, rows)
    bits = number(TiffImagePlugin.SAMPLESPERPIXEL, 1) * number(TiffImagePlugin.BITSPERSAMPLE, 8)
    return int(width * rows * max(4, -(-bits // 8)))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Size of the canvas of a WebP; (0, 0) where the header is not one."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _check_tags(data: bytes) -> None:
    """Refuse a TIFF whose tags are larger than the file: their values overlap, and each is read."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[2:3] == b"+" or data[3:4] == b"+"
    sizes = {1: 1, 2: 1, 6: 1, 7: 1, 3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4}
    try:
        (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", data, 8 if big else 4)
        (entries,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)
        start, step, kind = (start + 8, 20, f"{order}HHQ") if big else (start + 2, 12, f"{order}HHL")
        total = 0
        for place in range(start, min(start + step * entries, len(data)), step):
            _, form, count = struct.unpack_from(kind, data, place)
            total += count * sizes.get(form, 8)
    except struct.error:
        return  # a damaged header, which Pillow reports
    if total > max(len(data), 2**16):
        raise ValueError(f"its tags claim {size_text(total)}, more than the file has")


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Positions of the segments before the pixels, as Pillow reads them."""
    place = 2
    while place + 1 < len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        yield place
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if place > _MOST_HEADER_BYTES:
            raise ValueError(f"more than {size_text(_MOST_HEADER_BYTES)} of metadata; save it again without them")


def _png_chunks(data: bytes) -> Iterator[int]:
    place = 8
    while place + 8 <= len(data):
        yield place
        place += 12 + int.from_bytes(data[place : place + 4], "big")
