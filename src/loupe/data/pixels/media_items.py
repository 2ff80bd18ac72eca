"""Pictures that an AVIF or HEIF file has its decoder make for the first image: their pixels, from their own headers.

An image is a coded item, a grid or an overlay of other items, and may have an auxiliary item of alpha. The size that
the file states need not be theirs. Boxes and fields are those of ISO/IEC 14496-12 and 23008-12.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from loupe.data.pixels.coded_size import Coded, av1_pictures, hevc_pictures, nal_units

MOST_ITEMS = 4096
MOST_TRANSFORMS = 8
_KEPT_PICTURES = 16  # that a decoder refers to
_DERIVED = (b"grid", b"iovl", b"iden")
_TRANSFORMS = (b"irot", b"imir", b"clap", b"iscl")
_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"meta", b"iprp", b"dinf"})


@dataclass(frozen=True)
class Pictures:
    """Pixels of an image's pictures.

    Attributes:
        held: most pixels that are held at a time; alpha counts where it is larger than the image.
        decoded: pixels of all pictures that are decoded.
        planes: bytes for each pixel in the planes of the decoder, those of the picture with the most.
    """

    held: int
    decoded: int
    planes: float


@dataclass
class _File:
    """Items of a file by their numbers.

    Attributes:
        parts: (construction method, offset, length) of each piece of an item's data.
        properties: kinds and contents of all properties.
        used: numbers of the properties of an item, counted from 1.
        references: items that an item is derived from.
        auxiliary: items that are auxiliary to an item.
        tracks: offset and length of the first sample of each track, and 1 for one of AV1.
    """

    data: bytes
    primary: int | None = None
    kinds: dict[int, bytes] = field(default_factory=dict)
    parts: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    inline: bytes = b""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    used: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    references: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    auxiliary: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    tracks: list[list[int]] = field(default_factory=list)


def pictures(data: bytes) -> Pictures:
    """Pictures that decoding takes.

    Raises:
        ValueError: the file is damaged, or its items are more, larger or of another kind than an image needs.
    """
    try:
        file = _read(data)
        known: dict[int, Pictures] = {}
        found = [] if file.primary is None else [_item(file, file.primary, known, ())]
        for offset, length, _ in file.tracks:
            found.append(_of_stream(av1_pictures(data[offset : offset + length])))
    except (struct.error, EOFError, IndexError) as error:
        raise ValueError(f"damaged structure of boxes ({error})") from None
    if not found:
        raise ValueError("damaged structure of boxes (no image)")
    return Pictures(
        max(each.held for each in found), sum(each.decoded for each in found), max(each.planes for each in found)
    )


def _of_stream(stream: Coded) -> Pictures:
    if not stream.pixels or not stream.number:
        raise ValueError("damaged structure of boxes (an item without a picture)")
    return Pictures(stream.pixels * min(stream.number, _KEPT_PICTURES), stream.pixels * stream.number, stream.planes)


def _item(file: _File, item: int, known: dict[int, Pictures], above: tuple[int, ...]) -> Pictures:
    """Pictures of an item, with those that it is derived from and its alpha."""
    if item in known:
        return known[item]
    if item in above or len(above) > 8:
        raise ValueError("its items are derived from each other")
    kind = file.kinds.get(item, b"")
    if sum(file.properties[number - 1][0] in _TRANSFORMS for number in file.used[item] if number) > MOST_TRANSFORMS:
        raise ValueError(f"it is turned and cropped more than {MOST_TRANSFORMS} times")
    if kind in _DERIVED:
        own = _canvas(kind, _content(file, item))
        sources = file.references[item]
    elif kind == b"av01":
        own, sources = _of_stream(av1_pictures(_content(file, item))), []
    elif kind == b"hvc1":
        own, sources = _hevc(file, item), []
    else:
        raise ValueError(f"its image is stored as {kind.decode('ascii', 'replace')!r}, which is not read here")
    parts = [_item(file, source, known, (*above, item)) for source in sources]
    alphas = [_item(file, alpha, known, (*above, item)) for alpha in file.auxiliary[item]]
    held = own.held + max((part.held for part in parts), default=0)
    known[item] = Pictures(
        max([held, *(alpha.held for alpha in alphas)]),
        own.decoded + sum(each.decoded for each in (*parts, *alphas)),
        max(each.planes for each in (own, *parts, *alphas)),
    )
    return known[item]


def _canvas(kind: bytes, content: bytes) -> Pictures:
    if kind == b"iden":
        return Pictures(0, 0, 0)
    form = ">II" if content[1] & 1 else ">HH"
    width, height = struct.unpack_from(form, content, 4 if kind == b"grid" else 10)
    return Pictures(width * height, width * height, 0)


def _hevc(file: _File, item: int) -> Pictures:
    units, length_bytes = [], 4
    for number in file.used[item]:
        kind, content = file.properties[number - 1] if number else (b"", b"")
        if kind != b"hvcC":
            continue
        length_bytes, place = (content[21] & 3) + 1, 23
        for _ in range(content[22]):
            (count,) = struct.unpack_from(">H", content, place + 1)
            place += 3
            for _ in range(count):
                (size,) = struct.unpack_from(">H", content, place)
                units.append(content[place + 2 : place + 2 + size])
                place += 2 + size
    stream = nal_units(_content(file, item), length_bytes)
    return _of_stream(hevc_pictures([unit for unit in units if len(unit) >= 2] + stream))


def _content(file: _File, item: int) -> bytes:
    pieces = []
    for method, offset, length in file.parts.get(item, []):
        if method > 1:
            raise ValueError("its items are parts of other items")
        source = file.data if method == 0 else file.inline
        pieces.append(source[offset : offset + length if length else None])
    return b"".join(pieces)


def _read(data: bytes) -> _File:
    file = _File(data)
    for kind, content in _boxes(data, 0, len(data)):
        _take(file, kind, data[content[0] : content[1]] if kind not in _CONTAINERS else b"")
    if len(file.kinds) > MOST_ITEMS:
        raise ValueError(f"it has more than {MOST_ITEMS:,} items")
    if sum(length or len(data) for parts in file.parts.values() for _, _, length in parts) > 4 * len(data) + 2**24:
        raise ValueError("its items are larger than the file")
    file.tracks = [track for track in file.tracks if all(track)]
    return file


def _boxes(data: bytes, start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Kinds of boxes, and start and end of their contents; a container before what it contains."""
    place = start
    while place + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, place)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, place + 8), 16
        size = size or end - place
        if size < header or place + size > end:
            if kind == b"mdat":  # cut off, as is its image
                return
            raise EOFError(f"box {kind!r} is cut off")
        yield kind, (place + header, place + size)
        if kind in _CONTAINERS and depth < 8 and not (kind == b"meta" and depth):
            yield from _boxes(data, place + header + 4 * (kind == b"meta"), place + size, depth + 1)
        place += size


def _take(file: _File, kind: bytes, content: bytes) -> None:
    """Note what a box says."""
    if kind == b"pitm":
        file.primary = int.from_bytes(content[4:6] if content[0] == 0 else content[4:8], "big")
    elif kind == b"idat":
        file.inline = content
    elif kind == b"iinf":
        for inner, (start, end) in _boxes(content, 6 if content[0] == 0 else 8, len(content)):
            if inner == b"infe":
                _take_entry(file, content[start:end])
    elif kind == b"iloc":
        _take_locations(file, content)
    elif kind == b"ipco":
        file.properties += [(inner, content[start:end]) for inner, (start, end) in _boxes(content, 0, len(content))]
    elif kind == b"ipma":
        _take_associations(file, content)
    elif kind == b"iref":
        _take_references(file, content)
    elif kind == b"trak":
        file.tracks.append([0, 0, 0])
    elif kind in (b"stco", b"co64") and file.tracks:
        file.tracks[-1][0] = int.from_bytes(content[8 : 12 if kind == b"stco" else 16], "big")
    elif kind == b"stsz" and file.tracks:
        file.tracks[-1][1] = int.from_bytes(content[4:8], "big") or int.from_bytes(content[12:16], "big")
    elif kind == b"stsd" and file.tracks:
        file.tracks[-1][2] = int(content[12:16] == b"av01")


def _take_entry(file: _File, content: bytes) -> None:
    form, size = (">H", 2) if content[0] < 3 else (">I", 4)
    (item,) = struct.unpack_from(form, content, 4)
    if item in file.kinds:
        raise ValueError("two of its items have the same number")
    file.kinds[item] = content[4 + size + 2 : 4 + size + 6]


def _take_locations(file: _File, content: bytes) -> None:
    version, offsets, lengths = content[0], content[4] >> 4, content[4] & 15
    bases, indices = content[5] >> 4, content[5] & 15 if version else 0
    place = 6

    def number(size: int) -> int:
        nonlocal place
        place += size
        if place > len(content):
            raise EOFError("box 'iloc' is cut off")
        return int.from_bytes(content[place - size : place], "big")

    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(bases)
        parts = file.parts.setdefault(item, [])
        for _ in range(number(2)):
            number(indices)
            offset = base + number(offsets)
            parts.append((method, offset, number(lengths)))


def _take_associations(file: _File, content: bytes) -> None:
    item_form, wide = (">I" if content[0] else ">H"), content[3] & 1
    (entries,) = struct.unpack_from(">I", content, 4)
    place = 8
    for _ in range(min(entries, len(content))):
        (item,) = struct.unpack_from(item_form, content, place)
        place += struct.calcsize(item_form)
        count = content[place]
        place += 1
        for _ in range(count):
            value = struct.unpack_from(">H" if wide else ">B", content, place)[0] & (0x7FFF if wide else 0x7F)
            place += 2 if wide else 1
            if value > len(file.properties):
                raise IndexError("an item has a property that does not exist")
            file.used[item].append(value)


def _take_references(file: _File, content: bytes) -> None:
    form = ">I" if content[0] else ">H"
    size = struct.calcsize(form)
    for kind, (start, end) in _boxes(content, 4, len(content)):
        (origin,) = struct.unpack_from(form, content, start)
        (count,) = struct.unpack_from(">H", content, start + size)
        targets = [
            struct.unpack_from(form, content, start + size + 2 + size * number)[0]
            for number in range(min(count, (end - start) // size))
        ]
        if kind == b"dimg":
            file.references[origin] += targets
        elif kind == b"auxl":
            for target in targets:
                file.auxiliary[target].append(origin)
