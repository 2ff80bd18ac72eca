"""Shards that hold the images of a table: each image is a range of bytes in one file, which is read when it is needed.

A shard lies on this disk or elsewhere. One that lies elsewhere is fetched as a whole when the first of its images is
read, so the order of reading decides how often it is fetched (`augment.shard_order`).
"""

import os
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from loupe.data.file_state import State
from loupe.errors import DataError


def _most_open() -> int:
    """Number of files that may be open for shards: a third of what the system lets a process open, up to 512."""
    if sys.platform == "win32":
        return 128
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 512 if most == resource.RLIM_INFINITY else max(32, min(512, most // 3))


SETTLED_NS = 2_000_000_000  # since the last change of a file: a later one cannot keep its times
MOST_PARTS = 8  # images of a shard that are fetched one by one, before it is fetched as a whole
FEW = 4  # shards that are fetched for a sample of images
MOST_OPEN = _most_open()  # shards that are open at a time


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

    @property
    def is_settled(self) -> bool:
        """True if other content would have another `key`, so that what was read of it may be kept."""

    def read_part(self, start: int, stop: int) -> bytes | None:
        """Bytes of a range without opening the file; None where that takes as long as to open it.

        Raises:
            LoupeError: they cannot be read, or the content is no longer that of `key`.
        """

    def open(self) -> BinaryIO:
        """Open the file, which is fetched before where it lies elsewhere.

        Raises:
            LoupeError: it cannot be fetched, or its content is no longer that of `key`.
            OSError: it cannot be read.
        """


ReadAhead = Callable[[Sequence[ShardFile]], None]
"""Function that fetches shards in the background, in the order in which they will be read."""


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

    @property
    def is_settled(self) -> bool:
        return time.time_ns() - self.state.last_change_ns > SETTLED_NS

    def read_part(self, start: int, stop: int) -> bytes | None:
        """None: the file is here."""
        return None

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


class OpenShards:
    """Shards that are open, up to a number and a sum of bytes; the least recently used one is closed first.

    A shard is closed at once when all of its images that were expected have been read, so that several processes that
    share a cache hold no more than what they are reading.
    """

    def __init__(self, files: Sequence[ShardFile], most_bytes: int | None) -> None:
        self._files = files
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._open: OrderedDict[int, tuple[BinaryIO, threading.Lock]] = OrderedDict()
        self._opening: set[int] = set()
        self._parts: Counter[int] = Counter()  # ranges that were read of shards that nobody expects
        self._expected: Counter[int] = Counter()  # images that are still to be read of each shard

    def expect(self, images: Mapping[int, int]) -> None:
        """Add to the numbers of images that will be read of each shard."""
        with self._changed:
            self._expected.update(images)

    def part(self, shard: int, start: int, size: int) -> bytes | None:
        """Range of a shard that is not open and not expected to be read as a whole; None for any other shard."""
        with self._changed:
            if shard in self._open or shard in self._opening or self._expected[shard] > 0:
                return None
            self._parts[shard] += 1
            if self._parts[shard] > MOST_PARTS:
                return None
        return self._files[shard].read_part(start, start + size)

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Read a range of bytes; fewer where the file ends before."""
        while True:
            file, own = self._opened(shard)
            with own:
                if file.closed:  # by another thread that needed its place
                    continue
                file.seek(start)
                data = file.read(size)
            self._count(shard)
            return data

    def _count(self, shard: int) -> None:
        """Count an image that was read, and close its shard if it was the last one."""
        with self._changed:
            if self._expected[shard] <= 0:
                return
            self._expected[shard] -= 1
            entry = None if self._expected[shard] else self._open.pop(shard, None)
        if entry:
            with entry[1]:
                entry[0].close()

    def _opened(self, shard: int) -> tuple[BinaryIO, threading.Lock]:
        with self._changed:
            self._changed.wait_for(lambda: shard in self._open or self._may_open(shard))
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
            self._opening.add(shard)
            closing = [*self._excess()]
        try:
            for file, own in closing:  # before, because a cache may have no room for one more
                with own:
                    file.close()
            entry = self._files[shard].open(), threading.Lock()
            with self._changed:
                self._open[shard] = entry
            return entry
        finally:
            with self._changed:
                self._opening.discard(shard)
                self._changed.notify_all()

    def _may_open(self, shard: int) -> bool:
        """True unless another thread opens this shard, or others that leave no room for it."""
        size = self._files[shard].size + sum(self._files[other].size for other in self._opening)
        is_alone = not self._opening
        return shard not in self._opening and (is_alone or self._most_bytes is None or size <= self._most_bytes)

    def _excess(self) -> Iterator[tuple[BinaryIO, threading.Lock]]:
        """Shards to be closed for those that are being opened, which are no longer among the open ones."""
        while self._open:
            held = [*self._open, *self._opening]
            is_full = self._most_bytes is not None and sum(self._files[k].size for k in held) > self._most_bytes
            if len(held) <= MOST_OPEN and not is_full:
                return
            yield self._open.popitem(last=False)[1]


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
        open_bytes: largest size of the shards that are open at once, which stay in the cache; None for any.
        slow_to_open: opening a shard takes as long as reading all of it, even if the cache has it.
        read_ahead: function that fetches shards in the background, in their order; None for shards on this disk.
        opened: the shards that are open, which tables of the same shards share.
    """

    files: tuple[ShardFile, ...]
    shard_N: NDArray[np.int32]
    start_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    digest_N: NDArray[np.uint8]
    cache_bytes: int | None = None
    open_bytes: int | None = None
    slow_to_open: bool = False
    read_ahead: ReadAhead | None = None
    opened: OpenShards = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opened", OpenShards(self.files, self.open_bytes))

    def __len__(self) -> int:
        return len(self.shard_N)

    @property
    def total_bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(file.size for file in self.files)

    @property
    def exceed_cache(self) -> bool:
        """True if images read in any order would fetch or unpack shards again and again."""
        is_small = self.cache_bytes is None or self.total_bytes <= self.cache_bytes
        return not is_small or (self.slow_to_open and len(self.files) > MOST_OPEN)

    @property
    def held_part(self) -> float:
        """Part of the shards that can be held at once: 1 for all of them."""
        of_bytes = 1.0 if self.cache_bytes is None else self.cache_bytes / max(1, self.total_bytes)
        of_files = MOST_OPEN / max(1, len(self.files)) if self.slow_to_open else 1.0
        return min(1.0, of_bytes, of_files)

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
        part = self.opened.part(shard, start, size) if self.exceed_cache else None
        if part is not None:
            if sha256(part).digest() != self.digest_N[i].tobytes():
                raise DataError(f"{self.files[shard].name}: it has changed while it was read. Start again.")
            return part
        data = self.opened.read(shard, start, size)
        if len(data) < size:
            raise OSError(f"{self.files[shard].name} ends before its last byte")
        return data

    def expect(self, rows: Sequence[int] | NDArray[np.int64]) -> None:
        """Fetch the shards of images that will be read, in their order, before they are asked for."""
        if self.read_ahead is None:
            return
        shards = self.shard_N[np.asarray(rows, np.int64)]
        shard_S, first_S, images_S = np.unique(shards, return_index=True, return_counts=True)
        self.opened.expect(dict(zip(shard_S.tolist(), images_S.tolist(), strict=True)))
        self.read_ahead([self.files[shard] for shard in shard_S[np.argsort(first_S)].tolist()])

    def sample(self, rows: Sequence[int] | NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """At most so many of the rows, evenly spaced; of shards that exceed the cache, rows of a few of them."""
        chosen = np.asarray(rows, np.int64)
        if self.exceed_cache:
            present = np.unique(self.shard_N[chosen])
            few = present[np.linspace(0, len(present) - 1, min(FEW, len(present)), dtype=np.int64)]
            chosen = chosen[np.isin(self.shard_N[chosen], few)]
        return np.unique(chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen)), dtype=np.int64)])

    def select(self, indices: NDArray[np.int64]) -> "Shards":
        """Places of the images at `indices`, in that order."""
        chosen = replace(
            self,
            shard_N=self.shard_N[indices],
            start_N=self.start_N[indices],
            size_N=self.size_N[indices],
            digest_N=self.digest_N[indices],
        )
        object.__setattr__(chosen, "opened", self.opened)  # the same open files
        return chosen
