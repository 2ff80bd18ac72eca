"""Pairs of near duplicates by content: found once for a set of images, kept in the cache, and read from there.

    <cache>/near/<key>.json        the pairs, and a checksum

The key is a hash of the contents of the images and of the limits of the search, whatever their order, paths or labels.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from loupe.cache import cache_folder
from loupe.data.audit import near_duplicates
from loupe.data.audit.near_duplicates import DISTANCE, LAYOUT
from loupe.data.table import ImageTable
from loupe.errors import counted
from loupe.log import logger
from loupe.records import CheckedRecord, Fraction, RecordError, Whole

KIND = "near"
VERSION = 1  # of the search: another one finds other pairs
MOST_KEPT = 1_000_000  # pairs in a file
DIGITS = 3  # of distances, so that their last bits, which depend on the processor, do not decide an order


@dataclass(frozen=True)
class NearPairs:
    """Near duplicates of a table.

    Attributes:
        ends_P2: rows of both images, by rising distance, then in the order of their contents. Of images of the same
            content, the first row stands for all.
        distance_P: rounded to `DIGITS` decimals.
    """

    ends_P2: NDArray[np.int64]
    distance_P: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ends_P2)


class KeptPairs(CheckedRecord):
    """Content of a file of the cache: places of both images of each pair in the sorted contents, and its distance."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "The near duplicates are searched again."

    first: tuple[Whole, ...]
    second: tuple[Whole, ...]
    distance: tuple[Fraction, ...]


def near_pairs(table: ImageTable, content: Sequence[str], *, cache: Path | None = None) -> NearPairs:
    """Near duplicates of a table, from the cache where they were searched before; damaged images have none.

    Args:
        table: images.
        content: digest of each image.
        cache: folder of the cache; None for that of the user.
    """
    folder = cache or cache_folder()
    digests, row_U = np.unique(np.array(content), return_index=True)
    path = folder / KIND / f"{_key(digests.tolist())}.json"
    kept = _read(path)
    if kept is None:
        logger.info(f"Searching near duplicates among {counted(len(row_U), 'image')} …")
        found = near_duplicates.near_ends(table.select(row_U), digests.tolist(), cache=folder)
        kept = _in_order(np.sort(found.ends_P2, axis=1), np.maximum(found.distance_P.astype(float), 0))
        _write(path, kept)
    ends_P2 = np.array([kept.first, kept.second], np.int64).T.reshape(-1, 2)
    return NearPairs(row_U[ends_P2], np.array(kept.distance, float))


def _in_order(ends_P2: NDArray[np.int64], distance_P: NDArray[np.float64]) -> KeptPairs:
    rounded_P = np.round(distance_P, DIGITS)
    order_P = np.lexsort((ends_P2[:, 1], ends_P2[:, 0], rounded_P))
    first, second = ends_P2[order_P].T.tolist()
    return KeptPairs(first=tuple(first), second=tuple(second), distance=tuple(rounded_P[order_P].tolist()))


def _key(digests: Sequence[str]) -> str:
    found = hashlib.sha256(f"near duplicates {VERSION} {DISTANCE} {LAYOUT}\n".encode())
    for digest in digests:
        found.update(f"{digest}\n".encode())
    return found.hexdigest()[:32]


def _read(path: Path) -> KeptPairs | None:
    """Pairs in a file; None if there is none, or if it is damaged, which is said."""
    try:
        kept = KeptPairs.read_if_there(path)
    except RecordError as error:
        logger.warning(str(error))
        return None
    if kept is not None:
        with suppress(OSError):
            os.utime(path)  # time of the last use
    return kept


def _write(path: Path, kept: KeptPairs) -> None:
    if len(kept.first) > MOST_KEPT:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept.write(path)
    except OSError as error:
        logger.info(f"the near duplicates cannot be kept in {path.parent} ({error.strerror or error}).")
