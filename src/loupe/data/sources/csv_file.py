"""CSV file of images: columns `path`, `label`, optionally `split` and `group`; paths are relative to the file."""

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from loupe.csv_files import restored
from loupe.data.origin import of_lines
from loupe.data.table import SPLIT_NAMES, ImageTable, describe, make_rows, os_name, sorted_classes, split_of, text_name
from loupe.errors import DataError, counted, enumerated

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")
MOST_SHOWN = 10

Row = Mapping[str, str]


def open_csv(path: Path) -> ImageTable:
    """Open a CSV file of images. An empty path, or a path without a file, is a damaged image, unless all of them are.

    Raises:
        DataError: the file cannot be read, or rows are invalid; the message lists them by line number.
    """
    numbered = list(_rows(path))
    if not numbered:
        raise DataError(f"{path}: there are no rows below the header {','.join(REQUIRED)}.")
    root = path.resolve().parent
    problems = [(line, problem) for line, row in numbered for problem in _problems(row)]
    if not problems and not any(_is_file(row["path"], root) for _, row in numbered):
        problems = [(line, f"no such file: {row['path']}") for line, row in numbered]
    if problems:
        listed = "".join(f"\n  line {line}: {problem}" for line, problem in problems[:MOST_SHOWN])
        rest = f"\n  and {len(problems) - MOST_SHOWN:,} more" if len(problems) > MOST_SHOWN else ""
        raise DataError(
            f"{path}: {counted(len(problems), 'problem')} in {counted(len(numbered), 'row')}:{listed}{rest}"
        )
    cells = [row for _, row in numbered]
    classes = sorted_classes(row["label"] for row in cells)
    index = {label: i for i, label in enumerate(classes)}
    rows = make_rows(
        n=len(cells),
        path=[text_name(_posix(row["path"], root)) if row["path"] else None for row in cells],
        label=[index[row["label"]] for row in cells],
        split=[split_of(row.get("split", "")) for row in cells],
        group=[row.get("group") or None for row in cells],
    )
    notes = (describe(rows, classes), *_notes(cells))
    return ImageTable(rows, classes, path.stem, root, notes, origin=of_lines(path.name, [line for line, _ in numbered]))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and cells by column of each row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    extra = {"": f"{len(cells)} cells"} if len(cells) != len(header) else {}
                    yield reader.line_num, {**dict(zip(header, map(_text, cells), strict=False)), **extra}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not CSV: {error}.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def _text(cell: str) -> str:
    """Text of a cell, without the apostrophe by which Loupe and others keep spreadsheets from running it."""
    return restored(cell.strip())


def _check_header(path: Path, header: list[str]) -> None:
    wanted = "path,label and optionally split,group"
    if missing := [name for name in REQUIRED if name not in header]:
        found = ",".join(header) or "nothing"
        raise DataError(f"{path}: line 1: missing {enumerated(missing)}. Expected the columns {wanted}; found {found}.")
    if repeated := [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]:
        raise DataError(f"{path}: line 1: the column {repeated[0]} repeats. Expected the columns {wanted}.")


def _problems(row: Row) -> Iterator[str]:
    if "" in row:
        yield f"{row['']}, unlike the header"
        return
    if not row["label"]:
        yield "the label is empty"
    if row.get("split") and split_of(row["split"]) is None:
        yield f"unknown split {row['split']!r}; splits are {', '.join(SPLIT_NAMES)}"


def _is_file(name: str, root: Path) -> bool:
    try:
        return bool(name) and (root / _posix(name, root)).is_file()
    except (OSError, ValueError):  # a name that is too long or has a null character, a folder that may not be entered
        return False


def _posix(name: str, root: Path) -> str:
    """Path with forward slashes.

    Backslashes are separators in lists written on Windows. Elsewhere they may be part of a name, or stand for bytes
    that are not text in lists written by Loupe.
    """
    if "\\" not in name:
        return name
    if os.name != "nt":
        for meant in (name, os_name(name)):
            if os.path.exists(root / meant):  # noqa: PTH110 - pathlib's raises where a name is too long
                return meant
    return name.replace("\\", "/")


def _notes(rows: list[Row]) -> list[str]:
    paths = [row["path"] for row in rows if row["path"]]
    repeated = len(paths) - len(set(paths))
    return [f"{counted(repeated, 'row')} with the path of an earlier row."] if repeated else []
