"""Files by a name in either Unicode form: lists and disks of different systems spell accented letters differently."""

import os
from functools import lru_cache
from pathlib import Path

from loupe.data.class_names import same_form


def existing(root: Path, name: str) -> str:
    """Name as the disk spells it, of a file or folder under `root`; `name` itself where nothing has that name.

    A file of exactly that name comes first.
    """
    if name.isascii() or os.path.lexists(root / name):
        return name
    path = Path(name)
    anchor, parts = (path.anchor, path.parts[1:]) if path.anchor else ("", path.parts)
    spelled: list[str] = []
    for part in parts:
        folder = root / Path(anchor, *spelled)
        spelled.append(part if os.path.lexists(folder / part) else _by_form(folder).get(same_form(part), part))
    found = Path(anchor, *spelled)
    return found.as_posix() if os.path.lexists(root / found) else name


def _by_form(folder: Path) -> dict[str, str]:
    try:
        return _entries(os.fspath(folder), folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=256)
def _entries(folder: str, changed_ns: int) -> dict[str, str]:
    """Entries of a folder by the form in which names are compared; read again when the folder has changed."""
    return {same_form(name): name for name in sorted(os.listdir(folder))}  # noqa: PTH208
