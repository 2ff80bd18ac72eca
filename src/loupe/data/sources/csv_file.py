"""A CSV file that lists images: `path,label`, and optionally `split` and `group`; paths are relative to the file."""

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from loupe.data.table import (
    SPLIT_NAMES,
    ImageTable,
    counted,
    describe,
    make_rows,
    os_name,
    sorted_classes,
    split_of,
    text_name,
)
from loupe.errors import DataError

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")
MOST_SHOWN = 10

Row = Mapping[str, str]


def open_csv(path: Path) -> ImageTable:
    """The images that a CSV file lists. One LoupeError names every line that cannot be used, by its number."""
    numbered = list(_rows(path))
    if not numbered:
        raise DataError(f"{path}: there are no rows below the header {','.join(REQUIRED)}.")
    root = path.resolve().parent
    problems = [(line, problem) for line, row in numbered for problem in _problems(row, root)]
    if problems:
        listed = "".join(f"\n  line {line}: {problem}" for line, problem in problems[:MOST_SHOWN])
        rest = f"\n  and {len(problems) - MOST_SHOWN:,} more" if len(problems) > MOST_SHOWN else ""
        raise DataError(f"{path}: {counted(len(problems), 'problem')} in its {len(numbered):,} rows:{listed}{rest}")
    found = [row for _, row in numbered]
    classes = sorted_classes(row["label"] for row in found)
    index = {label: i for i, label in enumerate(classes)}
    rows = make_rows(
        n=len(found),
        path=[text_name(_posix(row["path"], root)) for row in found],
        label=[index[row["label"]] for row in found],
        split=[split_of(row.get("split", "")) for row in found],
        group=[row.get("group") or None for row in found],
    )
    return ImageTable(rows, classes, path.stem, root, (describe(rows, classes), *_notes(found)))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The line number and the cells, by column, of each row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    extra = {"": f"{len(cells)} cells"} if len(cells) != len(header) else {}
                    yield reader.line_num, {**dict(zip(header, map(str.strip, cells), strict=False)), **extra}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not CSV: {error}.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def _check_header(path: Path, header: list[str]) -> None:
    wanted = "path,label and optionally split,group"
    if missing := [name for name in REQUIRED if name not in header]:
        found = ",".join(header) or "nothing"
        raise DataError(
            f"{path}: line 1: the column {' and '.join(missing)} is missing. Expected {wanted}; found {found}."
        )
    if repeated := [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]:
        raise DataError(f"{path}: line 1: the column {repeated[0]} is there more than once. Expected {wanted}.")


def _problems(row: Row, root: Path) -> Iterator[str]:
    if "" in row:
        yield f"{row['']}, which is not what the header has"
        return
    if not row["path"]:
        yield "the path is empty"
    elif problem := _problem_of_file(root / _posix(row["path"], root)):
        yield f"{problem}: {row['path']}"
    if not row["label"]:
        yield "the label is empty"
    if row.get("split") and split_of(row["split"]) is None:
        yield f"unknown split {row['split']!r}; splits are {', '.join(SPLIT_NAMES)}"


def _problem_of_file(path: Path) -> str | None:
    try:
        return None if path.is_file() else "no such file"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return error.strerror or "no such file"


def _posix(name: str, root: Path) -> str:
    """A path with forward slashes. Lists written on Windows have backslashes, which elsewhere may be part of a name,
    and which Loupe's own lists have for bytes that are no text.
    """
    if "\\" not in name:
        return name
    if os.name != "nt":
        for meant in (name, os_name(name)):
            if os.path.exists(root / meant):  # noqa: PTH110 - pathlib's raises where a name is too long
                return meant
    return name.replace("\\", "/")


def _notes(rows: list[Row]) -> list[str]:
    repeated = len(rows) - len({row["path"] for row in rows})
    return [f"{counted(repeated, 'row')} with a path that stands in an earlier row."] if repeated else []
