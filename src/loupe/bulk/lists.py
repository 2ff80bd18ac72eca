"""Lists of image files as a source: CSV, TSV, JSON Lines and Parquet, read in pieces, in their order."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from loupe.bulk.reading import FILES, is_of_the_file, temporary
from loupe.bulk.source import NOT_THERE, Listed
from loupe.data.sources.boundary import list_error
from loupe.data.sources.columns import Columns, resolve
from loupe.data.sources.image_files import NAME_IT, AmbiguousName, is_whole_disk, posix, where_to_look
from loupe.data.sources.image_list import finder_of, relative
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import TextTable, read_pieces
from loupe.data.table import text_name
from loupe.errors import DataError, counted

PIECE_ROWS = 16_384
TRIED_NAMES = 20
MOST_OUTSIDE = 10_000  # names of files outside, for an error


class ListSource:
    """Files that a list names. Each row is an image; one whose file does not exist is damaged.

    Args:
        path: the list.
        options: columns, and folder of the images.

    Raises:
        DataError: there is no such file.
    """

    kind = FILES

    def __init__(self, path: Path, options: ReadOptions) -> None:
        options.check()
        if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises for some names
            there = os.path.lexists(path)
            raise DataError(f"{path}: {'not a regular file' if there else 'no such file'}. Give a list of images.")
        self._path = path
        self._options = options
        self._finder = finder_of(path, options)
        self._columns: Columns | None = None
        self._dropped: tuple[str, ...] = ()
        self._rows = self._inside = 0
        self._tried: list[str] = []
        self._outside: list[str] = []
        self.places: tuple[str, ...] = (text_name(os.path.abspath(path)),)  # noqa: PTH100
        self.root = text_name(os.path.abspath(self._finder.folder))  # noqa: PTH100

    @property
    def id_name(self) -> str | None:
        """Column of the identifiers, once the first row was drawn; None where the paths identify the images."""
        return None if self._columns is None or self._columns.id == self._columns.path else self._columns.id

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        for piece in read_pieces(self._path, self._options, PIECE_ROWS, self._wanted):
            columns = self._resolved(piece.names)
            self._dropped = self._dropped or piece.notes
            self._check(piece)
            names = piece.column(columns.path)
            ids: Sequence[str | None] = piece.column(columns.id) if self.id_name and columns.id else [None] * len(names)
            for number, name, identifier in zip(piece.numbers, names, ids, strict=True):
                self._rows += 1
                yield self._listed(f"{piece.unit} {number}", name, identifier)
        if not self._rows:
            raise DataError(f"{self._path}: there are no rows in it.")
        if not self._inside:
            self._refuse()

    def notes(self) -> list[str]:
        """As for any source."""
        columns = self._columns.notes if self._columns else ()
        return [f"{counted(self._rows, 'image')}.", *self._dropped, *columns]

    def warnings(self) -> list[str]:
        """As for any source."""
        return []

    def _resolved(self, names: Sequence[str]) -> Columns:
        if self._columns is None:
            self._columns = resolve(self._path, names, lambda name: [], self._options, labelled=False)
        return self._columns

    def _wanted(self, names: Sequence[str]) -> list[str]:
        columns = self._resolved(names)
        return [columns.path, columns.id or columns.path]

    def _check(self, piece: TextTable) -> None:
        if piece.ragged:
            first, cells = next(iter(piece.ragged.items()))
            raise DataError(
                f"{self._path}: {piece.unit} {piece.numbers[first]} has {counted(cells, 'cell')}, and the header "
                f"{len(piece.names)}."
            )

    def _listed(self, where: str, name: str, identifier: str | None) -> Listed:
        """Row of the list: its file as the disk spells it; a problem where there is none that may be read."""
        if not name:
            return Listed(where, identifier, problem=f"no name of a file in {where} of the list")
        if len(self._tried) < TRIED_NAMES:
            self._tried.append(name)
        try:
            found = self._finder.find(name)
        except AmbiguousName as error:
            raise DataError(f"{self._path}: {where}: {error}. Give the names with their folders.") from None
        except DataError:
            raise
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not is_of_the_file(error):
                raise temporary(f"{self._path}: {where}: {name}", error) from None
            found = None  # no file can have the name
        path = relative(self._finder, self._finder.folder, found or posix(name, self._finder.folder))
        if found is None:
            return Listed(path, identifier, problem=NOT_THERE)
        if (target := self._finder.outside(found)) is not None:
            if len(self._outside) < MOST_OUTSIDE:
                self._outside.append(path)
            problem = f"it leads out of the folder of the data, to {target}: not read without --follow-links"
            return Listed(path, identifier, problem=problem)
        self._inside += 1
        return Listed(path, identifier)

    def _refuse(self) -> None:
        """Error for a list of which no image can be read, with advice."""
        root = self._finder.folder
        if self._outside:
            raise list_error(self._path, root, self._outside, self._rows)
        advice = NAME_IT if is_whole_disk(root) else where_to_look(self._tried, root)
        named = f", such as {self._tried[0]}" if self._tried else ""
        raise DataError(f"{self._path}: none of its files is found{named} in {root}. {advice}")
