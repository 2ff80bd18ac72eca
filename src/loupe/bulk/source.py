"""Sources of images to predict in bulk: each lists its images once, in a fixed order, one by one."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

NOT_THERE = f"cannot be read: {os.strerror(errno.ENOENT)}"
"""Problem of an image that was not there when it was listed."""


class Listed(NamedTuple):
    """Image of a source.

    Attributes:
        path: name of the image in the result.
        id: identifier, where the source has them.
        place: where its bytes are, for the reader of this kind of source; None where `path` says it.
        problem: reason for which it cannot be read, where listing has found one.
    """

    path: str
    id: str | None = None
    place: str | None = None
    problem: str | None = None


class Source(Protocol):
    """Images, listed in constant memory.

    Attributes:
        kind: key of the reader of its images in `reading.READERS`.
        places: folders, files or addresses that the user named; absolute, and without what a shell understands.
        root: folder that paths of images are relative to; "" where they are addresses.
    """

    kind: str
    places: tuple[str, ...]
    root: str

    @property
    def id_name(self) -> str | None:
        """Column of the identifiers, once the first image was drawn; None without one."""

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order, the same whenever the source is.

        Args:
            spill: folder of temporary files, for what should not be held in memory.

        Raises:
            DataError: the source cannot be read, or has no image.
        """

    def notes(self) -> list[str]:
        """Sentences about what was listed and what was left out, once all rows were drawn."""

    def warnings(self) -> list[str]:
        """Sentences about images that were left out, once all rows were drawn."""
