"""`split.csv`: the split of a run, one row for each image, matched by path and content when it is read."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from loupe import csv_files
from loupe.data.class_names import same_form, same_forms
from loupe.data.splits.split import SPLITS, Split, from_names
from loupe.data.table import ImageTable
from loupe.errors import DataError, RunStateError, enumerated

HEADER = ("path", "label", "split", "content")
PARSING = pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
AS_TEXT = pacsv.ConvertOptions(column_types=dict.fromkeys(HEADER, pa.string()), strings_can_be_null=False)


def write(path: Path, table: ImageTable, content: Sequence[str], split: Split) -> None:
    """Write the split as CSV, one row for each image in the order of the table.

    Columns: path, label (class name, empty if unlabelled), split (empty if in no split), content.
    """
    split_names = _names(split, len(table))
    names = [table.classes[label] if label >= 0 else "" for label in table.labels.tolist()]
    csv_files.write(path, HEADER, zip(table.paths, names, split_names, content, strict=True))


def read(path: Path, table: ImageTable, content: Sequence[str]) -> Split:
    """Read a split written by `write`, for the same images in any order, matched by path and content.

    Raises:
        RunStateError: the file cannot be read, or images were added, removed, changed or relabelled since.
    """
    split = _read_in_order(path, table, content)
    return split if split is not None else _from_rows(_spelled_as(table, stored(path)), path, table, content)


def _read_in_order(path: Path, table: ImageTable, content: Sequence[str]) -> Split | None:
    """Split in a file that lists exactly these images in their order; None for any other file.

    Columns are compared as a whole, without a dictionary of all rows, which outgrows the processor's caches.
    """
    try:
        rows = csv_files.restored_table(pacsv.read_csv(path, parse_options=PARSING, convert_options=AS_TEXT))
        if tuple(rows.column_names) != HEADER or not all(
            rows[name].equals(_column(texts)) for name, texts in (("path", table.paths), ("content", content))
        ):
            return None
    except (OSError, ValueError, pa.ArrowException):  # read row by row, with the reason
        return None
    label, split = (rows[name].dictionary_encode().combine_chunks() for name in ("label", "split"))
    number = {form: k for k, form in enumerate(dict.fromkeys(same_forms([*table.classes, ""])))}
    number_K = np.array([number[form] for form in same_forms([*table.classes, ""])])  # -1 is the last
    stored_K = np.array([number.get(form, -1) for form in same_forms(label.dictionary.to_pylist())], np.int64)
    names = np.array(split.dictionary.to_pylist(), dtype=object)
    if not np.array_equal(stored_K[label.indices], number_K[table.labels]) or {*names} - {"", *SPLITS}:
        return None
    return from_names(names[split.indices])


def _column(texts: Sequence[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string()).cast(pa.string())])


def _from_rows(
    rows: Mapping[str, tuple[str, str, str]], path: Path, table: ImageTable, content: Sequence[str]
) -> Split:
    """Split of the images in the rows of a split file.

    Raises:
        DataError: images were added, removed, changed or relabelled since.
    """
    changes: dict[str, list[str]] = {"new": [], "missing": [], "changed": [], "relabelled": []}
    class_of = {label: same_form(label) for label in {label for label, _, _ in rows.values()}}
    classes = [*map(same_form, table.classes), ""]  # the last one is of unlabelled images, whose label is -1
    for name, label, digest in zip(table.paths, table.labels.tolist(), content, strict=True):
        if name not in rows:
            changes["new"].append(name)
            continue
        stored_label, _, stored_digest = rows[name]
        if digest != stored_digest:
            changes["changed"].append(name)
        if classes[label] != class_of[stored_label]:
            changes["relabelled"].append(name)
    if len(rows) > len(table) - len(changes["new"]):
        present = set(table.paths)
        changes["missing"] = [name for name in rows if name not in present]
    if any(changes.values()):
        listed = "; ".join(
            f"{len(names):,} {kind} ({enumerated(names, most=3)})" for kind, names in changes.items() if names
        )
        raise DataError(
            f"{table.name}: the images differ from those in {path}: {listed}. Restore the data, or start a new run, "
            "which splits the present images."
        )
    split_N = np.array([rows[name][1] for name in table.paths], dtype=object)
    return from_names(split_N)


def known(path: Path, table: ImageTable, content: Sequence[str]) -> NDArray[np.object_]:
    """Split of each image in a split file, matched by content wherever it lies now; empty for images not in the file.

    Where copies of an image are in several splits, the path decides; else the first of train, val and test, so that a
    training image never counts as unseen.

    Raises:
        RunStateError: the file cannot be read as a split.
    """
    rows = _spelled_as(table, stored(path))
    by_content = {digest: split for name in reversed(SPLITS) for _, split, digest in rows.values() if split == name}
    here = zip(table.paths, content, strict=True)
    names = [
        rows[name][1] if name in rows and rows[name][2] == digest else by_content.get(digest, "")
        for name, digest in here
    ]
    return np.array(names, dtype=object)


def stored(path: Path) -> dict[str, tuple[str, str, str]]:
    """(label, split, content) of each path in a split file.

    Raises:
        RunStateError: the file cannot be read as a split.
    """
    rows: dict[str, tuple[str, str, str]] = {}
    one: dict[str, str] = {}  # a million rows have a few classes and splits
    foreign = RunStateError(f"{path}: not a split file of Loupe (columns {','.join(HEADER)}). Start a new run.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file, strict=True)
            if tuple(next(lines)) != HEADER:
                raise foreign
            # Row by row into tuples: the garbage collector goes through a list of lists again and again.
            for line in lines:
                if len(line) != len(HEADER) or line[2] not in ("", *SPLITS):
                    raise foreign
                name, label, split, digest = map(csv_files.restored, line)
                rows[name] = (one.setdefault(label, label), one.setdefault(split, split), digest)
    except RunStateError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, StopIteration) as error:
        raise RunStateError(f"{path}: cannot be read as a split file: {error}. Start a new run.") from None
    return rows


def _spelled_as(table: ImageTable, rows: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]]:
    """Rows by the paths of a table, where these differ in their Unicode form only, as on another system's disk."""
    unknown = {same_form(name): name for name in table.paths if name not in rows and not name.isascii()}
    if not unknown:
        return rows
    here = set(table.paths)
    return {name if name in here else unknown.get(same_form(name), name): row for name, row in rows.items()}


def _names(split: Split, n: int) -> list[str]:
    """Name of the split of each image; empty for an image in no split."""
    names = [""] * n
    for name in SPLITS:
        for i in split.rows(name).tolist():
            names[i] = name
    return names
