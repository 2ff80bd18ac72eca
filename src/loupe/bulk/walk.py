"""Walk through a folder of images in the order of their names, in memory that does not grow with their number.

The rules are those of `data.sources.folders`: the same images, in the same order, but that those behind links to other
folders come last.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loupe.bulk.sorting import sorted_names
from loupe.bulk.source import NOT_THERE, Listed
from loupe.data.formats import image_suffixes
from loupe.data.sources.boundary import Boundary, links_error
from loupe.data.sources.folders import NOT_DATA, Tree, is_folder, suffix_of, system_devices
from loupe.data.table import os_name, text_name
from loupe.data.unread import sentence_on, unread_format
from loupe.errors import DataError

SEPARATOR = "\0"  # between a name and the target of a link, in what is sorted; below any letter of a name
MOST_TARGETS = 10_000  # of links, of which all are outside
BROKEN = "broken"  # in the place of a target, which is an absolute path


class Skipped:
    """Files and folders that are no images, counted.

    Attributes:
        tree: counts as `data.sources.folders` has them.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self._unread: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, suffix: str, name: str, file: str) -> None:
        """Count a file that is no image by its suffix, or an image that cannot be read by its format."""
        if kind := unread_format(suffix, Path(file)):
            self._unread[kind] += 1
            self._examples.setdefault(kind, name)
        else:
            self.tree.others[suffix] += 1

    def warnings(self) -> list[str]:
        """One sentence for each format that cannot be read."""
        return [sentence_on(kind, files, "", self._examples[kind]) for kind, files in self._unread.items()]


class Walk:
    """Walk through one folder.

    Args:
        folder: folder as the user named it.
        follow_links: follow links out of it.
        spill: folder of temporary files, for folders with more entries than should be held.
        skipped: where what is no image is counted.
    """

    def __init__(self, folder: str, *, follow_links: bool, spill: Path, skipped: Skipped) -> None:
        self._folder = folder
        self._boundary = Boundary(Path(folder), follow_links=follow_links)
        self._spill = spill
        self._skipped = skipped
        self._seen: set[tuple[int, int]] = set()
        self._system = system_devices()
        self._links: list[tuple[str, str]] = []  # path and prefix
        self._leaving: dict[str, str] = {}  # targets of links to folders outside
        self._outside: dict[str, str] = {}  # targets of images outside, as long as there is no image inside
        self._inside = False

    def images(self) -> Iterator[Listed]:
        """Images in order, their paths relative to the folder.

        Raises:
            DataError: a folder cannot be read; a link leads to a folder outside, or all images are links to files
                outside.
        """
        self._links.append((self._folder, ""))
        while self._links:
            links, self._links = sorted(self._links, key=lambda link: link[1]), []
            for path, prefix in links:
                yield from self._below(path, prefix)
        if self._leaving:
            raise links_error(Path(self._folder), dict(sorted(self._leaving.items())))
        if self._outside and not self._inside:
            raise links_error(Path(self._folder), self._outside)

    def _below(self, folder: str, prefix: str) -> Iterator[Listed]:
        """Images below a folder, depth first; not by recursion, whose depth a stranger would choose."""
        stack = [(folder, prefix, self._sorted(folder, prefix))]
        while stack:
            path, prefix, names = stack[-1]
            item = next(names, None)
            if item is None:
                stack.pop()
                continue
            name, _, target = item.partition(SEPARATOR)
            if name.endswith("/"):
                inner = os.path.join(path, os_name(name[:-1]))  # noqa: PTH118 - called for each of many folders
                stack.append((inner, prefix + name, self._sorted(inner, prefix + name)))
            else:
                yield self._listed(prefix + name, target)

    def _listed(self, name: str, target: str) -> Listed:
        if target == BROKEN:
            return Listed(name, problem=NOT_THERE)
        if not target:
            self._inside = True
            self._outside.clear()
            return Listed(name)
        if not self._inside and len(self._outside) < MOST_TARGETS:
            self._outside[name] = target
        return Listed(
            name, problem=f"it leads out of the folder of the data, to {target}: not read without --follow-links"
        )

    def _sorted(self, folder: str, prefix: str) -> Iterator[str]:
        return sorted_names(self._entries(folder, prefix), self._spill)

    def _entries(self, folder: str, prefix: str) -> Iterator[str]:
        """Images of a folder with the targets of those outside, and the folders in it with a slash after the name."""
        try:
            identity = Path(folder).stat()
            if self._is_left_out((identity.st_dev, identity.st_ino), prefix):
                return
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield from self._entry(entry, prefix)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            remedy = "It was removed while it was listed: start again" if gone else "Change its permissions, or move it"
            raise DataError(f"{text_name(folder)}: this folder cannot be read: {error.strerror}. {remedy}.") from None

    def _is_left_out(self, identity: tuple[int, int], prefix: str) -> bool:
        """True for a folder of the system, and for one that was read already."""
        if identity[0] in self._system:
            self._skipped.tree.system.append(prefix.rstrip("/") or text_name(self._folder))
            return True
        if identity in self._seen:
            self._skipped.tree.loops.append(prefix.rstrip("/"))
            return True
        self._seen.add(identity)
        return False

    def _entry(self, entry: os.DirEntry[str], prefix: str) -> Iterator[str]:
        name, hidden = text_name(entry.name), entry.name.startswith(".")
        if not is_folder(entry):
            if not hidden:
                yield from self._file(entry, name, prefix)
        elif hidden or entry.name in NOT_DATA:
            self._skipped.tree.hidden += 1
        elif not entry.is_symlink():
            yield f"{name}/"
        elif target := self._boundary.outside(entry.path):
            self._leaving[prefix + name] = target
        else:
            self._links.append((entry.path, f"{prefix}{name}/"))

    def _file(self, entry: os.DirEntry[str], name: str, prefix: str) -> Iterator[str]:
        suffix, is_link = suffix_of(entry.name), entry.is_symlink()
        # A broken link with an image's name is kept, so that it is reported as a damaged image.
        if suffix in image_suffixes() and (is_link or entry.is_file()):
            target = (is_link and self._boundary.outside(entry.path)) or ""
            is_broken = is_link and not target and not os.path.exists(entry.path)  # noqa: PTH110
            yield f"{name}{SEPARATOR}{BROKEN if is_broken else target}"
        elif is_link and self._boundary.outside(entry.path):
            self._skipped.tree.others[suffix] += 1
        else:
            self._skipped.add(suffix, prefix + name, entry.path)
