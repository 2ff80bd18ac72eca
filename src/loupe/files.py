"""Files that are whole or not there: written beside their place, synced, renamed.

A reader, or a process that was killed, never sees half of one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """The bytes, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """What is written to the file that this gives replaces the file at `path`: whole, or not at all.

    A device or a pipe (`/dev/null`) is written to, and stays what it is.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces the file as `replacing` does."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
