"""CSV tables, written in one way: header, quoting, line ends, and files that are whole or not there."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pacsv


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object] | Sequence[object]]) -> None:
    """Write a table; the file at `path` is replaced whole.

    Args:
        rows: cells in the order of the columns, or values by column name. None and missing values are empty cells;
            values under other names are left out. Floats keep all their digits.
    """
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(name) for name in columns] if isinstance(row, Mapping) else row for row in rows)
        text.detach()


@contextmanager
def arrow_writer(path: Path, schema: "pa.Schema") -> Iterator["pacsv.CSVWriter"]:
    """Arrow's writer, for tables of many numbers; the file at `path` is replaced whole."""
    import pyarrow.csv as pacsv

    with replacing(path) as file, pacsv.CSVWriter(file, schema) as writer:
        yield writer
