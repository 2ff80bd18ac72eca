"""Images that a command works on: where they came from, their table, and the hash of each one's content."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loupe.data.hashing import content_hashes
from loupe.data.sources import datasets
from loupe.data.sources.boundary import place_of
from loupe.data.sources.in_memory import local_path
from loupe.data.sources.open import DEFAULT, open_table
from loupe.data.sources.path_patterns import is_pattern, matches
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.remote import is_elsewhere
from loupe.data.table import ImageTable
from loupe.log import logger


@dataclass(frozen=True)
class Dataset:
    """Images, opened once in a command and handed on.

    Attributes:
        source: the name of a data set, an absolute path or an address, from which they can be opened again; None for
            arrays.
        verify: read every image to hash it, and use no remembered hash.
        options: columns of a list of images, and the folder of its images, with which it is opened again.
    """

    source: str | None
    table: ImageTable
    verify: bool = False
    options: ReadOptions = DEFAULT

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each image's bytes, in the order of the table; computed when first asked for."""
        return content_hashes(self.table, verify=self.verify)

    def compute_hashes(self) -> None:
        """Hash the images on all ranks together, before rank 0 alone asks for the hashes."""
        len(self.hashes)

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def default_recipe(self) -> str | None:
        """The recipe that a named data set is given when none is asked for; None for other images."""
        return datasets.DATASETS[self.source].default_recipe if self.source in datasets.DATASETS else None


def open_dataset(data: Any, options: ReadOptions = DEFAULT, *, announce: bool = True, verify: bool = False) -> Dataset:
    """The images that `data` names or holds, as `open_table` takes them; a Dataset is returned as it is.

    Args:
        options: columns of a list of images, and the folder of its images.
        announce: log the notes about the images.
        verify: hash every image anew, without the hashes that are remembered of unchanged files.

    Raises:
        LoupeError: nothing fits; the message says what is allowed.
    """
    if isinstance(data, Dataset):
        return data
    table = open_table(data, options)
    for note in table.notes if announce else ():
        logger.info(note)
    for warning in table.warnings if announce else ():
        logger.warning(warning)
    return Dataset(_source_of(data, table), table, verify, options)


def is_gone(source: str) -> bool:
    """True where the source of a data set is a path at which there is nothing; opening an address tells."""
    if is_elsewhere(source) or source in datasets.DATASETS or os.path.exists(source):  # noqa: PTH110 - pathlib's raises without permission
        return False
    return not (is_pattern(source) and matches(source))


def _source_of(data: Any, table: ImageTable) -> str | None:
    if table.elsewhere is not None:
        return table.elsewhere.address
    if isinstance(data, str) and data in datasets.DATASETS:
        return data
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(os.path.expanduser(local_path(os.fspath(data))))  # noqa: PTH111
    return str(place_of(path))
