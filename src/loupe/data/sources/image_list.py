"""Lists of images: CSV, TSV, JSON Lines and Parquet files with the names of image files and their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from loupe.data.class_names import form_notes, index_of, same_forms, sorted_classes
from loupe.data.origin import Origin
from loupe.data.source_use import uses_of_splits
from loupe.data.sources.boundary import Boundary, list_error, place_of
from loupe.data.sources.column_names import ONE, ZERO
from loupe.data.sources.columns import Columns, resolve
from loupe.data.sources.image_files import NAME_IT, AmbiguousName, FileFinder, is_whole_disk, posix, where_to_look
from loupe.data.sources.path_splits import splits_of_paths
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import TextTable, read_rows
from loupe.data.sources.split_column import SplitRule
from loupe.data.splits.words import PREDICT, known_words
from loupe.data.table import ImageTable, describe, make_rows, text_name
from loupe.errors import DataError, counted

T = TypeVar("T")

MOST_SHOWN = 10
TRIED_NAMES = 20


def open_list(path: Path, options: ReadOptions) -> ImageTable:
    """Open a list of images. A row without a file is a damaged image, unless all of them are.

    Paths are relative to the list, or to the folder of images that the user named.

    Raises:
        DataError: the file cannot be read, or rows are invalid; the message lists them by line number.
    """
    return open_lists([read_rows(path, options)], place_of(path).parent, path.stem, options)


def open_lists(
    tables: Sequence[TextTable],
    root: Path,
    name: str,
    options: ReadOptions,
    splits: Mapping[Path, str | None] | None = None,
) -> ImageTable:
    """Open several lists as one table.

    Args:
        tables: rows of the lists; their columns have the same roles.
        root: folder that paths of the table are relative to, unless the user named a folder of images.
        name: name of the data set.
        options: columns, and folder of the images.
        splits: split of the rows of each list that has no column of splits.

    Raises:
        DataError: as for `open_list`.
    """
    columns = resolve_all(tables, options)
    reader = _Reader(columns, options.images or root, options)
    for table in tables:
        reader.read(table, (splits or {}).get(table.file))
    if not sum(map(len, tables)):
        raise DataError(f"{tables[0].file}: there are no rows below the header {','.join(tables[0].names)}.")
    reader.check(tables[0].file, sum(map(len, tables)))
    of_paths = reader.take_splits_of_paths()
    labels = [None if split == PREDICT else label for label, split in zip(reader.labels, reader.splits, strict=True)]
    distinct = [label for label in dict.fromkeys(labels) if label is not None]
    classes = sorted_classes(distinct)
    if columns.one_hot:
        classes = tuple(name for name in columns.one_hot if name in set(classes))
    index = index_of(classes)
    label_of = dict(zip(distinct, map(index.__getitem__, same_forms(distinct)), strict=True))
    rows = make_rows(
        n=len(reader.paths),
        path=reader.paths,
        label=[None if label is None else label_of[label] for label in labels],
        split=[None if split == PREDICT else split for split in reader.splits],
        group=reader.groups,
    )
    dropped = dict.fromkeys(note for table in tables for note in table.notes)
    forms = form_notes(distinct)
    aside = reader.splits.count(PREDICT)
    forms += [f"Set aside for `loupe predict`: {counted(aside, 'unlabelled image')}."] if aside else []
    notes = (describe(rows, classes), *dropped, *columns.notes, *of_paths, *_repeated(reader.paths), *forms)
    uses = uses_of_splits(reader.words, reader.splits, labels)
    origin, outside = origin_of(tables, root), reader.outside
    return ImageTable(rows, classes, name, reader.root, notes, origin=origin, layout=uses, outside=outside)


def origin_of(tables: Sequence[TextTable], root: Path) -> Origin:
    """File and line or row of each row of several lists."""
    folder = root.resolve()
    files = [
        place_of(table.file).relative_to(folder).as_posix() if len(tables) > 1 else table.file.name for table in tables
    ]
    file_N = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    number_N = np.concatenate([np.array(table.numbers, np.int32) for table in tables])
    return Origin(tuple(map(text_name, files)), file_N, number_N, tables[0].unit)


def resolve_all(tables: Sequence[TextTable], options: ReadOptions, *, labelled: bool = True) -> Columns:
    """Columns of several lists by their role, the same in each."""
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    names = tables[0].names if len(tables) == 1 else names

    def values(name: str) -> list[str]:
        return [cell for table in tables for cell in cells_of(table, name)]

    return resolve(tables[0].file, names, values, options, labelled=labelled)


def cells_of(table: TextTable, name: str | None) -> Sequence[str]:
    """Cells of a column; empty ones for a column that is None or that the table lacks."""
    return table.column(name) if name is not None and name in table.names else [""] * len(table)


class _Place(NamedTuple):
    """Path of a file in the table, None for an empty cell; True if it is found inside; a problem with its name."""

    path: str | None
    is_found: bool
    problem: str | None


class _Reader:
    """Rows of lists in the columns of an ImageTable, and the problems in them."""

    def __init__(self, columns: Columns, root: Path, options: ReadOptions) -> None:
        self.columns = columns
        self.root = root
        self.options = options
        self.paths: list[str | None] = []
        self.labels: list[str] = []
        self.splits: list[str | None] = []
        self.words: list[str] = []  # of the column of splits, else the file with a split in its name
        self.groups: list[str | None] = []
        self.problems: list[str] = []
        self.found = 0
        self.outside: dict[str, str] = {}  # target of each path that leads out of the folder of the images
        self.tables: list[TextTable] = []

    def read(self, table: TextTable, split: str | None) -> None:
        """Add the rows of a list; `split` is theirs where the list has no column of splits."""
        finder = finder_of(table.file, self.options, self.root)
        self.tables.append(table)
        names, (labels, bad_labels) = cells_of(table, self.columns.path), self._labels(table)
        splits, bad_splits = self._splits(table, split)
        rule = self.columns.split
        own = rule is not None and rule.name in table.names
        self.words += cells_of(table, rule.name) if rule and own else [table.file.name if split else ""] * len(table)
        whole = [name for i, name in enumerate(names) if i not in table.ragged] if table.ragged else names
        places = {name: self._place(name, finder) for name in dict.fromkeys(whole)}
        self.paths += [places[name].path for name in whole]
        self.found += sum(places[name].is_found for name in whole)
        self.labels += labels
        self.splits += splits
        self.groups += [group or None for group in cells_of(table, self.columns.group)]
        bad_names = {name: place.problem for name, place in places.items() if place.problem}
        bad_places = {i: bad_names[name] for i, name in enumerate(names) if name in bad_names} if bad_names else {}
        for i in sorted({*table.ragged, *bad_places, *bad_labels, *bad_splits}):
            if i in table.ragged:
                problems: list[str | None] = [f"{table.ragged[i]} cells, unlike the header"]
            else:
                bad_label = None if splits[i] == PREDICT else bad_labels.get(i)
                problems = [bad_places.get(i), bad_label, bad_splits.get(i)]
            self.problems += [f"{table.unit} {table.numbers[i]}: {problem}" for problem in problems if problem]

    def check(self, file: Path, total: int) -> None:
        """Refuse problems, with advice where no file is found at all, or none that may be read.

        Raises:
            DataError: there are problems; the message lists the first of them.
        """
        if self.outside and not self.found:
            raise list_error(file, self.root, list(self.outside), total)
        if not self.problems and not self.found:
            numbered = ((table.unit, number) for table in self.tables for number in table.numbers)
            self.problems = [
                f"{unit} {number}: no such file: {path}"
                for path, (unit, number) in zip(self.paths, numbered, strict=True)
            ]
        if not self.problems:
            return
        listed = "".join(f"\n  {problem}" for problem in self.problems[:MOST_SHOWN])
        rest = f"\n  and {len(self.problems) - MOST_SHOWN:,} more" if len(self.problems) > MOST_SHOWN else ""
        advice = ""
        if not self.found and not self.options.images:
            tried = [path for path in self.paths if path][:TRIED_NAMES]
            advice = f"\nNone of the files is found. {where_to_look(tried, place_of(file).parent)}"
        elif not self.found and is_whole_disk(self.root):
            advice = f"\nNone of the files is found, and all of {self.root} is not searched for their names. {NAME_IT}"
        found = counted(len(self.problems), "problem")
        raise DataError(f"{file}: {found} in {counted(total, 'row')}:{listed}{rest}{advice}")

    def take_splits_of_paths(self) -> list[str]:
        """Take the splits of the folders in the paths where nothing else gives any; sentences about it."""
        if self.columns.split or "split" in self.options.columns or any(self.splits):
            return []
        found, note = splits_of_paths(self.paths, self.labels)
        if found:
            self.words = [f"{folder}/" for folder, _ in found]
            self.splits = [split for _, split in found]
        return [note] if note else []

    def _place(self, name: str, finder: FileFinder) -> "_Place":
        """Place of the file of a name; a name without a file is a damaged image."""
        problem = path = None
        try:
            path = finder.find(name) if name else None
        except AmbiguousName as error:
            problem = str(error)
        except DataError:  # too many files to search
            raise
        except (OSError, ValueError):  # a name too long or with a null character, a folder that may not be entered
            path = None
        text = relative(finder, self.root, path or posix(name, finder.folder)) if name else None
        target = finder.outside(path) if path else None
        if text and target:
            self.outside[text] = target
        return _Place(text, path is not None and target is None, problem)

    def _labels(self, table: TextTable) -> tuple[Sequence[str], dict[int, str]]:
        """Label of each row, and the problems with them by row."""
        if not self.columns.one_hot:
            cells = cells_of(table, self.columns.label)
            return cells, {i: "the label is empty" for i, cell in enumerate(cells) if not cell}
        flags = [cells_of(table, name) for name in self.columns.one_hot]
        return _parted([_of_one_hot(self.columns.one_hot, row) for row in zip(*flags, strict=True)])

    def _splits(self, table: TextTable, default: str | None) -> tuple[list[str | None], dict[int, str]]:
        """Split of each row, and the problems with them by row."""
        rule = self.columns.split
        if rule is None or rule.name not in table.names:
            return [default] * len(table), {}
        meaning = {word: _meaning(rule, word) for word in set(table.column(rule.name))}
        return _parted([meaning[word] for word in table.column(rule.name)])


def _parted(pairs: Sequence[tuple[T, str | None]]) -> tuple[list[T], dict[int, str]]:
    """Values, and the problems with some of them by their position."""
    return [value for value, _ in pairs], {i: problem for i, (_, problem) in enumerate(pairs) if problem}


def _meaning(rule: SplitRule, word: str) -> tuple[str | None, str | None]:
    try:
        return rule.split(word), None
    except ValueError as error:
        return None, f"{error}; a split has one of the words {known_words()}"


def _of_one_hot(names: Sequence[str], cells: Sequence[str]) -> tuple[str, str | None]:
    """Label of a row of one-hot columns, and a problem with it."""
    ones = [name for name, cell in zip(names, cells, strict=True) if cell.casefold() in ONE]
    if other := [cell for cell in cells if cell.casefold() not in ONE | ZERO]:
        return "", f"{other[0]!r} in a one-hot column, which has 0 and 1"
    return (ones[0], None) if len(ones) == 1 else ("", f"{len(ones)} of the one-hot columns are 1, not a single one")


def finder_of(file: Path, options: ReadOptions, root: Path | None = None) -> FileFinder:
    """Finder of the files that a list names: in the folder that the user named, else beside the list.

    They may lie anywhere in `root`; by default in the same folder.
    """
    folder = options.images or place_of(file).parent
    boundary = Boundary(root or folder, follow_links=options.follow_links)
    return FileFinder(folder, deep=options.images is not None, boundary=boundary)


def relative(finder: FileFinder, root: Path, path: str) -> str:
    """Path of a file that a finder found, as text relative to the root of the table."""
    if finder.folder == root or Path(path).is_absolute():
        return text_name(path)
    return f"{text_name(finder.folder.relative_to(root).as_posix())}/{text_name(path)}"


def _repeated(paths: Sequence[str | None]) -> list[str]:
    named = [path for path in paths if path is not None]
    repeated = len(named) - len(set(named))
    return [f"{counted(repeated, 'row')} with the path of an earlier row."] if repeated else []
