"""Columns of Parquet files by their role, with the type of their labels and the class names in their schema."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.data.class_names import same_form
from loupe.data.sources.columns import Columns, resolve
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import is_text, parquet_text
from loupe.data.sources.split_column import SplitRule
from loupe.errors import DataError

LAYOUT = "an image column ('image' or 'img': a struct of bytes and path) and a label column ('label')"


@dataclass(frozen=True)
class FileColumns:
    """Columns of a file by their role, the type of its labels, and the class names in its schema."""

    image: str
    label: str | None
    one_hot: tuple[str, ...]
    split: SplitRule | None
    group: str | None
    is_text: bool
    classes: tuple[str, ...] | None
    named_split: str | None = None

    @property
    def forms(self) -> list[str] | None:
        """Class names in the form in which names are compared."""
        return None if self.classes is None else [same_form(name) for name in self.classes]


def holds_images(file: Path, options: ReadOptions) -> bool:
    """True if a file has a column of images, and not only one of their names.

    Raises:
        DataError: the file cannot be read.
    """
    schema = _schema(file)
    chosen = options.columns.get("path")
    if chosen in schema.names:
        return is_image(schema.field(chosen).type)
    return any(is_image(field.type) for field in schema)


def resolve_files(
    files: Sequence[Path], options: ReadOptions, *, labelled: bool = True
) -> tuple[Columns, list[FileColumns]]:
    """Columns of all shards by their role, and those of each shard.

    Raises:
        DataError: the layout is not supported, or a file cannot be read.
    """
    schemas = [_distinct(_schema(file), file) for file in files]
    names = tuple(dict.fromkeys(name for schema in schemas for name in schema.names))
    images = [name for name in names if any(_holds_image(schema, name) for schema in schemas)]

    def values(name: str) -> list[str]:
        pairs = zip(files, schemas, strict=True)
        return [
            cell
            for file, schema in pairs
            for cell in (parquet_text(file, name) if name in schema.names else [""] * pq.read_metadata(file).num_rows)
        ]

    columns = resolve(files[0], names, values, options, labelled=labelled, images=images)
    return columns, [_columns(file, schema, columns) for file, schema in zip(files, schemas, strict=True)]


def _schema(file: Path) -> pa.Schema:
    if os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113 - pathlib's raise without permission
        raise DataError(f"{file}: not a regular file; a device, a pipe or a folder is never read. Move it away.")
    try:
        schema = pq.read_schema(file)
        _ = schema.names, schema.metadata  # columns whose names are not UTF-8 raise here
        return schema
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from None


def _distinct(schema: pa.Schema, file: Path) -> pa.Schema:
    name, count = max(Counter(schema.names).items(), key=itemgetter(1), default=("", 0))
    if count > 1:
        raise DataError(f"{file}: {count} columns have the name {name!r}. Rename all but one of them.")
    return schema


def _holds_image(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and is_image(schema.field(name).type)


def _columns(file: Path, schema: pa.Schema, columns: Columns) -> FileColumns:
    """Columns of a file that has all that are needed; it may lack those of splits and groups."""
    needed = [columns.path, *columns.one_hot, *([columns.label] if columns.label else [])]
    if missing := [name for name in needed if name not in schema.names]:
        raise DataError(f"{file}: it lacks the column {missing[0]!r}, which other files have; expected {LAYOUT}.")
    if not _holds_image(schema, columns.path):
        raise DataError(f"{file}: column {columns.path!r} is {schema.field(columns.path).type}; expected {LAYOUT}.")
    kind = schema.field(columns.label).type if columns.label else pa.string()
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise DataError(f"{file}: column {columns.label!r} is {kind}; labels must be integers or text.")
    names = _features(schema, file).get(columns.label or "", {}).get("names")
    return FileColumns(
        image=columns.path,
        label=columns.label,
        one_hot=columns.one_hot,
        split=columns.split if columns.split and columns.split.name in schema.names else None,
        group=columns.group if columns.group in schema.names else None,
        is_text=is_text(kind),
        classes=_class_names(names, file) if names and pa.types.is_integer(kind) else None,
    )


def _class_names(names: Any, file: Path) -> tuple[str, ...]:
    """Class names in a schema, which can be numbers."""
    if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
        raise DataError(f"{file}: its 'huggingface' metadata is invalid: the class names are no list of texts.")
    return tuple(map(str, names))


def is_image(kind: pa.DataType) -> bool:
    """True for the type of a column of images: bytes, or a struct of bytes and path."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema, file: Path) -> Mapping[str, Any]:
    """Features in the `huggingface` metadata of a schema; empty without metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        return {str(name): feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: its 'huggingface' metadata is invalid: {error!r}.") from None
