"""ImageTable, the common form of all sources of images, and helpers that sources share."""

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loupe.data.class_names import hint, index_of, same_form, same_forms
from loupe.data.elsewhere import Elsewhere
from loupe.data.find_file import existing
from loupe.data.origin import Origin
from loupe.data.shards import Shards
from loupe.data.source_use import SourceUse
from loupe.data.unread import UnreadFiles, sentences_on
from loupe.errors import DataError, ImageError, counted, enumerated

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("image", IMAGE), ("label", pa.int64()), ("split", pa.string()), ("group", pa.string())])

MAX_FILE_BYTES = 2**28
"""Largest size of one image file. 256 MiB are more than the pixels of any image that is decoded take as a file."""
SLICED_ROWS = 64  # selected rows in runs of at least this average length are sliced and not copied


@dataclass(frozen=True)
class ImageTable:
    """Table of labelled images, independent of their source.

    Attributes:
        rows: Arrow table with the columns of `SCHEMA`: `image` (`bytes`, or null if the file is at `path` under
            `root`), `label` (null if unlabelled), `split` (train, val, test or null) and `group` (null for none).
        classes: class names; label i is `classes[i]`. Their order is stored and never sorted again.
        name: name of the data set.
        root: folder of the files; None for images held in the table.
        notes: sentences about the data, shown by the caller.
        origin: file and line or row of each image, where a file lists them; None for folders and arrays.
        unread: image files of the source that cannot be read here, and are not in the table.
        layout: use of each folder, file or value; empty where nothing had to be understood.
        outside: target of each path that leads out of the folder of the data, and is not read.
        shards: place of each image in shards, which hold the bytes in place of the table; None for other sources.
        elsewhere: address and versions of data that lies elsewhere; None for data on this disk.

    Raises:
        DataError: labels are out of range, a class name repeats, or a split is unknown.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    name: str
    root: Path | None = None
    notes: tuple[str, ...] = ()
    unread: tuple[UnreadFiles, ...] = ()
    origin: Origin | None = None
    layout: tuple[SourceUse, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    shards: Shards | None = None
    elsewhere: Elsewhere | None = None

    def __post_init__(self) -> None:
        if not self.rows.schema.equals(SCHEMA):
            raise TypeError(f"an ImageTable must have the columns {SCHEMA}; got {self.rows.schema}")
        self._check_labels()
        if not _is_valid("".join(self.classes)):
            wrong = [name for name in self.classes if not _is_valid(name)]
            raise DataError(
                f"{self.name}: the class name {wrong[0]!a} has half of a surrogate pair, which no file can hold. "
                "Rename it."
            )
        if len(set(forms := same_forms(self.classes))) < len(forms):
            repeated = [name for name, n in Counter(forms).items() if n > 1]
            raise DataError(f"{self.name}: class names must be unique; {repeated[0]!r} repeats. Rename one of them.")
        if unknown := sorted(set(self.rows["split"].unique().to_pylist()) - {"train", "val", "test", None}):
            raise DataError(f"{self.name}: split {unknown[0]!r} is not known. Splits are train, val and test.")

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Unique display name of each image; the second `a.png` is `a.png (2)`."""
        names: list[str | None] = pc.struct_field(self.rows["image"], "path").to_pylist()
        if self.origin is not None and None in names:
            names = [self.origin.name(i) if name is None else name for i, name in enumerate(names)]
        present = [name if name is not None else self.name for name in names]
        if len(set(present)) == len(present):
            return tuple(present)
        taken, unique = set(present), []
        seen: dict[str, int] = {}
        for name in present:
            number, shown = seen.get(name, 0) + 1, name
            while number > 1 and (shown := f"{name} ({number})") in taken:
                number += 1
            seen[name] = number
            unique.append(shown)
        return tuple(unique)

    @cached_property
    def file_names(self) -> list[str | None]:
        """Name under `root` of each image's file, the same for rows of one file; None for an image without a file."""
        if self.shards is not None:
            return [None] * len(self)
        image = self.rows["image"]
        names = pc.if_else(pc.is_null(pc.struct_field(image, "bytes")), pc.struct_field(image, "path"), None)
        return list(names.to_pylist())

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each image; -1 if unlabelled."""
        return np.asarray(pc.fill_null(self.rows["label"], -1), dtype=np.int64)

    @cached_property
    def splits(self) -> list[str | None]:
        return list(self.rows["split"].to_pylist())

    @cached_property
    def groups(self) -> list[str | None]:
        """Group of each image, in the form in which names are compared."""
        if self.rows["group"].null_count == len(self):
            return [None] * len(self)
        return [group and same_form(group) for group in self.rows["group"].to_pylist()]

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of images of each class, over all splits."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def warnings(self) -> list[str]:
        """Sentences about images that are left out, shown by the caller as warnings."""
        return sentences_on(self.unread, self.class_counts) if self.unread else []

    @property
    def shard_N(self) -> NDArray[np.int32] | None:  # noqa: N802 - an array, with its shape
        """Shard of each image: the tar or file of rows that has it; None for images that do not lie in shards."""
        if self.shards is not None:
            return self.shards.shard_N
        return None if self.origin is None else self.origin.file_N

    def file(self, i: int) -> Path | None:
        """Path of image `i`; None if the table or a shard holds its bytes.

        Raises:
            ImageError: the table has neither bytes nor a path, or the path leads out of the folder of the data.
        """
        if self.shards is not None or self._field(i, "bytes").is_valid:
            return None
        name = self._field(i, "path").as_py()
        if name is None:
            raise ImageError(self.paths[i], "no image: neither bytes nor a path")
        if name in self.outside:
            target = self.outside[name]
            raise ImageError(
                self.paths[i], f"it leads out of the folder of the data, to {target}: not read without --follow-links"
            )
        root = self.root or Path()
        return root / existing(root, os_name(name))

    def encoded(self, i: int) -> bytes:
        """Bytes of image file `i`, from the table, its shard or the disk.

        Raises:
            ImageError: the file cannot be read (from the OSError of the system), or is larger than `MAX_FILE_BYTES`.
            LoupeError: its shard cannot be fetched, or has changed.
        """
        if self.shards is not None:
            return self._from_shard(self.shards, i)
        data = self._field(i, "bytes")
        if data.is_valid:
            if data.as_buffer().size > MAX_FILE_BYTES:
                raise ImageError(self.paths[i], _too_large(data.as_buffer().size))
            return bytes(data.as_py())
        file = self.file(i)
        assert file is not None
        cause: Exception | None = None
        try:
            status = file.stat()
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(self.paths[i], _too_large(status.st_size))
            if S_ISREG(status.st_mode):
                with file.open("rb") as opened:
                    return opened.read(status.st_size)  # not to its end, which may move while it is read
            reason = "it is not a regular file"  # a device has no end, and a pipe waits
        except ImageError:
            raise
        except (OSError, ValueError) as error:  # the latter for a null character in the name
            reason, cause = getattr(error, "strerror", None) or str(error), error
        raise ImageError(self.paths[i], f"cannot be read: {reason}") from cause

    def _from_shard(self, shards: Shards, i: int) -> bytes:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        if shards.size_N[i] > MAX_FILE_BYTES:
            raise ImageError(self.paths[i], _too_large(int(shards.size_N[i])))
        try:
            return shards.read(i)
        except OSError as error:
            raise ImageError(self.paths[i], f"cannot be read: {error.strerror or error}") from None

    def located(self, i: int, error: ImageError) -> ImageError:
        """Error of image `i` with the file and the line or row that list it."""
        return error if self.origin is None else ImageError(error.path, f"{error.reason} ({self.origin.place(i)})")

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "ImageTable":
        """Table of the images at `indices`, in that order, with the same classes, name and notes."""
        chosen = np.asarray(indices, dtype=np.int64)
        origin = None if self.origin is None else self.origin.select(chosen)
        shards = None if self.shards is None else self.shards.select(chosen)
        return replace(self, rows=_take(self.rows, chosen), origin=origin, shards=shards)

    def with_classes(self, classes: Sequence[str]) -> "ImageTable":
        """Table of the same images with other classes, or the same in another order, matched by name.

        Raises:
            DataError: a labelled class is not among `classes`.
        """
        if tuple(classes) == self.classes:
            return self
        labels = match_classes(self, classes)
        column = pa.array(labels, pa.int64(), mask=labels < 0)
        return replace(self, rows=self.rows.set_column(1, SCHEMA.field("label"), column), classes=tuple(classes))

    @cached_property
    def _chunks(self) -> tuple[list[int], dict[str, list[pa.Array]]]:
        """First row and fields of each chunk, for faster access to rows than Arrow's own."""
        chunks = self.rows["image"].chunks
        starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])[:-1].tolist()
        return starts, {name: [pc.struct_field(chunk, name) for chunk in chunks] for name in ("bytes", "path")}

    def _field(self, i: int, name: str) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        starts, fields = self._chunks
        chunk = bisect_right(starts, i) - 1
        return fields[name][chunk][i - starts[chunk]]

    def _check_labels(self) -> None:
        extent = pc.min_max(self.rows["label"]).as_py()
        wrong = [v for v in extent.values() if v is not None and not 0 <= v < len(self.classes)]
        if wrong:
            raise DataError(
                f"{self.name}: label {wrong[0]} is out of range. With {counted(len(self.classes), 'class')}, labels "
                f"are 0 to {len(self.classes) - 1}. Correct the labels, or name all classes."
            )


def make_rows(*, n: int, path: Any, label: Any, data: Any = None, split: Any = None, group: Any = None) -> pa.Table:
    """Arrow table of `n` rows in `SCHEMA`; a column is an array, a list, one value for all rows, or None for null."""
    columns = {
        "label": _column(label, pa.int64(), n),
        "split": _column(split, pa.string(), n),
        "group": _column(group, pa.string(), n),
    }
    fields = [_column(data, pa.binary(), n), _column(path, pa.string(), n)]
    return pa.table({"image": pa.StructArray.from_arrays(fields, fields=list(IMAGE)), **columns}, schema=SCHEMA)


def numbered(prefix: str, start: int, stop: int, separator: str = "#") -> pa.Array:
    """Names `prefix#start` to `prefix#(stop - 1)` as an Arrow array."""
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(np.arange(start, stop)), pa.string()), separator)


def describe(rows: pa.Table, classes: Sequence[str]) -> str:
    """First note of every source: number of images, classes and splits."""
    names = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    text = f"{counted(rows.num_rows, 'image')} in {counted(len(classes), 'class')} ({names})"
    counts = split_counts(rows)
    given = ", ".join(f"{name} {counts[name]:,}" for name in ("train", "val", "test") if name in counts)
    if not given:
        return f"{text}; no splits given."
    rest = f", {counts[None]:,} in none" if None in counts else ""
    return f"{text}; splits given: {given}{rest}."


def split_counts(rows: pa.Table) -> Mapping[str | None, int]:
    """Number of rows of each split; the key None counts the rows without a split."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["split"]).to_pylist()}


def text_name(name: str) -> str:
    """File name as valid text: bytes that are not UTF-8 become `\\xNN`; the inverse is `os_name`."""
    if "\\x" not in name and name.isprintable():
        return name
    escaped = name.replace("\\x", "\\x5cx")
    try:
        return os.fsencode(escaped).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can have in its name
        return escaped.encode("utf-8", "backslashreplace").decode()


def os_name(text: str) -> str:
    """File name of the operating system for a `text_name`; other texts are returned unchanged."""
    if "\\x" not in text:
        return text
    head, *escaped = text.split("\\x")
    try:
        rest = b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in escaped)
    except ValueError:
        return text
    return os.fsdecode(head.encode() + rest)


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_large(size: int) -> str:
    return f"{size:,} bytes exceed the limit of {MAX_FILE_BYTES:,} for one image file"


def _column(values: Any, kind: pa.DataType, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, kind)
    if isinstance(values, str):
        return pa.repeat(pa.scalar(values, kind), n)
    if isinstance(values, pa.Array):
        return values.cast(kind)
    return pa.array(values, kind)


def _take(rows: pa.Table, indices: NDArray[np.int64]) -> pa.Table:
    """Take rows chunk by chunk for ascending indices, because Arrow cannot join chunks of more than 2 GiB.

    Long runs of rows are sliced and not copied, because they may exceed the memory.
    """
    if len(indices) and np.any(np.diff(indices) < 0):
        return rows.take(pa.array(indices)).cast(SCHEMA)
    pieces, start = [], 0
    for batch in rows.to_batches():
        low, high = np.searchsorted(indices, [start, start + batch.num_rows])
        if high > low:
            pieces += _taken(batch, indices[low:high] - start)
        start += batch.num_rows
    if len(indices) and not 0 <= indices[0] <= indices[-1] < start:
        raise IndexError(f"images {indices[0]} to {indices[-1]} of {start}")
    return pa.Table.from_batches(pieces, schema=SCHEMA)


def _taken(batch: pa.RecordBatch, indices: NDArray[np.int64]) -> list[pa.RecordBatch]:
    """Rows of a batch at ascending indices."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    if len(indices) < SLICED_ROWS * (len(breaks) + 1):
        return [batch.take(pa.array(indices))]
    return [batch.slice(run[0], len(run)) for run in np.split(indices, breaks)]


def match_classes(table: ImageTable, classes: Sequence[str]) -> np.ndarray:
    """Labels of a table as indices into `classes`, matched by name, -1 if unlabelled.

    Raises:
        DataError: a labelled class is not among `classes`.
    """
    index = index_of(classes)
    unknown = sorted(
        {table.classes[k] for k in np.unique(table.labels) if k >= 0 and same_form(table.classes[k]) not in index}
    )
    if unknown:
        raise DataError(
            f"{table.name}: the model does not know the {'class' if len(unknown) == 1 else 'classes'} "
            f"{enumerated(unknown)}. It knows {enumerated(classes)}. Classes are matched by name."
            f"{hint(unknown, classes)}"
        )
    lookup = np.array([index.get(same_form(name), -1) for name in table.classes] + [-1])
    return lookup[table.labels].astype(np.int64)
