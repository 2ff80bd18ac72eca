"""Sizes of the pictures that AV1 and HEVC streams hold, from their sequence headers: what a decoder allocates.

The container (AVIF, HEIF) states a size of its own, which may differ. Names and syntax are those of the AV1 bitstream
specification (5.5) and of ITU-T H.265 (7.3.2.2).
"""

from collections.abc import Iterator
from typing import NamedTuple

MOST_UNITS = 100_000
"""Largest number of units (OBUs, NAL units) in one stream."""

_AV1_SEQUENCE, _AV1_FRAMES = 1, (3, 6)
_HEVC_SEQUENCE, _HEVC_PICTURES = 33, 32
_HEADER_BYTES = 512  # in which a sequence header has its size


class Coded(NamedTuple):
    """Pictures of a stream.

    Attributes:
        pixels: pixels of the largest picture.
        planes: bytes for each pixel in its planes: 1.5 for 4:2:0 in 8 bits, 6 for 4:4:4 in more.
        number: number of pictures, shown or not.
    """

    pixels: int
    planes: float
    number: int


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, number: int) -> int:
        """The next `number` bits.

        Raises:
            EOFError: there are fewer.
        """
        self._left -= number
        if self._left < 0:
            raise EOFError("a sequence header is cut off")
        return self._value >> self._left & ((1 << number) - 1)

    def read_exponential(self) -> int:
        """The next number in Exp-Golomb code."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        if zeros > 32:
            raise EOFError("a number of a sequence header is too large")
        return (1 << zeros) - 1 + self.read(zeros)


def av1_pictures(data: bytes) -> Coded:
    """Pictures of an AV1 stream.

    Raises:
        ValueError, EOFError: the stream is damaged or has too many units.
    """
    sizes, pictures = [(0, 0.0)], 0
    for kind, content in _obus(data):
        if kind == _AV1_SEQUENCE:
            sizes.append(_av1_size(content))
        elif kind in _AV1_FRAMES:
            pictures += 1
    return _coded(sizes, pictures)


def hevc_pictures(units: list[bytes]) -> Coded:
    """Pictures of HEVC's NAL units.

    Raises:
        EOFError: a sequence header is cut off.
    """
    sizes, pictures = [(0, 0.0)], 0
    for unit in units:
        kind, layer = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
        if kind == _HEVC_SEQUENCE and layer == 0:
            sizes.append(_hevc_size(unit[2:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0")))
        elif kind < _HEVC_PICTURES and len(unit) > 2 and unit[2] & 0x80:  # the first slice of a picture
            pictures += 1
    return _coded(sizes, pictures)


def _coded(sizes: list[tuple[int, float]], number: int) -> Coded:
    return Coded(max(pixels for pixels, _ in sizes), max(planes for _, planes in sizes), number)


def nal_units(data: bytes, length_bytes: int) -> list[bytes]:
    """NAL units of a stream in which each has its length before it.

    Raises:
        ValueError: it has too many.
    """
    units, place = [], 0
    while place + length_bytes <= len(data):
        size = int.from_bytes(data[place : place + length_bytes], "big")
        place += length_bytes
        if size >= 2:
            units.append(data[place : place + min(size, _HEADER_BYTES)])
        place += size
        if len(units) > MOST_UNITS:
            raise ValueError(f"more than {MOST_UNITS:,} units in its video stream")
    return units


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = number = 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1
        size = len(data) - place
        if header & 2:
            size, place = _leb128(data, place)
        yield header >> 3 & 15, data[place : place + min(size, _HEADER_BYTES)]
        place += size
        number += 1
        if number > MOST_UNITS:
            raise ValueError(f"more than {MOST_UNITS:,} units in its video stream")


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(data[place : place + 8]):
        value |= (byte & 127) << 7 * number
        if not byte & 128:
            return value, place + number + 1
    raise EOFError("a length is cut off")


def _av1_size(content: bytes) -> tuple[int, float]:
    bits = _Bits(content)
    profile = bits.read(3)
    bits.read(1)
    if reduced := bits.read(1):  # the header of a still picture
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    pixels = (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)
    _skip_tools(bits, reduced=bool(reduced))
    return pixels, (3 if profile else 1.5) * (1 + bits.read(1))


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits, has_model = 0, 0
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            bits.read_exponential()
        has_model = bits.read(1)
        if has_model:
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if has_model and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delay and bits.read(1):
            bits.read(4)


def _skip_tools(bits: _Bits, *, reduced: bool) -> None:
    if not reduced and bits.read(1):  # numbers of frames
        bits.read(7)
    bits.read(3)
    if not reduced:
        bits.read(4)
        if has_order := bits.read(1):
            bits.read(2)
        if (bits.read(1) or bits.read(1)) and not bits.read(1):  # tools for screen content, then whole vectors
            bits.read(1)
        bits.read(3 * has_order)
    bits.read(3)


def _hevc_size(content: bytes) -> tuple[int, float]:
    bits = _Bits(content)
    bits.read(4)
    sub_layers = bits.read(3)
    bits.read(1 + 96)
    present = [(bits.read(1), bits.read(1)) for _ in range(sub_layers)]
    if sub_layers:
        bits.read(2 * (8 - sub_layers))
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.read_exponential()
    if (chroma := bits.read_exponential()) == 3:
        bits.read(1)
    pixels = bits.read_exponential() * bits.read_exponential()
    if bits.read(1):  # a window
        for _ in range(4):
            bits.read_exponential()
    depths = bits.read_exponential(), bits.read_exponential()  # above 8 bits
    return pixels, {0: 1, 1: 1.5, 2: 2}.get(chroma, 3) * (2 if any(depths) else 1)
