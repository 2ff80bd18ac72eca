"""Rows of a table as text: CSV with any of the usual separators, JSON Lines and Parquet behind one interface.

The separator of a CSV file is the one with which its header has the most columns that are known, then the most columns.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.csv_files import restored
from loupe.data.sources.column_names import known
from loupe.data.sources.parquet_pages import batch_rows, check_pages, limited
from loupe.data.sources.read_options import ReadOptions
from loupe.data.table import text_name
from loupe.errors import DataError, counted

Unit = Literal["line", "row"]
SEPARATORS = (",", ";", "\t", "|")
CSV_SUFFIXES = frozenset({".csv", ".tsv", ".tab"})
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
LIST_SUFFIXES = CSV_SUFFIXES | JSON_SUFFIXES | PARQUET_SUFFIXES
MAX_LINE = 16 * 2**20  # characters
MAX_HEADER = 2**18  # characters of a CSV file's first line
MOST_COLUMNS = 10_000
TEXT_ROWS = 2**17  # rows of text read at a time
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class TextTable:
    """Table of text.

    Attributes:
        file: where it was read.
        names: its columns.
        numbers: line of each row in the file; its row, from 0, in a Parquet file.
        unit: `line` or `row`, which the numbers count.
        column: text of each row of a column, "" for empty cells.
        ragged: number of cells of the rows that have more or fewer than the header, by position.
        notes: sentences about what was left out.
    """

    file: Path
    names: tuple[str, ...]
    numbers: Sequence[int]
    unit: Unit
    column: Callable[[str], Sequence[str]]
    ragged: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)


def is_list(path: Path) -> bool:
    """True for the name of a file that can hold a list of images. A folder is none, whatever its name."""
    return path.suffix.lower() in LIST_SUFFIXES and not os.path.isdir(path)  # noqa: PTH112


def read_rows(path: Path, options: ReadOptions) -> TextTable:
    """Read a table by its suffix.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _read_parquet(path)
    return next(_text_pieces(path, options, None))


def read_pieces(
    path: Path, options: ReadOptions, most_rows: int, wanted: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[TextTable]:
    """Read a table by its suffix in pieces of at most `most_rows` rows, one after another; at least one piece.

    Args:
        path: file of the table.
        options: columns that the user chose.
        most_rows: rows of a piece.
        wanted: columns to read, from the names of all. Pieces of CSV and JSON Lines have all of them.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        yield from _parquet_pieces(path, most_rows, wanted)
    else:
        yield from _text_pieces(path, options, most_rows)


def _text_pieces(path: Path, options: ReadOptions, most_rows: int | None) -> Iterator[TextTable]:
    """Pieces of a CSV or JSON Lines file; all rows in one where `most_rows` is None."""
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            if path.suffix.lower() in JSON_SUFFIXES:
                yield from _json_pieces(path, file, most_rows)
            else:
                yield from _csv_pieces(path, file, options, most_rows)
    except UnicodeError as error:
        where = f" ({error.reason} at byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}: not UTF-8{where}; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return BYTE_ORDER_MARKS.get(file.read(2), "utf-8-sig")


def _csv_pieces(path: Path, file: TextIO, options: ReadOptions, most_rows: int | None) -> Iterator[TextTable]:
    first = file.readline(MAX_HEADER + 1)
    if len(first) > MAX_HEADER:
        raise DataError(f"{path}: line 1 is no header: it has more than {MAX_HEADER:,} characters.")
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:  # written by, and for, Excel
        separator, skipped = first[4], 1
    else:
        try:
            separator, skipped = _separator(first, path.suffix.lower(), options), 0
        except csv.Error as error:
            raise DataError(f"{path}: line 1: not CSV: {error}.") from None
        file.seek(0)
    reader = csv.reader((line for _, line in _lines(file, path)), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        filled = _filled_rows(reader, skipped)
        numbered = [*islice(filled, most_rows)]
        names, notes = _with_unnamed(names, [cells for _, cells in numbered])
        while True:
            yield _csv_table(path, names, numbered, notes)
            if most_rows is None or not (numbered := [*islice(filled, most_rows)]):
                return
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num + skipped}: not CSV: {error}.") from None


def _csv_table(
    path: Path, names: Sequence[str], numbered: Sequence[tuple[int, tuple[str, ...]]], notes: tuple[str, ...]
) -> TextTable:
    rows = [cells for _, cells in numbered]
    ragged = {i: len(cells) for i, cells in enumerate(rows) if len(cells) != len(names)}

    @cache
    def column(name: str) -> list[str]:
        k = names.index(name)
        texts = [cells[k].strip() if k < len(cells) else "" for cells in rows]
        # Without the apostrophe by which Loupe and others keep spreadsheets from running a cell.
        return [restored(text) if text[:1] == "'" else text for text in texts]

    return TextTable(path, tuple(names), [number for number, _ in numbered], "line", column, ragged, notes)


def _filled_rows(reader: Any, skipped: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and cells of each row that is not empty."""
    for cells in reader:
        if (cells and cells[0] and not cells[0].isspace()) or any(map(str.strip, cells)):  # mostly the first cell tells
            # Tuples, of which, unlike of lists, the garbage collector does not look at millions.
            yield reader.line_num + skipped, tuple(cells)


def _separator(header: str, suffix: str, options: ReadOptions) -> str:
    """Separator with which the header has the most known columns, then the most columns."""
    asked = {part for text in options.columns.values() for part in (text, text.rpartition(":")[0], *text.split("+"))}

    def fit(separator: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        return sum(name in asked or known(name) for name in names), len(names)

    return max(("\t", ",", ";", "|") if suffix != ".csv" else SEPARATORS, key=fit)


def _with_unnamed(names: list[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], tuple[str, ...]]:
    """Names with an empty one for a column that the header leaves out, and a note on columns without a name.

    R writes the numbers of rows without a name for them; some programs end each row with a separator.
    """
    more = bool(rows) and bool(names) and all(len(cells) == len(names) + 1 for cells in rows)
    if more and not any(cells[-1].strip() for cells in rows):
        return [*names, ""], ()
    if more and all(cells[0].strip().isdigit() for cells in rows):
        names = ["", *names]
    if names and not names[0]:
        return names, ("The first column has no name and is left out: row numbers, as pandas and R write them.",)
    return names, ()


def _json_pieces(path: Path, file: TextIO, most_rows: int | None) -> Iterator[TextTable]:
    """Rows of JSON Lines; numbers keep the text that they have in the file. Each piece has the names until its end."""
    names: dict[str, None] = {}
    objects = _json_rows(path, file, names)
    numbered = [*islice(objects, most_rows)]
    while True:
        yield _json_table(path, tuple(names), numbered)
        if most_rows is None or not (numbered := [*islice(objects, most_rows)]):
            return


def _json_rows(path: Path, file: TextIO, names: dict[str, None]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of each row; the names of its columns are added to `names`."""
    for number, line in _lines(file, path):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or "nested too deeply"
            raise DataError(f"{path}: line {number}: not JSON: {reason}.") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}: line {number}: expected an object such as {{"path": ..., "label": ...}}.')
        cells = {_valid(name): _text(value) for name, value in row.items()}
        names |= dict.fromkeys(cells)
        if len(names) > MOST_COLUMNS:
            raise DataError(f"{path}: line {number}: more than {MOST_COLUMNS:,} names of columns.")
        yield number, cells


def _json_table(path: Path, names: tuple[str, ...], numbered: Sequence[tuple[int, dict[str, str]]]) -> TextTable:
    column = cache(lambda name: [row.get(name, "") for _, row in numbered])
    return TextTable(path, names, [number for number, _ in numbered], "line", column)


def _lines(file: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file and their numbers.

    Raises:
        DataError: a line is longer than `MAX_LINE`.
    """
    for number in count(1):
        if not (line := file.readline(MAX_LINE + 1)):
            return
        if len(line) > MAX_LINE:
            raise DataError(f"{path}: line {number}: it has more than {MAX_LINE:,} characters.")
        yield number, line


def _text(value: Any) -> str:
    """Value of a JSON file as text; of an object with a path, as in the Hugging Face layout, the path."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    return _valid(value).strip() if isinstance(value, str) else json.dumps(value)


def _valid(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON can hold and no file name or table can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _read_parquet(path: Path) -> TextTable:
    try:
        names = tuple(pq.read_schema(path).names)
        n = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    return TextTable(path, names, range(n), "row", cache(lambda name: parquet_text(path, name)))


def _parquet_pieces(
    path: Path, most_rows: int, wanted: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[TextTable]:
    whole = _read_parquet(path)
    columns, start = list(dict.fromkeys(wanted(whole.names))), 0
    try:
        with pq.ParquetFile(path) as source:
            at_once = batch_rows(check_pages(path), most_rows)
            for batch in limited(source.iter_batches(at_once, columns=columns), path):
                texts = {name: _texts(pa.chunked_array([batch.column(name)])) for name in columns}
                numbers = range(start, start + batch.num_rows)
                yield TextTable(path, whole.names, numbers, "row", texts.__getitem__)
                start += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}.") from None
    if start != len(whole):
        raise DataError(f"{path}: it has {start:,} of {counted(len(whole), 'row')}. It is damaged.")
    if not start:
        yield whole


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Text of each value of a column; "" for null, and for values that are no text and no numbers."""
    try:
        text = as_text(column) if is_text(column.type) else column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return [""] * len(column)
    return ["" if value is None else value.strip() for value in text.to_pylist()]


def parquet_text(path: Path, name: str) -> list[str]:
    """Text of each row of a column of a Parquet file; "" for null, and for values that are no text and no numbers."""
    try:
        text: list[str | None] = []
        rows = pq.read_metadata(path).num_rows
        with pq.ParquetFile(path) as source:
            at_once = batch_rows(check_pages(path), TEXT_ROWS)
            for batch in limited(source.iter_batches(at_once, columns=[name]), path):
                column = pa.chunked_array([batch.column(0)])
                text += (as_text(column) if is_text(column.type) else column.cast(pa.string())).to_pylist()
        if len(text) != rows:
            raise DataError(f"{path}: column {name!r} has {len(text):,} of {counted(rows, 'row')}. It is damaged.")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return [""] * pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: column {name!r} cannot be read as Parquet: {error}.") from None
    return ["" if value is None else value.strip() for value in text]


def is_text(kind: pa.DataType) -> bool:
    """True for a type of text, of any width, and for a dictionary of texts."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Column as text. A text that is not UTF-8, in a file that claims it, becomes a `text_name`.

    Raises:
        ArrowException: the column is no text and no numbers.
    """
    text = column.cast(pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        raw = text.cast(pa.binary()).to_pylist()
        names = [None if name is None else text_name(os.fsdecode(name)) for name in raw]
        return pa.chunked_array([pa.array(names, pa.string())])
    return text


def rows_of(table: TextTable, columns: Sequence[str | None]) -> Iterator[tuple[str, ...]]:
    """Cells of some columns, row by row; "" for a column that is None or that the table lacks."""
    empty = [""] * len(table)
    cells = [table.column(name) if name in table.names else empty for name in map(str, columns)]
    return islice(zip(*cells, strict=True), len(table))
