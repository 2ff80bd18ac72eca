"""Samples of a tar in the WebDataset layout: members that share a key, found by their headers and never extracted.

The key of a member is its path up to the first dot of its last component; what follows is its extension. Members of
one sample stand next to each other. Links, devices and folders are no members. https://github.com/webdataset/webdataset
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from loupe.data.formats import format_of_suffix, image_suffixes
from loupe.data.table import text_name
from loupe.errors import DataError, enumerated

TEXTS = ("cls", "label", "class", "json", "txt")
"""Extensions of members that are read: the label of a sample, or an object with its fields."""
MAX_TEXT_BYTES = 2**20
MAX_LABEL_BYTES = 2**12
"""Longest member that can be a label. Of a longer object, the fields that can be are kept."""
_MAX_HEADER_BYTES = 2**20  # of a long name or a pax header, which tarfile reads as a whole
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__")
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_ZEROS = bytes(tarfile.BLOCKSIZE)


@dataclass
class Sample:
    """Members that share a key: place (first byte, size) of each image by extension, and short texts by theirs."""

    key: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # format of each image that cannot be decoded here

    @property
    def extensions(self) -> set[str]:
        return {*self.images, *self.texts, *self.unread}


@dataclass
class Skipped:
    """Members that are no part of a sample, by kind: links, devices, members without an extension."""

    kinds: Counter[str] = field(default_factory=Counter)


def samples(file: BinaryIO, name: str, skipped: Skipped, *, texts: bool = True) -> Iterator[Sample]:
    """Samples of a tar in the order of their members. The file stays open, and may be read between two samples.

    Args:
        file: the tar, at its beginning.
        name: its name, for messages.
        skipped: gets the numbers of members that are left out.
        texts: read the short texts; else all are empty.

    Raises:
        DataError: it is compressed, damaged or truncated, or a sample has two members of one extension.
        OSError: it cannot be read.
    """
    sample: Sample | None = None
    for member in members(file, name):
        found = _NAME.fullmatch(member.name)
        if not member.isreg() or member.issparse():
            if not member.isdir():
                skipped.kinds[_kind(member)] += 1
            continue
        if not found or _META.fullmatch(member.name):
            skipped.kinds["file without an extension"] += not _META.fullmatch(member.name)
            continue
        key, extension = found[1], found[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if extension in sample.extensions:
            raise DataError(
                f"{name}: the sample {text_name(key)} has two members .{text_name(extension)}. A key names one sample: "
                "rename one of them and write the tar again."
            )
        _add(sample, extension, member, file if texts else None, name)
    if sample is not None:
        yield sample


def _add(sample: Sample, extension: str, member: tarfile.TarInfo, file: BinaryIO | None, name: str) -> None:
    suffix = f".{extension.rpartition('.')[2]}"
    if suffix in image_suffixes():
        sample.images[extension] = (member.offset_data, member.size)
    elif known := format_of_suffix(suffix):
        sample.unread[extension] = known
    elif extension in TEXTS and member.size <= (MAX_TEXT_BYTES if extension == "json" else MAX_LABEL_BYTES):
        if file is None:
            sample.texts[extension] = ""
            return
        back = file.tell()
        file.seek(member.offset_data)
        data = file.read(member.size)
        file.seek(back)
        try:
            text = data.decode("utf-8-sig")
            sample.texts[extension] = text if len(data) <= MAX_LABEL_BYTES else _short_fields(text)
        except UnicodeDecodeError as error:
            if extension == "txt":  # any text, which is rarely a label
                return
            where = f"{text_name(member.name)} ({error.reason} at byte {error.start})"
            raise DataError(f"{name}: {where} is not UTF-8. Write it as UTF-8.") from None


def _short_fields(text: str) -> str:
    """JSON with those of its fields that can be labels: texts of limited length, numbers (as texts), and booleans."""
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return text  # reported where labels are read
    pairs = value.items() if isinstance(value, dict) else [("json", value)]
    kept = {k: v for k, v in pairs if isinstance(v, bool) or (isinstance(v, str) and len(v) <= MAX_LABEL_BYTES)}
    return json.dumps(kept)


def members(file: BinaryIO, name: str) -> Iterator[tarfile.TarInfo]:
    """Headers of a tar up to its end mark, without which it is truncated.

    Raises:
        DataError: it is compressed, damaged or truncated.
        OSError: it cannot be read.
    """
    head = file.read(6)
    file.seek(0)
    if packed := next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), None):
        raise DataError(
            f"{name}: it is compressed ({packed}), so that no image in it can be read alone. Images are compressed "
            "already: unpack it to a plain .tar, and give that."
        )
    headers, place = _Headers(file), -1
    try:
        with _Archive(fileobj=headers, mode="r") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # which would keep all of them
                if member.size < 0 or member.offset <= place:  # a size that leads back, in a loop without an end
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes at byte {member.offset:,}")
                place = member.offset
                yield member
            end = archive.offset
    except RecursionError:
        raise _damaged(name, "more headers of one member than any writer makes") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _damaged(name, str(error)) from None
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block != _ZEROS:
        reason = f"no header at byte {end:,}" if len(block) == tarfile.BLOCKSIZE else "it ends without an end mark"
        raise _damaged(name, reason)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    return "sparse file" if member.isreg() else "device"


def _damaged(name: str, reason: str) -> DataError:
    return DataError(f"{name}: damaged or truncated tar: {reason}. Copy or download it again.")


class _Headers:
    """File of a tar of which headers of at most a mebibyte are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read a header.

        Raises:
            ReadError: it is larger than any that names a file.
        """
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Position in the file."""
        return self._file.tell()

    def write(self, data: bytes) -> int:
        """Refuse to write."""
        raise tarfile.ReadError("it is only read")

    def close(self) -> None:
        """Leave the file open, which is the caller's."""


class _Archive(tarfile.TarFile):
    members: list[tarfile.TarInfo]


def image_of(sample: Sample, chosen: str | None, name: str) -> str | None:
    """Extension of the image of a sample; None for a sample without one that can be read.

    Args:
        chosen: extension that the user chose; None for the only one, or the only one without a second dot.

    Raises:
        DataError: a sample has several images.
    """
    if chosen is not None:
        return chosen if chosen in sample.images else None
    plain = [extension for extension in sample.images if "." not in extension]
    found = plain if plain else [*sample.images]
    if len(found) > 1:
        raise DataError(
            f"{name}: the sample {text_name(sample.key)} has the images {enumerated(sorted(found), most=5)}. Choose "
            f"one by its extension: --columns path={found[0]}"
        )
    return found[0] if found else None


def kinds_of(skipped: Mapping[str, int]) -> str:
    """Numbers of members that are left out, for a note."""
    return ", ".join(f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in sorted(skipped.items()))
