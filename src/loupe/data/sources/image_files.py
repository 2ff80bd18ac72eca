"""Files that a list of images names: beside the list or in another folder, with or without their extensions."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from loupe.data.class_names import same_form
from loupe.data.find_file import existing
from loupe.data.formats import format_of_suffix
from loupe.data.sources.boundary import Boundary
from loupe.data.sources.folders import scan
from loupe.data.table import os_name, text_name
from loupe.errors import DataError, enumerated
from loupe.log import command_line

MOST_FOLDERS = 200  # looked into for a hint
MOST_ENTRIES = 2**21  # of folders that are searched for a name
NAME_IT = "Name the folder of the images: --images FOLDER"


class AmbiguousName(DataError):  # noqa: N818 - named after the name
    """Name that several files have."""


class FileFinder:
    """Files under a folder by the names in a list.

    A name is a path relative to the folder, or an absolute one. Where no such file exists, it may lack the extension of
    an image; and in a folder that the user named, the file may lie in any folder below, unless that is a whole disk.
    """

    def __init__(self, folder: Path, *, deep: bool, boundary: Boundary) -> None:
        self.folder = folder
        self.deep = deep
        self._boundary = boundary
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """Path of the file relative to the folder; None if there is none.

        Raises:
            AmbiguousName: several files have the name.
            DataError: there are more than `MOST_ENTRIES` files to search for it.
            OSError: no file can have the name.
        """
        path = existing(self.folder, posix(name, self.folder))
        if (self.folder / path).is_file():
            return path
        folder, _, last = path.rpartition("/")
        if not last:
            return None
        key = same_form(last)
        for stems in (False, True):
            if self.deep and not os.path.isabs(path):  # noqa: PTH117
                found = [file for file in self._below[stems].get(key, []) if self._ends(file, folder)]
            else:
                beside = self._beside(folder, stems=stems).get(key, [])
                found = [f"{folder}/{file}" if "/" in path else file for file in beside]
            if len(found) > 1:
                raise AmbiguousName(f"{name} is the name of {enumerated(sorted(found), most=3)}")
            if found:
                return found[0]
        return None

    def outside(self, path: str) -> str | None:
        """Target of a path that was found, if it leads out of the folder of the data and is not to be read."""
        return self._boundary.outside(self.folder / path)

    def _beside(self, folder: str, *, stems: bool) -> dict[str, list[str]]:
        """Image files directly in a folder, by name or by name without extension."""
        key = f"{stems} {folder}"
        if key not in self._listed:
            try:
                names = sorted(os.listdir(self.folder / folder))  # noqa: PTH208 - names, not paths
            except OSError:
                names = []
            self._listed[key] = _by_name([text_name(name) for name in names], stems=stems)
        return self._listed[key]

    @cached_property
    def _below(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Image files in all folders below, by name and by name without extension."""
        if is_whole_disk(self.folder):
            return {}, {}
        images = scan(self.folder, follow_links=self._boundary.follow_links, most_entries=MOST_ENTRIES).images
        return _by_name(images, stems=False), _by_name(images, stems=True)

    def _ends(self, file: str, folder: str) -> bool:
        """True if a file lies in folders of these names, wherever they are."""
        own = (self.folder / file).parent.as_posix()
        return not folder or (not Path(folder).is_absolute() and f"/{own}".endswith(f"/{folder.removeprefix('./')}"))


def is_whole_disk(folder: Path) -> bool:
    """True for the root of the file system, or of a drive."""
    folder = folder.resolve()
    return folder == folder.parent


def _by_name(files: Sequence[str], *, stems: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        name = same_form(file.rpartition("/")[2])
        stem, dot, suffix = name.rpartition(".")
        if dot and format_of_suffix(f".{suffix.lower()}"):
            found.setdefault(stem if stems else name, []).append(file)
    return found


def where_to_look(names: Sequence[str], folder: Path) -> str:
    """Advice where none of these names is a file in the folder: a folder near it that has one, as an option to type."""
    for candidate in _near(folder):
        for name in names:
            try:
                if FileFinder(candidate, deep=False, boundary=Boundary(candidate, follow_links=False)).find(name):
                    return f"{candidate} has {name}: {command_line(['--images', str(candidate)])}"
            except (AmbiguousName, OSError):
                continue
    return "If the images are in another folder, name it: --images FOLDER"


def _near(folder: Path) -> Iterator[Path]:
    """Folders in this one, in those, and in the one above."""
    try:
        for pattern, base in (("*/", folder), ("*/*/", folder), ("*/", folder.parent)):
            yield from islice((path for path in sorted(base.glob(pattern)) if path.is_dir()), MOST_FOLDERS)
    except OSError:
        return


def posix(name: str, root: Path) -> str:
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
