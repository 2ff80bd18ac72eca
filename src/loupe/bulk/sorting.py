"""Sorting of more names than should be held in memory."""

import heapq
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

HELD_NAMES = 100_000
"""Names that are sorted in memory at a time. More than that go through temporary files."""


def sorted_names(names: Iterable[str], folder: Path) -> Iterator[str]:
    """Names in order, in constant memory.

    Args:
        names: valid texts.
        folder: folder of the temporary files.

    Raises:
        OSError: they cannot be written.
    """
    left = iter(names)
    held = sorted(islice(left, HELD_NAMES))
    if len(held) < HELD_NAMES:
        return iter(held)
    runs = []
    while held:
        runs.append(_stored(held, folder))
        held = sorted(islice(left, HELD_NAMES))
    return heapq.merge(*runs)


def _stored(names: list[str], folder: Path) -> Iterator[str]:
    """Names that are written to a temporary file now, and read from it as they are drawn."""
    file = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 - closed at its end
    file.writelines(json.dumps(name) + "\n" for name in names)
    file.seek(0)
    return _read(file)


def _read(file: IO[str]) -> Iterator[str]:
    with file:
        yield from map(json.loads, file)
