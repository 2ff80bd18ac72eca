"""Lists of images to predict: their order and their identifiers are kept; labels in them are not read."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.boundary import list_error
from loupe.data.sources.image_files import NAME_IT, AmbiguousName, is_whole_disk, posix, where_to_look
from loupe.data.sources.image_list import cells_of, finder_of, origin_of, relative, resolve_all
from loupe.data.sources.parquet import open_parquet
from loupe.data.sources.parquet_columns import holds_images, resolve_files
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import PARQUET_SUFFIXES, parquet_text, read_rows
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError, counted

TRIED_NAMES = 20


@dataclass(frozen=True)
class InferenceList:
    """Images of a list.

    Attributes:
        table: unlabelled images, in the order of the list.
        id_name: column of the identifiers.
        ids: identifier of each image, as the list has it.
    """

    table: ImageTable
    id_name: str
    ids: tuple[str, ...]

    def by_path(self) -> dict[str, str]:
        """Identifier of each image by its path in the table."""
        return dict(zip(self.table.paths, self.ids, strict=True))


def open_inference_list(path: Path, options: ReadOptions) -> InferenceList:
    """Open a CSV, TSV, JSON Lines or Parquet file of images to predict. Files that do not exist are damaged images.

    Raises:
        DataError: the file cannot be read, has no column of images, or none of the files exists.
    """
    options.check()
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises for some names
        there = os.path.lexists(path)
        what = "not a regular file" if there else "no such file"
        raise DataError(f"{redacted_word(str(path))}: {what}. Give a list of images.")
    if path.suffix.lower() in PARQUET_SUFFIXES and holds_images(path, options):
        return _of_images(path, options)
    rows = read_rows(path, options)
    if not len(rows):
        raise DataError(f"{path}: there are no rows in it.")
    if rows.ragged:
        first, cells = next(iter(rows.ragged.items()))
        raise DataError(
            f"{path}: {rows.unit} {rows.numbers[first]} has {counted(cells, 'cell')}, and the header "
            f"{len(rows.names)} ({counted(len(rows.ragged), 'such row')})."
        )
    columns = resolve_all([rows], options, labelled=False)
    finder = finder_of(path, options)
    root = finder.folder
    names = cells_of(rows, columns.path)
    found = []
    for number, name in zip(rows.numbers, names, strict=True):
        try:
            found.append(finder.find(name) if name else None)
        except AmbiguousName as error:
            raise DataError(f"{path}: {rows.unit} {number}: {error}. Give the names with their folders.") from None
        except DataError:
            raise
        except (OSError, ValueError):  # no file can have the name
            found.append(None)
    if not any(found):
        advice = NAME_IT if is_whole_disk(root) else where_to_look(names[:TRIED_NAMES], root)
        raise DataError(f"{path}: none of its files is found, such as {names[0]} in {root}. {advice}")
    paths = [
        relative(finder, root, file or posix(name, root)) if name else None
        for file, name in zip(found, names, strict=True)
    ]
    pairs = zip(paths, found, strict=True)
    outside = {path: target for path, file in pairs if path and file and (target := finder.outside(file))}
    if outside and all(path in outside for path, file in zip(paths, found, strict=True) if file):
        raise list_error(path, root, list(outside), len(rows))
    table = ImageTable(
        make_rows(n=len(paths), path=paths, label=None),
        classes=(),
        name=path.stem,
        root=root,
        notes=(f"{counted(len(paths), 'image')}.", *rows.notes, *columns.notes),
        origin=origin_of([rows], root),
        outside=outside,
    )
    return InferenceList(table, columns.id or columns.path, tuple(cells_of(rows, columns.id or columns.path)))


def _of_images(path: Path, options: ReadOptions) -> InferenceList:
    """Images in the rows of a Parquet file; without a column of identifiers, their paths identify them."""
    table = open_parquet([path], path.parent, path.stem, options, labelled=False)
    columns, _ = resolve_files([path], options, labelled=False)
    notes = (f"{counted(len(table), 'image')}.", *columns.notes)
    table = replace(table, classes=(), notes=notes)
    if columns.id is None or columns.id == columns.path:
        return InferenceList(table, "path", table.paths)
    return InferenceList(table, columns.id, tuple(parquet_text(path, columns.id)))
