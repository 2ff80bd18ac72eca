"""Parquet files in the Hugging Face image layout: one file, or a folder of shards.

Rows stay in Arrow: in memory if the files take at most half of the free memory, else in a memory map (`arrow_cache`).

Layout: a column `image` (or `img`), a struct of `bytes` and `path`; a column `label`, integers with names in the
schema's `huggingface` metadata (ClassLabel), or text; the split in the name of the file or of its folder.
https://huggingface.co/docs/datasets/image_dataset
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.cache import cache_folder
from loupe.data.class_names import form_notes, index_of, same_forms, sorted_classes
from loupe.data.find_file import existing
from loupe.data.memory import default_budget
from loupe.data.origin import of_rows
from loupe.data.source_use import SourceUse
from loupe.data.sources import arrow_cache
from loupe.data.sources.boundary import Boundary, list_error
from loupe.data.sources.column_names import ONE
from loupe.data.sources.parquet_columns import FileColumns, resolve_files
from loupe.data.sources.parquet_pages import batch_rows, check_pages, limited
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import as_text
from loupe.data.sources.split_column import SplitRule
from loupe.data.splits.words import PREDICT, known_words, splits_of_files
from loupe.data.table import IMAGE, SCHEMA, ImageTable, describe, numbered, os_name, text_name
from loupe.errors import DataError, counted, enumerated
from loupe.log import logger, progress_bar, size_text

BATCH_ROWS = 1024  # rows read at a time, or fewer if they have more than BATCH_BYTES
BATCH_BYTES = 256 * 2**20  # far below 2 GiB, Arrow's limit for a column of structs


def open_parquet(
    files: Sequence[Path],
    root: Path,
    name: str,
    options: ReadOptions,
    *,
    labelled: bool = True,
    splits: Sequence[str | None] | None = None,
) -> ImageTable:
    """Open one file, or all shards of a data set, under `root`.

    Args:
        files: shards, whose columns have the same roles.
        root: folder that paths are relative to, unless the user named a folder of images.
        name: name of the data set.
        options: columns, and folder of the images that are not in the files.
        labelled: False for images to predict, whose labels are not read.
        splits: split of each file without a column of splits; None for those in the names of the files.

    Raises:
        DataError: the layout is not supported, or a file cannot be read.
        DiskError: the files do not fit in memory, and a mapped copy cannot be written.
    """
    found, columns = resolve_files(files, options, labelled=labelled)
    columns = _with_splits(files, columns, root, splits)
    for file, own in zip(files, columns, strict=True):
        if (own.is_text, own.forms) != (columns[0].is_text, columns[0].forms):
            raise DataError(
                f"{file}: its class names or label type differ from those of {files[0]}. "
                "Use the two as separate data sets."
            )
    try:
        size, budget = sum(file.stat().st_size for file in files), default_budget()
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}.") from None
    if size > budget:
        folder = cache_folder() / "rows"
        logger.info(
            f"{name} takes {size_text(size)}, above the memory budget of {size_text(budget)}. It is read from a "
            f"memory-mapped copy under {folder}."
        )
        pieces = _mapped(files, columns, folder)
    else:
        pieces = [pa.concat_tables(_read(*each)) for each in zip(files, columns, strict=True)]
    names = [text_name(file.relative_to(root).as_posix()) for file in files]
    counts = [piece.num_rows for piece in pieces]
    rows = pa.concat_tables(_distinct_paths(pieces, names))
    if rows.num_rows == 0:
        raise DataError(f"{root / name}: there are no rows in it.")
    split_words = rows["split"]
    rows, aside = _set_aside(rows)
    texts = [] if pa.types.is_integer(rows["label"].type) else rows["label"].unique().drop_null().to_pylist()
    rows, classes = _class_indices(rows, columns[0].classes, name)
    notes = [describe(rows, classes), *found.notes]
    notes += [*_notes(rows, files), *form_notes(texts), *aside] if labelled else []
    uses = tuple(_uses(rows["label"], split_words, names, counts, classes)) if labelled else ()
    folder = options.images or root.resolve()
    outside = _outside(rows, Boundary(folder, follow_links=options.follow_links), root / name)
    return ImageTable(
        rows, classes, name, folder, tuple(notes), origin=of_rows(names, counts), layout=uses, outside=outside
    )


def _outside(rows: pa.Table, boundary: Boundary, name: Path) -> dict[str, str]:
    """Target of each path without bytes that leads out of the folder of the images.

    Raises:
        DataError: no image lies inside.
    """
    found: dict[str, str] = {}
    leading = 0
    for chunk in rows["image"].chunks:
        paths = pc.struct_field(chunk, "path").filter(pc.is_null(pc.struct_field(chunk, "bytes"))).drop_null()
        for path in paths.to_pylist():
            with suppress(OSError, ValueError):  # no file can have the name: a damaged image, when it is read
                file = boundary.folder / existing(boundary.folder, os_name(path))
                if target := boundary.outside(file):
                    found[path] = target
                    leading += 1
    if leading == rows.num_rows:
        raise list_error(name, boundary.folder, list(found), rows.num_rows)
    return found


def _with_splits(
    files: Sequence[Path], columns: Sequence[FileColumns], root: Path, given: Sequence[str | None] | None
) -> list[FileColumns]:
    """Columns of each file with the split that is given or in its name, for files without a column of splits."""
    if given is not None:
        pairs = zip(columns, given, strict=True)
        return [found if found.split else replace(found, named_split=split) for found, split in pairs]
    both = zip(files, columns, strict=True)
    names = [text_name(file.relative_to(root).as_posix()) for file, found in both if found.split is None]
    named = iter(splits_of_files(names, str(root)) if names else ())
    return [found if found.split else replace(found, named_split=next(named)) for found in columns]


def _mapped(files: Sequence[Path], columns: Sequence[FileColumns], folder: Path) -> list[pa.Table]:
    """Rows of each file from mapped copies, which are written if they do not exist."""
    pieces = []
    with progress_bar() as progress:
        bar = progress.add_task("copying rows", total=len(files), note="")
        for file, found in zip(files, columns, strict=True):
            pieces.append(arrow_cache.mapped(file, [asdict(found)], folder, partial(_read, file, found)))
            progress.advance(bar)
    return pieces


def _read(file: Path, columns: FileColumns) -> Iterator[pa.Table]:
    """Rows of a file in chunks, in `SCHEMA` except for the label, which keeps its type."""
    split = columns.split.name if columns.split else None
    named = (columns.image, columns.label, *columns.one_hot, split, columns.group)
    names = [*dict.fromkeys(name for name in named if name is not None)]
    try:
        with pq.ParquetFile(file) as source:
            empty = source.schema_arrow.empty_table().select(names)
            yield image_rows(empty, columns, file)
            sizes = check_pages(file)
            rows = batch_rows(sizes, min(BATCH_ROWS, BATCH_BYTES // max(1, sizes.row)))
            for batch in limited(source.iter_batches(rows, columns=names), file):
                yield image_rows(pa.Table.from_batches([batch]), columns, file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet: {error}. It may be truncated; download it again."
        ) from None


def image_rows(table: pa.Table, columns: FileColumns, file: Path) -> pa.Table:
    """Rows in `SCHEMA` except for the label, which keeps its type."""
    n = table.num_rows
    split = (
        _splits(table[columns.split.name], columns.split, file)
        if columns.split
        else pa.repeat(pa.scalar(columns.named_split, pa.string()), n)
    )
    group = _filled(as_text(table[columns.group])) if columns.group else pa.nulls(n, pa.string())
    image = pa.chunked_array([_image(chunk) for chunk in table[columns.image].chunks], IMAGE)
    return pa.table({"image": image, "label": _labels(table, columns, file), "split": split, "group": group})


def _labels(table: pa.Table, columns: FileColumns, file: Path) -> pa.ChunkedArray | pa.Array:
    """Labels as integers or text; null for an unlabelled row."""
    if columns.one_hot:
        flags_NK = np.stack([_flags(table[name]) for name in columns.one_hot], axis=1)
        if (wrong := np.flatnonzero(flags_NK.sum(axis=1) != 1)).size:
            raise DataError(
                f"{file}: {counted(wrong.size, 'row')} without a single 1 in the one-hot columns "
                f"{enumerated(columns.one_hot, most=5)}."
            )
        return pa.array([columns.one_hot[k] for k in flags_NK.argmax(axis=1)], pa.string())
    if columns.label is None:
        return pa.nulls(table.num_rows, pa.string())
    label = table[columns.label]
    if not pa.types.is_integer(label.type):
        return _filled(as_text(label))
    if pa.types.is_uint64(label.type) and (largest := pc.max(label).as_py() or 0) >= 2**63:
        raise DataError(f"{file}: label {largest} has more than 63 bits. Store the labels as text.")
    return label.cast(pa.int64())


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([word is not None and word.casefold() in ONE for word in column.cast(pa.string()).to_pylist()])


def _filled(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words with null for empty ones, as for empty cells of a CSV file."""
    return pc.if_else(pc.equal(words, ""), None, words)


def _image(chunk: pa.Array) -> pa.Array:
    """Chunk of images as the struct of `SCHEMA`, without copying the bytes. A row without an image is null in both."""
    data, path = pa.nulls(len(chunk), pa.binary()), pa.nulls(len(chunk), pa.string())
    if not pa.types.is_struct(chunk.type):
        data = chunk.cast(pa.binary())
    if pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0:
        data = pc.struct_field(chunk, "bytes").cast(pa.binary())
    if pa.types.is_struct(chunk.type) and chunk.type.get_field_index("path") >= 0:
        path = _text(pc.struct_field(chunk, "path"))
        path = pc.if_else(pc.and_(pc.is_null(data), pc.equal(path, "")), None, path)
    return pa.StructArray.from_arrays([data, path], fields=list(IMAGE))


def _text(names: pa.Array) -> pa.Array:
    """Names as text, also those that are not UTF-8 in a column that claims it."""
    try:
        text = as_text(pa.chunked_array([names])).combine_chunks()
    except pa.ArrowInvalid:  # bytes
        raw = names.cast(pa.binary()).to_pylist()
        return pa.array([None if name is None else text_name(os.fsdecode(name)) for name in raw], pa.string())
    return text


def _splits(column: pa.ChunkedArray, rule: SplitRule, file: Path) -> pa.ChunkedArray:
    """Column of splits as train, val, test, or null for an empty cell."""
    words = as_text(column)
    result = _filled(words)
    for word in filter(None, words.unique().to_pylist()):
        try:
            split = rule.split(word)
        except ValueError:
            raise DataError(
                f"{file}: split {word!r} is not known. A split has one of the words {known_words()}."
            ) from None
        result = pc.if_else(pc.equal(words, word), split, result)
    return result


def _set_aside(rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows in which those of the split predict have neither a split nor a label, and a note on them."""
    is_aside = pc.fill_null(pc.equal(rows["split"], PREDICT), False)
    images = pc.sum(is_aside).as_py() or 0
    if not images:
        return rows, []
    for number, name in enumerate(rows.column_names):
        if name in ("label", "split"):
            rows = rows.set_column(number, name, pc.if_else(is_aside, None, rows[name]))
    return rows, [f"Set aside for `loupe predict`: {counted(images, 'unlabelled image')}."]


def _uses(
    label: pa.ChunkedArray,
    split: pa.ChunkedArray,
    names: Sequence[str],
    counts: Sequence[int],
    classes: Sequence[str],
) -> Iterator[SourceUse]:
    """Use of each file, or of each split in it."""
    start = 0
    for name, count in zip(names, counts, strict=True):
        labels, splits = label.slice(start, count), split.slice(start, count)
        start += count
        present = splits.unique().to_pylist()
        for word in present:
            chosen = pc.is_null(splits) if word is None else pc.fill_null(pc.equal(splits, word), False)
            found = sorted(pc.unique(labels.filter(chosen).drop_null()).to_pylist())
            source = name if len(present) == 1 else f"{name}: split {word or 'not given'}"
            images = pc.sum(chosen).as_py()
            yield SourceUse(source, word or "no split", tuple(classes[k] for k in found), images)


def _class_indices(rows: pa.Table, classes: tuple[str, ...] | None, name: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Rows with class indices as labels, and the classes; -1 means unlabelled, as in Hugging Face's data sets."""
    label = rows["label"]
    if pa.types.is_integer(label.type):
        label = pc.if_else(pc.equal(label, -1), None, label)
    if classes is None:
        values = [value for value in label.unique().to_pylist() if value is not None]
        classes = sorted_classes(values)
        index = index_of(classes)
        place = pc.index_in(label, pa.array(values, label.type))
        label = pa.array([index[form] for form in same_forms(map(str, values))], pa.int64()).take(place)
    extent = pc.min_max(label).as_py()
    if wrong := [v for v in extent.values() if v is not None and not 0 <= v < len(classes)]:
        raise DataError(
            f"{name}: label {wrong[0]} is out of range. Its schema has {counted(len(classes), 'class')}, so labels "
            f"must be 0 to {len(classes) - 1}, or -1 for unlabelled."
        )
    return rows.set_column(1, "label", label).cast(SCHEMA), classes


def _notes(rows: pa.Table, files: Sequence[Path]) -> list[str]:
    notes = []
    if unlabelled := rows["label"].null_count:
        notes.append(f"{counted(unlabelled, 'row')} without a label (null, -1 or empty).")
    counts = {
        match[1]: int(match[2]) for file in files if (match := re.search(r"(.*)-\d+-of-(\d+)\.parquet$", str(file)))
    }
    for stem, expected in counts.items():
        present = sum(str(file).startswith(f"{stem}-") for file in files)
        if len(files) > 1 and present < expected:
            notes.append(f"{Path(stem).name}: only {present:,} of {counted(expected, 'shard')} found.")
    return notes


def _distinct_paths(pieces: list[pa.Table], names: Sequence[str]) -> list[pa.Table]:
    """Pieces with unique paths: their own if unique, else `shard#row` for images with bytes."""
    chunks = [chunk for piece in pieces for chunk in piece["image"].chunks]
    own = pa.chunked_array([pc.struct_field(chunk, "path") for chunk in chunks], pa.string())
    data = pa.chunked_array([pc.struct_field(chunk, "bytes") for chunk in chunks], pa.binary())
    own = own.filter(pc.or_(pc.is_valid(own), pc.is_valid(data)))  # a row without an image has no name to compare
    if own.null_count == 0 and pc.count_distinct(own).as_py() == len(own):
        return pieces
    return [_numbered(piece, name) for piece, name in zip(pieces, names, strict=True)]


def _numbered(piece: pa.Table, prefix: str) -> pa.Table:
    chunks, start = [], 0
    for chunk in piece["image"].chunks:
        data, own = pc.struct_field(chunk, "bytes"), pc.struct_field(chunk, "path")
        path = pc.if_else(pc.is_valid(data), numbered(prefix, start, start + len(chunk)), own)
        chunks.append(pa.StructArray.from_arrays([data, path], fields=list(IMAGE)))
        start += len(chunk)
    return piece.set_column(0, "image", pa.chunked_array(chunks, IMAGE))
