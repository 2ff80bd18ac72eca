"""CSV tables, written in one way: header, quoting, line ends, and files that are whole or not there.

A spreadsheet runs a text cell that begins with `=`, `+`, `-`, `@`, a tab or a line end as a formula, and the names of
classes and files may come from strangers. Such a cell is written with an apostrophe before it (OWASP, "CSV
Injection"), and so is one that only has apostrophes before such a sign: then `restored` is exact. Plain numbers, such
as the class `-1`, are no formulas and stay as they are.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loupe.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

# In the syntax that Python and Arrow share. The \u signs are the full-width forms of = + @ and -.
FORMULA = "^'* *[=+@\uff1d\uff0b\uff20\uff0d\t\r\n-]"
STARTS_FORMULA = re.compile(FORMULA)
NUMBER = re.compile(r"'*[+-](\d+\.?\d*|\.\d+)(e[+-]?\d+)?'*", re.ASCII | re.IGNORECASE)


def write(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object] | Sequence[object]],
    *,
    as_given: Collection[int] = (),
) -> None:
    """Write a table; the file at `path` is replaced whole.

    Args:
        rows: cells in the order of the columns, or values by column name. None and missing values are empty cells;
            values under other names are left out. Floats keep all their digits; texts are neutralised.
        as_given: positions of columns whose texts are not neutralised: identifiers that another program compares.
    """
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(_Lines(text), lineterminator=_Lines.end)
        writer.writerow(columns)
        for row in rows:
            cells = [row.get(name) for name in columns] if isinstance(row, Mapping) else row
            writer.writerow(
                [
                    neutralised(cell) if isinstance(cell, str) and position not in as_given else cell
                    for position, cell in enumerate(cells)
                ]
            )
        text.detach()


def write_arrow(path: Path, tables: Iterable["pa.Table"]) -> None:
    """Write tables of one schema below each other, with Arrow, which is fast for many numbers.

    The file at `path` is replaced whole. Texts are neutralised.
    """
    import pyarrow.csv as pacsv

    each = iter(tables)
    first = next(each)
    with replacing(path) as file, pacsv.CSVWriter(file, first.schema) as writer:
        writer.write_table(_mapped(first, neutralised))
        for table in each:
            writer.write_table(_mapped(table, neutralised))


def neutralised(text: str) -> str:
    """Text of a cell that no spreadsheet runs as a formula."""
    return f"'{text}" if _is_formula(text) else text


def restored(text: str) -> str:
    """Text of which `neutralised` made a cell."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def restored_table(table: "pa.Table") -> "pa.Table":
    """Table with each text as it was before `write_arrow`."""
    return _mapped(table, restored)


def _is_formula(text: str) -> bool:
    if text[:1].isalnum():  # nearly all cells, and faster to see
        return False
    return STARTS_FORMULA.match(text) is not None and NUMBER.fullmatch(text) is None


def _mapped(table: "pa.Table", change: Callable[[str], str]) -> "pa.Table":
    """Table with the texts changed. Columns without any that looks like a formula are kept as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and pc.any(pc.match_substring_regex(table[i], FORMULA)).as_py():
            texts = [None if text is None else change(text) for text in table[i].to_pylist()]
            table = table.set_column(i, field, pa.array(texts, field.type))
    return table


class _Lines:
    """Lines that end in a line feed, from a writer whose lines end in both signs.

    Python 3.11 to 3.12 quote a line end in a cell only if it occurs in the writer's own.
    """

    end = "\r\n"

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, line: str) -> int:
        return self.file.write(line.removesuffix(self.end) + "\n")
