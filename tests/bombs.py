"""Small files that ask for much memory or time, made in code."""

import struct
import zlib
from io import BytesIO

from PIL import Image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, colour: int = 6, bits: int = 8, extra: bytes = b"") -> bytes:
    """A PNG of zeros; colour type 0 is grey, 2 RGB, 3 a palette, 4 grey with alpha, 6 RGBA."""
    row = 1 + (width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * bits + 7) // 8
    packer, left = zlib.compressobj(9), row * height
    block, parts = bytes(2**20), []
    while left > 0:
        parts.append(packer.compress(block[:left]))
        left -= len(block)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = png_chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    body = png_chunk(b"IDAT", b"".join(parts) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + palette + extra + body + png_chunk(b"IEND", b"")


def webp(width: int, height: int, *, canvas: bool = True) -> bytes:
    """The header of a WebP of this size, with hardly any pixels."""
    lossless = b"VP8L" + struct.pack("<IBI", 6, 0x2F, (width - 1) | (height - 1) << 14) + b"\0"
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<II", 10, 0) + size if canvas else b""
    body = b"WEBP" + extended + lossless
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: int, height: int, *, samples: int = 3, bits: int = 8, more: dict[int, int] | None = None) -> bytes:
    """A deflated TIFF of this size with one strip and hardly any pixels; `more` are other tags."""
    tags = {256: width, 257: height, 258: bits, 259: 8, 262: 2 if samples > 2 else 1, 273: 8, 277: samples}
    tags |= {278: height, 279: 16, 284: 1} | (more or {})
    if samples in (2, 4):
        tags[338] = 2
    after = 8 + 16 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, 3, samples, after)
        if tag == 258 and samples > 2
        else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in sorted(tags.items())
    )
    strip = zlib.compress(bytes(64))[:16].ljust(16, b"\0")
    return (
        b"II*\0"
        + struct.pack("<I", 24)
        + strip
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + (struct.pack(f"<{samples}H", *[bits] * samples))
    )


def overlapping_tiff(tags: int, size: int) -> bytes:
    """A TIFF whose tags all have the same bytes as their values."""
    entries = b"".join(struct.pack("<HHII", 40000 + k, 1, size, 8) for k in range(tags))
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", tags) + entries + bytes(4)


def jpeg(width: int, height: int, *, mode: str = "RGB", scans: int = 0) -> bytes:
    """A JPEG of one colour; with `scans`, a progressive one that has its last scan so often again."""
    out = BytesIO()
    Image.new(mode, (width, height), 128).save(out, "JPEG", progressive=scans > 0)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def sequential_jpeg(width: int, height: int, scans: int) -> bytes:
    """A baseline JPEG whose channels have scans of their own, many times over."""
    out = BytesIO()
    Image.new("L", (width, height), 128).save(out, "JPEG")
    data = out.getvalue()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    old = data[frame : frame + 13]
    two = old[:2] + struct.pack(">H", 14) + old[4:9] + b"\2" + old[10:13] + b"\2" + old[11:13]
    return data[:frame] + two + data[frame + 13 : scan] + data[scan:-2] * scans + b"\xff\xd9"


def segments(count: int) -> bytes:
    """A JPEG with so many blocks of metadata."""
    data = jpeg(8, 8)
    return data[:2] + b"\xff\xe1\0\x08Exif\0\0" * count + data[2:]


def gif(width: int, height: int) -> bytes:
    """A GIF of this size with hardly any pixels."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02D\x01\0;"


def qoi(width: int, height: int) -> bytes:
    """A QOI of single pixels, which Pillow decodes in Python."""
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + b"\x55\xaa" * (width * height // 2) + bytes(7) + b"\1"


def plain_pixmap(width: int, height: int) -> bytes:
    """A PPM as text."""
    return f"P3\n{width} {height}\n255\n".encode() + b"0 " * (3 * width * height)
