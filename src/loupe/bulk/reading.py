"""Readers of the bytes of planned images, one for each kind of source."""

import glob
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from loupe.bulk.parquet_rows import ROWS, open_rows
from loupe.bulk.plan import PlanRecord, Unit
from loupe.bulk.remote import REMOTE, open_remote
from loupe.bulk.shards import SHARDS, open_shards
from loupe.data.parallel import File
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError, ImageError

Reader = Callable[[PlanRecord, Unit], Callable[[int], bytes]]
"""Opens a unit: a function from the number of a row to the bytes of its image, for threads, that raises ImageError."""


def _files(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    rows = make_rows(n=len(unit), path=[row.place or row.path for row in unit.rows], label=None)
    return ImageTable(rows, classes=(), name="images", root=Path(record.root)).encoded


FILES = "files"
READERS: Mapping[str, Reader] = {FILES: _files, SHARDS: open_shards, REMOTE: open_remote, ROWS: open_rows}


def read(unit: Unit, encoded: Callable[[int], bytes], row: int) -> File:
    """Image file of a row; its error where the row has a problem or the file cannot be read."""
    listed = unit.rows[row]
    if listed.problem is not None:
        return File(row, listed.path, ImageError(listed.path, listed.problem))
    try:
        return File(row, listed.path, encoded(row))
    except ImageError as error:
        return File(row, listed.path, error)


def check_there(record: PlanRecord) -> None:
    """Check that the folders and lists of a source exist, where none of the images of a unit could be read.

    Raises:
        DataError: one is gone, as a disk that is no longer mounted: its images are not damaged.
    """
    if record.asked.kind != FILES:
        return
    for place in (*record.asked.places, record.root):
        if not os.path.lexists(place) and not glob.has_magic(place):
            raise DataError(f"{place} is gone. Bring it back, then give the same command again: it goes on from here.")
