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
    """A baseline JPEG whose three channels have scans of their own, many times over."""
    out = BytesIO()
    Image.new("L", (width, height), 128).save(out, "JPEG")
    data = out.getvalue()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    after = frame + 13  # marker, length, precision, sides, number of channels, and three bytes for the one channel
    channel = data[after - 3 : after]
    three = b"".join(bytes([number]) + channel[1:] for number in (1, 2, 3))
    header = data[frame : frame + 2] + struct.pack(">H", 17) + data[frame + 4 : frame + 9] + b"\3" + three
    head, stream = data[scan : scan + 5], data[scan + 6 : -2]
    each = [head + bytes([number]) + stream for number in (1, 2, 3)]
    return data[:frame] + header + data[after:scan] + b"".join(each[k % 3] for k in range(scans)) + b"\xff\xd9"


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


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of an ISO media file."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def picture(kind: str, width: int, height: int) -> tuple[bytes, bytes]:
    """The stream of a picture of one colour as AVIF or HEIF has it, and the property that describes it."""
    out = BytesIO()
    Image.new("RGB", (width, height), 128).save(out, kind, **({"speed": 10} if kind == "AVIF" else {}))
    data = out.getvalue()
    at = data.index(b"av1C" if kind == "AVIF" else b"hvcC") - 4
    return data[data.index(b"mdat") + 4 :], data[at : at + int.from_bytes(data[at : at + 4], "big")]


def media(
    width: int,
    height: int,
    claimed: tuple[int, int] = (64, 64),
    *,
    kind: str = "AVIF",
    copies: int = 1,
    cells: int = 0,
    pieces: int = 1,
    overlays: int = 0,
    turns: int = 0,
) -> bytes:
    """An AVIF or HEIF file of one picture that claims another size.

    Args:
        width, height: size of the picture.
        claimed: size that the file states.
        kind: AVIF or HEIF.
        copies: number of times that the picture is in its stream.
        cells: number of rows and columns of a grid of this picture.
        pieces: number of times that the place of the stream is listed.
        overlays: number of overlays, each of the one before it, twice.
        turns: number of rotations.
    """
    stream, description = picture(kind, width, height)
    stream *= copies
    coded = {"AVIF": b"av01", "HEIF": b"hvc1"}[kind]
    size = struct.pack(">II", *claimed)
    items, references = [(coded, stream, pieces)], b""
    if cells:
        items.append((b"grid", struct.pack(">BBBBII", 0, 1, cells - 1, cells - 1, *claimed), 1))
        references = box(b"dimg", struct.pack(f">HH{cells**2}H", 2, cells**2, *[1] * cells**2))
    for number in range(overlays):
        items.append((b"iovl", struct.pack(">BB4HII8H", 0, 1, *[0] * 4, *claimed, *[0] * 8), 1))
        references += box(b"dimg", struct.pack(">HHHH", 2 + number, 2, 1 + number, 1 + number))
    used = bytes([1, 2, *[3] * turns])

    def meta(start: int) -> bytes:
        places, at = b"", start
        for number, (_, content, times) in enumerate(items):
            places += struct.pack(">HHH", number + 1, 0, times) + struct.pack(">II", at, len(content)) * times
            at += len(content)
        entries = [
            box(b"infe", struct.pack(">IHH", 2 << 24, number + 1, 0), name, b"\0")
            for number, (name, _, _) in enumerate(items)
        ]
        associated = b"".join(struct.pack(">HB", number + 1, len(used)) + used for number in range(len(items)))
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, len(items))),
            box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(items)), places),
            box(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
            box(
                b"iprp",
                box(b"ipco", box(b"ispe", bytes(4), size), description, box(b"irot", b"\1")),
                box(b"ipma", struct.pack(">II", 0, len(items)), associated),
            ),
            *([box(b"iref", bytes(4), references)] if references else []),
        )

    brands = {"AVIF": b"avif\0\0\0\0avifmif1miaf", "HEIF": b"heic\0\0\0\0heicmif1"}
    head = box(b"ftyp", brands[kind])
    body = meta(len(head) + len(meta(0)) + 8)
    return head + body + box(b"mdat", *[content for _, content, _ in items])


def jpeg2000(
    width: int,
    height: int,
    *,
    tile: int | None = None,
    components: int = 3,
    block: int = 4,
    precincts: bytes = b"",
    in_tile: bool = False,
    boxed: tuple[int, int] | None = None,
) -> bytes:
    """A JPEG 2000 codestream of this size with hardly any pixels.

    Args:
        width, height: size in pixels.
        tile: side of its tiles; None for one tile.
        components: number of channels.
        block: exponent of the sides of code blocks, less 2.
        precincts: exponents of the sides of precincts, for each resolution.
        in_tile: the precincts are those of the first tile, by its own header.
        boxed: size that the header of a JP2 file around it states.
    """

    def marker(code: int, *fields: bytes) -> bytes:
        body = b"".join(fields)
        return struct.pack(">HH", code, len(body) + 2) + body

    def style(precincts: bytes) -> bytes:
        named = bytes([1 if precincts else 0, 0])
        return marker(0xFF52, named, b"\0\1", bytes([0, 0, block, block, 0, 1]), precincts)

    sides = struct.pack(">8I", width, height, 0, 0, tile or width, tile or height, 0, 0)
    own = style(precincts) if in_tile else b""
    part = own + b"\xff\x93\x80"
    code = b"".join(
        [
            b"\xff\x4f",
            marker(0xFF51, b"\0\0", sides, struct.pack(">H", components), bytes([7, 1, 1]) * components),
            style(b"" if in_tile else precincts),
            marker(0xFF5C, b"\x40\x40"),
            marker(0xFF90, struct.pack(">HIBB", 0, 12 + len(part), 0, 1)),
            part,
            b"\xff\xd9",
        ]
    )
    if boxed is None:
        return code
    header = box(b"ihdr", struct.pack(">IIHBBBB", boxed[1], boxed[0], 3, 7, 7, 0, 0))
    colour = box(b"colr", b"\1\0\0", struct.pack(">I", 16))
    signature = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return signature + box(b"jp2h", header, colour) + box(b"free") + box(b"jp2c", code)


# Expressions, because a child process makes them.
BOMBS = {
    "webp": "webp(16383, 10923)",
    "webp without a canvas": "webp(16383, 10923, canvas=False)",
    "tiff rgba": "tiff(13376, 13376, samples=4)",
    "tiff rgb 16": "tiff(13376, 13376, samples=3, bits=16)",
    "tiff tile": "tiff(100, 100, more={322: 30000, 323: 30000, 324: 8, 325: 16})",
    "tiff strip": "tiff(20000, 2, samples=1, more={278: 2**31 - 1})",
    "tiff tags": "overlapping_tiff(2000, 2**20)",
    "png rgba": "png(13376, 13376)",
    "png grey alpha": "png(13376, 13376, colour=4)",
    "png grey": "png(13376, 13376, colour=0)",
    "png palette": "png(13376, 13376, colour=3)",
    "png 16": "png(13376, 13376, colour=0, bits=16)",
    "png rgb 16": "png(13376, 13376, colour=2, bits=16)",
    "png rgba 16": "png(8000, 8000, colour=6, bits=16)",
    "png tall": "png(1, 60_000_000, colour=0)",
    "png wide": "png(60_000_000, 1, colour=0)",
    "png text": "png(8, 8, extra=png_chunk(b'zTXt', b'a\\0\\0' + zlib.compress(bytes(2**28))))",
    "png profile": "png(8, 8, extra=png_chunk(b'iCCP', b'a\\0\\0' + zlib.compress(bytes(2**28))))",
    "png chunks": "png(8, 8, extra=png_chunk(b'abCd', b'') * 500_000)",
    "jpeg scans": "jpeg(9000, 9000, scans=2000)",
    "jpeg scans, small": "jpeg(64, 64, scans=100_000)",
    "jpeg coefficients": "jpeg(9000, 9000, mode='CMYK', scans=14)",
    "jpeg sequential scans": "sequential_jpeg(3000, 3000, 300)",
    "jpeg segments": "segments(1_000_000)",
    "jpeg 2000 tiles": "jpeg2000(255, 255, tile=1)",
    "jpeg 2000 precincts": "jpeg2000(600, 600, precincts=b'\\0')",
    "jpeg 2000 precincts of a tile": "jpeg2000(600, 600, precincts=b'\\0', in_tile=True)",
    "jpeg 2000 blocks": "jpeg2000(4000, 4000, block=0)",
    "jpeg 2000 components": "jpeg2000(64, 64, tile=1, components=16384, boxed=(64, 64))",
    "avif": "media(9000, 8000)",
    "avif pictures": "media(64, 64, copies=40_000)",
    "avif grid": "media(1000, 1000, (6000, 6000), cells=30)",
    "avif pieces": "media(64, 64, pieces=60_000)",
    "avif overlays": "media(64, 64, overlays=30)",
    "avif turns": "media(4000, 3000, (4000, 3000), turns=100)",
    "gif": "gif(65535, 2000)",
    "qoi": "qoi(4000, 4000)",
    "ppm": "plain_pixmap(5000, 4000)",
}
# Damaged, or taken as they are.
READ = {"jpeg scans, small", "tiff strip", "png text", "png profile", "png wide"}


def bomb(name: str) -> bytes:
    """File of a name in `BOMBS`."""
    data: bytes = eval(BOMBS[name])
    return data
