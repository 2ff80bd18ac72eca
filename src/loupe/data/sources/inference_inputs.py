"""Inputs for prediction: unlabelled images, on the disk or in memory, as a table."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from loupe.data.sources import in_memory
from loupe.data.sources.folders import from_paths
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.sources.rows import is_list
from loupe.data.table import ImageTable, make_rows

Pictures = Any
"""What `in_memory.ALLOWED` says; a path may also be a folder or a glob."""


def table_of(
    images: Pictures,
    columns: ColumnNames | None = None,
    folder: str | Path | None = None,
    *,
    follow_links: bool = False,
) -> ImageTable:
    """Table of unlabelled images for prediction.

    Args:
        images: images, or their paths; or the path of one list of images (CSV, TSV, JSONL, Parquet), kept in its order.
        columns: columns of a list by role.
        folder: folder of the images that a list names.
        follow_links: follow links and names that lead out of a folder, or out of that of a list.

    Raises:
        DataError: an input is not an image, or a path matches nothing.
    """
    if isinstance(images, str | Path):
        path = Path(os.path.expanduser(images))  # noqa: PTH111 - pathlib's raises for an unknown user
        if is_list(path):
            return open_inference_list(path, ReadOptions.of(columns, folder, follow_links)).table
    entries = in_memory.read(images, "images", one=True)
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        paths = [entry for entry in entries if isinstance(entry, str)]
        return from_paths(paths, unique=False, follow_links=follow_links)
    outside: dict[str, str] = {}
    pieces = [_rows(*chunk, follow_links, outside) for chunk in in_memory.chunks(entries, "image", separator=" ")]
    return ImageTable(pa.concat_tables(pieces), classes=(), name="images", root=Path.cwd(), outside=outside)


def _rows(names: Any, data: pa.Array, follow_links: bool, outside: dict[str, str]) -> pa.Table:
    """Rows of a chunk; a path is that of one file, a folder or a glob. Links out of a folder are added to `outside`."""
    if not data.null_count:
        return make_rows(n=len(data), path=names, data=data, label=None)
    paths: list[str] = []
    files: list[bytes | None] = []
    for name, file in zip(names, data.to_pylist(), strict=True):
        below = None if file is not None else from_paths([name], follow_links=follow_links)
        found = [name] if below is None else below.paths
        outside |= {} if below is None else below.outside
        paths += found
        files += [file] * len(found)
    return make_rows(n=len(paths), path=paths, data=files, label=None)
