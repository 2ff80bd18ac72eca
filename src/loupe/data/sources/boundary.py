"""Boundary of a source of images: files outside its folder are read only if the user asks for it.

A link, `..` or an absolute path in data from strangers can name any file of this machine. What counts is where a path
leads in the end: a link from one folder of the data into another is followed. Snapshots in the cache of the Hugging
Face hub are folders of links into the folder `blobs` beside them, which counts as theirs.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from loupe.data.table import text_name
from loupe.errors import DataError, counted
from loupe.log import command_line

FLAG = "--follow-links"
_HUB_ENTRY = re.compile(r"(datasets|models|spaces)--.+")


class Boundary:
    """Folder in which the files of a source must lie; with `follow_links` they may lie anywhere."""

    def __init__(self, folder: Path, *, follow_links: bool) -> None:
        self.folder = folder
        self.follow_links = follow_links
        here = Path(os.path.realpath(folder))
        blobs = _hub_blobs(here)
        self._inside = tuple(_with_separator(str(part)) for part in ((here, blobs) if blobs else (here,)))
        self._parents: dict[str, str] = {}

    def outside(self, path: str | Path) -> str | None:
        """Target of a path that leads to a regular file or a folder outside; None for any other."""
        if self.follow_links:
            return None
        parent, name = os.path.split(path)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        target = os.path.join(self._parents[parent], name)  # noqa: PTH118 - called for each of a million files
        if name in {"", os.curdir, os.pardir} or os.path.islink(target):  # noqa: PTH114
            target = os.path.realpath(target)
        if _with_separator(target).startswith(self._inside):
            return None
        is_there = os.path.isfile(target) or os.path.isdir(target)  # noqa: PTH112, PTH113
        return text_name(target) if is_there else None


def place_of(file: Path) -> Path:
    """Path of a file without links; of a link from a snapshot of the hub's cache into its blobs, that of the link."""
    real, link = file.resolve(), file.parent.resolve() / file.name
    return link if real.parent == _hub_blobs(link.parent) else real


def _hub_blobs(folder: Path) -> Path | None:
    """Files of the entry of a Hugging Face hub's cache, where the folder is a snapshot of it or lies in one."""
    for above in (folder, *folder.parents):
        entry = above.parent.parent
        if above.parent.name == "snapshots" and _HUB_ENTRY.fullmatch(entry.name):
            blobs = entry / "blobs"
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None


def links_error(folder: Path, targets: Mapping[str, str]) -> DataError:
    """Error for links in a folder that lead out of it, with the target of each."""
    name, target = next(iter(targets.items()))
    verb = "leads" if len(targets) == 1 else "lead"
    return DataError(
        f"{folder}: {counted(len(targets), 'link')} {verb} out of this folder, such as {name} -> {target}. Files "
        f"outside are not read unless asked for. If you trust the data, add {FLAG}"
    )


def list_error(file: Path, folder: Path, names: Sequence[str], total: int) -> DataError:
    """Error for a list of which no image lies in the folder of the images.

    Args:
        file: the list.
        folder: folder of the images.
        names: names in the list that lead to files outside.
        total: number of rows.
    """
    other = ""
    if all(os.path.isabs(name) for name in names):  # noqa: PTH117
        try:
            common = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
            other = f"{command_line(['--images', common])} or "
        except ValueError:  # several drives
            other = ""
    return DataError(
        f"{file}: {len(names):,} of {counted(total, 'image')} lie outside {folder}, such as {names[0]}. Files outside "
        f"are not read unless asked for. If you trust the list, add {other}{FLAG}"
    )


def _with_separator(path: str) -> str:
    return os.path.join(os.path.normcase(path), "")  # noqa: PTH118
