"""Memory and time that a JPEG 2000 codestream takes beside its pixels, from its markers: tiles, precincts, code blocks.

The size in the header of a JP2 file may differ from that of its codestream, which decides. The names are those of
ISO/IEC 15444-1, annex A; the prices are those of OpenJPEG.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_TILE_BYTES, _TILE_COMPONENT_BYTES = 9000, 1200
_PRECINCT_BYTES, _BLOCK_BYTES = 300, 450
_PART_SECONDS = 0.6e-6  # for a precinct or a code block
_TILE_SECONDS = 5e-6
_MOST_PARTS = 100_000  # of tiles
_MOST_COMPONENTS = 4


@dataclass(frozen=True)
class _Tiles:
    """Tiles of an image: the size of one and their number."""

    width: int
    height: int
    number: int
    components: int

    @classmethod
    def read(cls, segment: bytes) -> Self:
        right, bottom, left, top, width, height, tile_left, tile_top, components = struct.unpack_from(
            ">8IH", segment, 2
        )
        across, down = -(-(right - tile_left) // max(1, width)), -(-(bottom - tile_top) // max(1, height))
        return cls(min(width, right - left), min(height, bottom - top), across * down, components)


def cost(data: bytes) -> tuple[int, float]:
    """Bytes and seconds that decoding takes beside the pixels; (0, 0.0) for a damaged header, which Pillow reports.

    Raises:
        ValueError: more parts or components than Pillow reads.
    """
    tiles, parts, blocks = None, 0, 0
    try:
        for marker, segment in _segments(data, _codestream(data)):
            if marker == _SIZ:
                tiles = _Tiles.read(segment)
                if tiles.components > _MOST_COMPONENTS:
                    raise ValueError(f"it has {tiles.components:,} components; the limit is {_MOST_COMPONENTS}")
            elif marker in (_COD, _COC) and tiles:
                first, named = (5, segment[0] & 1) if marker == _COD else (2, segment[1] & 1)
                found = _partition(tiles, segment[first:], named=bool(named))
                parts, blocks = max(parts, found[0]), max(blocks, found[1])
    except (struct.error, IndexError):
        return 0, 0.0
    if tiles is None:
        return 0, 0.0
    memory = tiles.number * (_TILE_BYTES + tiles.components * _TILE_COMPONENT_BYTES)
    memory += tiles.components * (parts * _PRECINCT_BYTES + blocks * _BLOCK_BYTES)
    each = _TILE_SECONDS + tiles.components * (parts + blocks) * _PART_SECONDS
    return memory, tiles.number * each


def _codestream(data: bytes) -> int:
    """Position of the codestream: the start, or that of the first `jp2c` box."""
    if data[:2] == b"\xff\x4f":
        return 0
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, place + 8), 16
        if kind == b"jp2c":
            return place + header
        if size < header:
            break
        place += size
    raise IndexError("no codestream")


def _segments(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of the segments in the main header and in those of the parts of tiles."""
    place, part, parts = start + 2, 0, 0
    while place + 4 <= len(data):
        marker, size = struct.unpack_from(">HH", data, place)
        if marker == _SOT:
            parts += 1
            if parts > _MOST_PARTS:
                raise ValueError(f"more than {_MOST_PARTS:,} parts of tiles; save it again")
            (length,) = struct.unpack_from(">I", data, place + 6)
            part = place + length if length >= 14 else len(data)
        elif marker == _SOD:
            place = part
            continue
        elif marker < 0xFF00 or size < 2:
            return
        else:
            yield marker, data[place + 4 : place + 2 + size]
        place += 2 + size


def _partition(tiles: _Tiles, style: bytes, *, named: bool) -> tuple[int, int]:
    """Precincts and code blocks of one component of one tile.

    Args:
        tiles: tiles of the image.
        style: number of levels, exponents of the code blocks' sizes, two bytes, exponents of the precincts' sizes.
        named: the sizes of precincts are given.
    """
    levels, block_width, block_height = style[0], (style[1] & 15) + 2, (style[2] & 15) + 2
    precincts = blocks = 0
    for level in range(min(levels, 32) + 1):
        exponents = style[5 + level] if named else 0xFF
        shift, halved = levels - level, int(level > 0)
        sizes = []
        for side, precinct, block in (
            (tiles.width, exponents & 15, block_width),
            (tiles.height, exponents >> 4, block_height),
        ):
            reduced = -(-side >> shift)
            inner = max(0, min(block, precinct - halved))
            sizes.append(((reduced >> precinct) + 2, ((reduced >> halved) >> inner) + 2))
        across, down = sizes
        number = across[0] * down[0]
        precincts += number
        blocks += (3 if halved else 1) * max(number, across[1] * down[1])
    return precincts, blocks
