"""Parquet files in the Hugging Face image layout: one file, or a folder of shards.

Rows stay in Arrow: in memory if the files take at most half of the free memory, else in a memory map (`arrow_cache`).

Layout: a column `image` (or `img`), a struct of `bytes` and `path`; a column `label`, integers with names in the
schema's `huggingface` metadata (ClassLabel), or text; the split in the name of the file or of its folder.
https://huggingface.co/docs/datasets/image_dataset
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.cache import cache_folder
from loupe.data.memory import default_budget
from loupe.data.origin import of_rows
from loupe.data.sources import arrow_cache
from loupe.data.sources.column_names import ONE
from loupe.data.sources.parquet_columns import FileColumns, resolve_files
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.split_column import SplitRule
from loupe.data.table import (
    IMAGE,
    SCHEMA,
    SPLIT_NAMES,
    ImageTable,
    describe,
    numbered,
    sorted_classes,
    split_of,
    text_name,
)
from loupe.errors import DataError, counted, enumerated
from loupe.log import logger, progress_bar, size_text

BATCH_ROWS = 1024  # rows read at a time, or fewer if they have more than BATCH_BYTES
BATCH_BYTES = 256 * 2**20  # far below 2 GiB, Arrow's limit for a column of structs


def open_parquet(
    files: Sequence[Path], root: Path, name: str, options: ReadOptions, *, labelled: bool = True
) -> ImageTable:
    """Open one file, or all shards of a data set, under `root`.

    Args:
        files: shards, whose columns have the same roles.
        root: folder that paths are relative to, unless the user named a folder of images.
        name: name of the data set.
        options: columns, and folder of the images that are not in the files.
        labelled: False for images to predict, whose labels are not read.

    Raises:
        DataError: the layout is not supported, or a file cannot be read.
        DiskError: the files do not fit in memory, and a mapped copy cannot be written.
    """
    found, columns = resolve_files(files, options, labelled=labelled)
    for file, own in zip(files, columns, strict=True):
        if (own.is_text, own.classes) != (columns[0].is_text, columns[0].classes):
            raise DataError(
                f"{file}: its class names or label type differ from those of {files[0]}. "
                "Use the two as separate data sets."
            )
    size, budget = sum(file.stat().st_size for file in files), default_budget()
    if size > budget:
        folder = cache_folder() / "rows"
        logger.info(
            f"{name} takes {size_text(size)}, above the memory budget of {size_text(budget)}. It is read from a "
            f"memory-mapped copy under {folder}."
        )
        pieces = _mapped(files, columns, root, folder)
    else:
        pieces = [pa.concat_tables(_read(*each, root)) for each in zip(files, columns, strict=True)]
    names = [text_name(file.relative_to(root).as_posix()) for file in files]
    origin = of_rows(names, [piece.num_rows for piece in pieces])
    pieces = _distinct_paths(pieces, names)
    rows, classes = _class_indices(pa.concat_tables(pieces), columns[0].classes, name)
    if rows.num_rows == 0:
        raise DataError(f"{root / name}: there are no rows in it.")
    notes = (describe(rows, classes), *found.notes, *(_notes(rows, files) if labelled else ()))
    return ImageTable(rows, classes, name, options.images or root.resolve(), notes, origin=origin)


def _mapped(files: Sequence[Path], columns: Sequence[FileColumns], root: Path, folder: Path) -> list[pa.Table]:
    """Rows of each file from mapped copies, which are written if they do not exist."""
    pieces = []
    with progress_bar() as progress:
        bar = progress.add_task("copying rows", total=len(files), note="")
        for file, found in zip(files, columns, strict=True):
            how = [asdict(found), _split_of(file, root)]
            pieces.append(arrow_cache.mapped(file, how, folder, partial(_read, file, found, root)))
            progress.advance(bar)
    return pieces


def _read(file: Path, columns: FileColumns, root: Path) -> Iterator[pa.Table]:
    """Rows of a file in chunks, in `SCHEMA` except for the label, which keeps its type."""
    split = columns.split.name if columns.split else None
    named = (columns.image, columns.label, *columns.one_hot, split, columns.group)
    names = [*dict.fromkeys(name for name in named if name is not None)]
    try:
        with pq.ParquetFile(file) as source:
            empty = source.schema_arrow.empty_table().select(names)
            yield image_rows(empty, columns, file, root)
            for batch in source.iter_batches(_batch_rows(source.metadata), columns=names):
                yield image_rows(pa.Table.from_batches([batch]), columns, file, root)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet: {error}. It may be truncated; download it again."
        ) from None


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Number of rows read at a time, by the largest bytes per row of the row groups."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    heaviest = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, heaviest)))


def image_rows(table: pa.Table, columns: FileColumns, file: Path, root: Path) -> pa.Table:
    """Rows in `SCHEMA` except for the label, which keeps its type."""
    n = table.num_rows
    split = (
        _splits(table[columns.split.name], columns.split, file)
        if columns.split
        else pa.repeat(pa.scalar(_split_of(file, root), pa.string()), n)
    )
    group = _filled(table[columns.group].cast(pa.string())) if columns.group else pa.nulls(n, pa.string())
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
    if pa.types.is_dictionary(label.type):
        label = label.cast(pa.string())
    return label.cast(pa.int64()) if pa.types.is_integer(label.type) else _filled(label.cast(pa.string()))


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
        text = names.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        raw = names.cast(pa.binary()).to_pylist()
        return pa.array([None if name is None else text_name(os.fsdecode(name)) for name in raw], pa.string())
    return text


def _split_of(file: Path, root: Path) -> str | None:
    """Split at the start of a shard's name (`train-00000-of-00001.parquet`), or in the name of its folder."""
    word = re.split(r"[-_.]", file.name, maxsplit=1)[0]
    return split_of(word) or (split_of(file.parent.name) if file.parent != root else None)


def _splits(column: pa.ChunkedArray, rule: SplitRule, file: Path) -> pa.ChunkedArray:
    """Column of splits as train, val, test, or null for an empty cell."""
    words = column.cast(pa.string())
    result = _filled(words)
    for word in filter(None, words.unique().to_pylist()):
        try:
            split = rule.split(word)
        except ValueError:
            raise DataError(f"{file}: split {word!r} is not known. Splits are {enumerated([*SPLIT_NAMES])}.") from None
        result = pc.if_else(pc.equal(words, word), split, result)
    return result


def _class_indices(rows: pa.Table, classes: tuple[str, ...] | None, name: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Rows with class indices as labels, and the classes; -1 means unlabelled, as in Hugging Face's data sets."""
    label = rows["label"]
    if pa.types.is_integer(label.type):
        label = pc.if_else(pc.equal(label, -1), None, label)
    if classes is None:
        values = [value for value in label.unique().to_pylist() if value is not None]
        classes = sorted_classes(values)
        by_name = {str(value): value for value in values}
        label = pc.index_in(label, pa.array([by_name[name] for name in classes], label.type)).cast(pa.int64())
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
