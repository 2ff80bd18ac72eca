"""Tars in the WebDataset layout as a table, whose images stay in the tars.

A sample has the label of its member `.cls` (or `.label`, `.class`), else of a field of its `.json`, else of the folder
in its key. Where labels are numbers, a file of names beside the tars gives the classes their names. Splits are those of
a field, else of the names of the tars.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from loupe.data.class_names import are_numbers, form_notes, index_of, same_form, sorted_classes
from loupe.data.shards import LocalShard, ReadAhead, ShardFile, Shards
from loupe.data.source_use import uses_of_splits
from loupe.data.sources.archives import FILES as CIFAR_FILES
from loupe.data.sources.archives import MOST_OTHER_FILES as MOST_OTHERS
from loupe.data.sources.class_files import MOST_BYTES, NameReader, class_names, named
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.tar_index import TarIndex, indices
from loupe.data.sources.tar_labels import labels_of
from loupe.data.sources.tar_members import kinds_of, members
from loupe.data.splits.words import PREDICT, splits_of_files
from loupe.data.table import ImageTable, describe, make_rows, text_name
from loupe.data.unread import grouped
from loupe.errors import DataError, counted

UNLABELLED = frozenset({"", "-1"})


def is_cifar(path: Path) -> bool:
    """True for a tar that begins with files of a python archive of CIFAR, or is packed as those are."""
    try:
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                return True
            file.seek(0)
            return any(m.name.rpartition("/")[2] in CIFAR_FILES for m in islice(members(file, str(path)), MOST_OTHERS))
    except (DataError, OSError):
        return False


def open_local(files: Sequence[Path], root: Path, name: str, options: ReadOptions) -> ImageTable:
    """Open tars on this disk, under `root`.

    Raises:
        DataError: as for `open_tars`.
    """
    names = [text_name(file.relative_to(root).as_posix()) for file in files]

    def beside(wanted: str) -> bytes | None:
        for folder in (root, *{file.parent for file in files}):
            if os.path.isfile(folder / wanted) and (folder / wanted).stat().st_size < MOST_BYTES:  # noqa: PTH113
                return (folder / wanted).read_bytes()
        return None

    shards = [LocalShard.of(file) for file in files]
    where = str(files[0]) if len(files) == 1 else str(root)
    return open_tars(shards, names, where=where, name=name, options=options, beside=beside)


def open_tars(
    shards: Sequence[ShardFile],
    names: Sequence[str],
    *,
    where: str,
    name: str,
    options: ReadOptions,
    beside: NameReader,
    splits: Sequence[str | None] | None = None,
    read_ahead: ReadAhead | None = None,
) -> ImageTable:
    """Open tars as one table. Each is read once; afterwards the cache has its index.

    Args:
        shards: the tars.
        names: their paths relative to the data set, with forward slashes.
        where: place of the data set, for messages.
        name: name of the data set.
        options: `path` is the extension of the images, `label` an extension or a field of `.json`.
        beside: function that reads a file beside the tars by its name.
        splits: split of each tar; None for those in their names.
        read_ahead: function that fetches shards in the background; None for shards on this disk.

    Raises:
        DataError: a tar is damaged, or the samples have no images or no labels.
        LoupeError: a tar cannot be fetched.
    """
    image = options.columns.get("path", "").lstrip(".").lower() or None
    found = indices(shards, image, read_ahead)
    rows = pa.concat_tables([index.rows for index in found])
    if not rows.num_rows:
        raise DataError(f"{where}: there are no images in it{f' with the extension .{image}' if image else ''}.")
    shard_N = np.repeat(np.arange(len(shards), dtype=np.int32), [index.rows.num_rows for index in found])
    of_tars = splits_of_files(names, where) if splits is None else splits
    of = labels_of(rows, shard_N, of_tars, where=where, options=options)
    labels = [
        None if label in UNLABELLED or split == PREDICT else label
        for label, split in zip(of.labels, of.splits, strict=True)
    ]
    distinct = [label for label in dict.fromkeys(labels) if label is not None]
    classes, label_of, class_notes = _classes(distinct, beside, where)
    used = np.array(of.used, np.int64)
    members = rows["name"].to_pylist()
    table = make_rows(
        n=len(used),
        path=[f"{names[shard]}/{members[i]}" for shard, i in zip(shard_N[used].tolist(), of.used, strict=True)],
        label=[None if label is None else label_of[label] for label in labels],
        split=[None if split == PREDICT else split for split in of.splits],
        group=list(of.groups),
    )
    digest_N = np.frombuffer(b"".join(rows["sha256"].to_pylist()), np.uint8).reshape(-1, 32)
    places = Shards(tuple(shards), shard_N, rows["start"].to_numpy(), rows["size"].to_numpy(), digest_N).select(used)
    notes = [describe(table, classes), *of.notes, *class_notes, *form_notes(distinct)]
    notes += _notes(found, len(rows) - len(used), labels.count(None), of.splits)
    unread = grouped(
        (None, kind, f"{own}/{path}") for own, index in zip(names, found, strict=True) for path, kind in index.unread
    )
    uses = uses_of_splits(of.words, of.splits, labels, name)
    return ImageTable(table, classes, name, None, tuple(notes), unread, layout=uses, shards=places)


def _classes(
    labels: Sequence[str], beside: NameReader, where: str
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """Classes, index of each label, and a note on the file that names them."""
    known = class_names(beside, where) if labels and are_numbers(labels) else None
    if known is not None and not are_numbers(known[0]):
        names, file = known
        return names, named(labels, names, file, where), [f"Names of the classes are those of {file}."]
    classes = sorted_classes(labels)
    index = index_of(classes)
    return classes, {label: index[same_form(label)] for label in labels}, []


def _notes(found: Sequence[TarIndex], unused: int, unlabelled: int, splits: Sequence[str | None]) -> Iterator[str]:
    """Sentences about what is left out or has no label."""
    aside = splits.count(PREDICT)
    if unlabelled > aside:
        yield f"{counted(unlabelled - aside, 'sample')} without a label (no member or field, -1 or empty)."
    if aside:
        yield f"Set aside for `loupe predict`: {counted(aside, 'unlabelled image')}."
    if unused:
        yield f"Skipped {counted(unused, 'image')} outside of class folders."
    if without := sum(index.without_image for index in found):
        yield f"Skipped {counted(without, 'sample')} without an image."
    skipped: Counter[str] = Counter()
    for index in found:
        skipped.update(index.skipped)
    if skipped:
        yield f"Skipped members of the tars: {kinds_of(skipped)}."
