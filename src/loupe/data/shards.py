"""Shards that hold the images of a table: each image is a range of bytes in one file, which is read when it is needed.

A shard lies on this disk or elsewhere. One that lies elsewhere is fetched as a whole when the first of its images is
read, so the order of reading decides how often it is fetched (`augment.shard_order`).
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from loupe.data.file_state import State
from loupe.errors import DataError

MOST_OPEN = 128  # shards that are open at a time, below the usual limit of 256 files (macOS)


class ShardFile(Protocol):
    """File that holds images."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def key(self) -> tuple[str | int, ...]:
        """Identity of the content: place and version."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    def open(self) -> BinaryIO:
        """Open the file, which is fetched before where it lies elsewhere.

        Raises:
            LoupeError: it cannot be fetched, or its content is no longer that of `key`.
            OSError: it cannot be read.
        """


@dataclass(frozen=True)
class LocalShard:
    """Shard on this disk, in the state in which it was listed."""

    path: Path
    state: State

    @classmethod
    def of(cls, path: Path) -> "LocalShard":
        """Shard at a path.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return cls(path, State.of(path.stat()))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}.") from None

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def key(self) -> tuple[str | int, ...]:
        return (os.path.abspath(self.path), *self.state)  # noqa: PTH100 - resolve() would ask for every folder

    @property
    def size(self) -> int:
        return self.state.size

    def open(self) -> BinaryIO:
        """Open the file.

        Raises:
            DataError: it has changed since it was listed.
            OSError: it cannot be read.
        """
        file = self.path.open("rb")
        if State.of(os.fstat(file.fileno())) != self.state:
            file.close()
            raise DataError(f"{self.path}: it has changed while it was read. Start again.")
        return file


class _OpenShards:
    """Shards that are open, at most `MOST_OPEN`, the least recently used one closed first."""

    def __init__(self, files: Sequence[ShardFile]) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._open: OrderedDict[int, tuple[BinaryIO, threading.Lock]] = OrderedDict()

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Read a range of bytes; fewer where the file ends before."""
        while True:
            file, own = self._opened(shard)
            with own:
                if file.closed:  # by another thread that needed its place
                    continue
                file.seek(start)
                return file.read(size)

    def _opened(self, shard: int) -> tuple[BinaryIO, threading.Lock]:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        entry = self._files[shard].open(), threading.Lock()  # without the lock: another shard may be there already
        with self._lock:
            if shard in self._open:
                entry[0].close()
            found = self._open.setdefault(shard, entry)
            closing = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - MOST_OPEN)]
        for file, own in closing:
            with own:
                file.close()
        return found


@dataclass(frozen=True, eq=False)
class Shards:
    """Place of each of N images in the shards of a table.

    Attributes:
        files: the shards.
        shard_N: shard of each image.
        start_N: first byte of each image in its shard.
        size_N: size of each image in bytes.
        digest_N: SHA-256 of the bytes of each image, uint8 [N, 32]; zeros for one that is too large to be read.
        cache_bytes: byte budget of the cache through which shards elsewhere are read; None for shards on this disk.
    """

    files: tuple[ShardFile, ...]
    shard_N: NDArray[np.int32]
    start_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    digest_N: NDArray[np.uint8]
    cache_bytes: int | None = None
    _open: _OpenShards = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_open", _OpenShards(self.files))

    def __len__(self) -> int:
        return len(self.shard_N)

    @property
    def total_bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(file.size for file in self.files)

    @property
    def exceed_cache(self) -> bool:
        """True if not all shards fit in the cache at once, so that each is fetched again in every epoch."""
        return self.cache_bytes is not None and self.total_bytes > self.cache_bytes

    @property
    def digests(self) -> list[str | None]:
        """Hexadecimal SHA-256 of the bytes of each image, from the pass in which its shard was read first.

        None for an image that is too large to be read.
        """
        return [row.tobytes().hex() if row.any() else None for row in self.digest_N]

    def read(self, i: int) -> bytes:
        """Bytes of image `i`.

        Raises:
            LoupeError: its shard cannot be fetched, or has changed.
            OSError: it cannot be read.
        """
        shard, start, size = int(self.shard_N[i]), int(self.start_N[i]), int(self.size_N[i])
        data = self._open.read(shard, start, size)
        if len(data) < size:
            raise OSError(f"{self.files[shard].name} ends before its last byte")
        return data

    def select(self, indices: NDArray[np.int64]) -> "Shards":
        """Places of the images at `indices`, in that order."""
        chosen = replace(
            self,
            shard_N=self.shard_N[indices],
            start_N=self.start_N[indices],
            size_N=self.size_N[indices],
            digest_N=self.digest_N[indices],
        )
        object.__setattr__(chosen, "_open", self._open)  # the same open files
        return chosen
