"""Image files on disk as a source: files, folders and globs, in the order given, each file once."""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from loupe.bulk.reading import FILES
from loupe.bulk.shards import TAR
from loupe.bulk.sorting import sorted_names
from loupe.bulk.source import NOT_THERE, Listed
from loupe.bulk.walk import Skipped, Walk
from loupe.data.find_file import existing
from loupe.data.formats import image_suffixes
from loupe.data.sources.folders import suffix_of
from loupe.data.sources.in_memory import local_path
from loupe.data.table import text_name
from loupe.errors import DataError, counted, sentences


class PathSource:
    """Files, folders (recursively) and globs.

    The names of the images of several paths are held in memory, so that an image under two of them is taken once. One
    path takes constant memory.

    Args:
        paths: as the user gave them.
        follow_links: follow links out of the folders. A file that is named, or matches a glob, is always read.
    """

    kind = FILES
    id_name: str | None = None

    def __init__(self, paths: Sequence[str], *, follow_links: bool) -> None:
        # pathlib's functions raise for an unknown user and for a name that is too long.
        self._paths = [existing(Path(), os.path.expanduser(local_path(path))) for path in paths]  # noqa: PTH111
        self._follow_links = follow_links
        self._skipped = Skipped()
        self._walked: set[str] = set()  # folders, as posix paths
        self._images = 0
        self.places = tuple(text_name(os.path.abspath(path)) for path in self._paths)  # noqa: PTH100
        self.root = text_name(str(Path.cwd()))

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        taken: set[str] | None = set() if len(self._paths) > 1 else None
        for path in self._paths:
            before = self._images
            for listed in self._expand(path, spill):
                if taken is not None:
                    if listed.path in taken:
                        before -= 1  # there is an image
                        continue
                    taken.add(listed.path)
                self._images += 1
                yield listed
            if self._images == before:
                raise DataError(
                    sentences(f"{text_name(path)}: there are no images in it", *self.warnings(), self._tars(path))
                )

    def _tars(self, path: str) -> str:
        """Advice on tars that were skipped."""
        if not (tars := self._skipped.tree.others[TAR]):
            return ""
        named = f"{Path(path).as_posix()}/*{TAR}" if os.path.isdir(path) else f"a/*{TAR}"  # noqa: PTH112
        return f"Skipped {counted(tars, 'tar')}: predict images in tars by a pattern, such as {named!r}"

    def notes(self) -> list[str]:
        """As for any source."""
        return [f"{counted(self._images, 'image')}.", *self._skipped.tree.notes()]

    def warnings(self) -> list[str]:
        """As for any source."""
        return self._skipped.warnings()

    def _expand(self, path: str, spill: Path) -> Iterator[Listed]:
        if os.path.isfile(path):  # noqa: PTH113
            yield Listed(_posix(path))
        elif os.path.isdir(path):  # noqa: PTH112
            yield from self._below(path, spill)
        else:
            any_match = False
            for match in sorted_names(map(text_name, _matches(path)), spill) if glob.has_magic(path) else ():
                any_match = True
                yield from self._matched(match, spill)
            if not any_match:
                raise DataError(f"{text_name(path)}: no such file or folder, and no match as a glob.")

    def _matched(self, match: str, spill: Path) -> Iterator[Listed]:
        if any(folder.as_posix() in self._walked for folder in Path(match).parents):
            return
        suffix = suffix_of(os.path.basename(match))  # noqa: PTH119
        if os.path.isdir(match):  # noqa: PTH112
            yield from self._below(match, spill)
        elif suffix in image_suffixes():
            there = os.path.exists(match)  # noqa: PTH110 - False for a broken link
            yield Listed(_posix(match), problem=None if there else NOT_THERE)
        else:
            self._skipped.add(suffix, match, match)

    def _below(self, folder: str, spill: Path) -> Iterator[Listed]:
        name = _posix(folder)
        self._walked.add(name)
        head = "" if name == "." else f"{name.rstrip('/')}/"
        walk = Walk(folder, follow_links=self._follow_links, spill=spill, skipped=self._skipped)
        for listed in walk.images():
            yield listed._replace(path=head + listed.path)


def _matches(pattern: str) -> Iterator[str]:
    """Matches of a glob; of one that does not look into all folders below, no list of a folder is held."""
    parent, name = os.path.split(pattern)
    if "**" in pattern or not glob.has_magic(name):
        try:
            yield from glob.iglob(pattern, recursive=True)  # noqa: PTH207 - takes absolute patterns too
        except RecursionError:
            raise DataError(
                f"{text_name(pattern)}: the folders are nested too deeply for **. Give the folder."
            ) from None
        return
    for folder in glob.iglob(parent) if glob.has_magic(parent) else [parent]:  # noqa: PTH207
        with suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                if fnmatch(entry.name, name) and (name.startswith(".") or not entry.name.startswith(".")):
                    yield os.path.join(folder, entry.name)  # noqa: PTH118


def _posix(name: str) -> str:
    return text_name(Path(name).as_posix())
