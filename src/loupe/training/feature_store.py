"""Store of the features of single images: one append-only file for each network and view.

    <cache>/features/<key>/<view>.bin           a record for each image: hash of its content, features, checksum
    <cache>/features/.<key>-<view>.lock         held by the process that computes and appends

An incomplete record at the end, as after a kill, is cut off by the next process that appends. A record with another
checksum counts as missing, so that its image is computed again. Of two processes that need the same images, one waits
for the other and computes what is still missing.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from loupe.data.checksums import checksum
from loupe.files import sync_folder
from loupe.log import logger

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

DIGEST_BYTES = 32  # of SHA-256
WAIT_SECONDS = 1.0  # between two calls of `on_wait`


@dataclass(frozen=True)
class FeatureStore:
    """Features of images under one key, in one view.

    Attributes:
        folder: folder of the stores of all keys.
        key: hash of all that the features are a function of, but for the image and the view.
        columns: number of features of an image.
    """

    folder: Path
    key: str
    view: str
    columns: int

    @property
    def path(self) -> Path:
        return self.folder / self.key / f"{self.view}.bin"

    @cached_property
    def _record(self) -> np.dtype[Any]:
        return np.dtype([("content", f"V{DIGEST_BYTES}"), ("features", "<f4", (self.columns,)), ("checksum", "<u4")])

    def complete(
        self,
        content: Sequence[str],
        compute: Callable[[Ints], Iterable[Floats]],
        on_wait: Callable[[], None] = lambda: None,
    ) -> Floats:
        """Features of images, float32 [N, C]: those of the store, and the missing ones computed and appended.

        Where the store cannot be written, the features are computed all the same, and a message is logged.

        Args:
            content: SHA-256 of the bytes of each image, in hexadecimal digits.
            compute: function from ascending positions in `content`, of different images, to their features in batches.
            on_wait: called every second while another process appends to the same file.
        """
        features_NC, missing_M = self.read(content)
        if not len(missing_M):
            return features_NC
        with self._appending(on_wait) as file:
            if file is not None:
                features_NC, missing_M = self.read(content)  # another process may have computed them meanwhile
            first = {content[row]: row for row in reversed(missing_M.tolist())}
            rows_M, done = np.array(sorted(first.values()), np.int64), 0
            for features_BC in compute(rows_M) if len(rows_M) else ():
                rows_B = rows_M[done : done + len(features_BC)]
                features_NC[rows_B] = features_BC
                file = self._append(file, [content[row] for row in rows_B], features_BC)
                done += len(rows_B)
            assert done == len(rows_M), "features of some images were not computed"
            features_NC[missing_M] = features_NC[[first[content[row]] for row in missing_M]]
        return features_NC

    def read(self, content: Sequence[str]) -> tuple[Floats, Ints]:
        """Features of images that the store has, [N, C], and the positions of those that it lacks, ascending."""
        features_NC = np.zeros((len(content), self.columns), np.float32)
        records = self._records()
        if records is None:
            return features_NC, np.arange(len(content))
        with suppress(OSError):  # a read-only cache works too
            os.utime(self.path)  # time of the last use
        digests = np.ascontiguousarray(records["content"]).tobytes()
        place = {
            digests[start : start + DIGEST_BYTES]: number
            for number, start in enumerate(range(0, len(digests), DIGEST_BYTES))
        }
        missing, damaged = [], 0
        for row, digest in enumerate(content):
            number = place.get(bytes.fromhex(digest))
            if number is None or not _is_intact(records[number]):
                missing.append(row)
                damaged += number is not None
            else:
                features_NC[row] = records[number]["features"]
        if damaged:
            logger.warning(f"{self.path}: {damaged:,} records are damaged. Their images are computed again.")
        return features_NC, np.array(missing, np.int64)

    def _records(self) -> npt.NDArray[Any] | None:
        """Complete records of the file, mapped; None if there are none."""
        try:
            count = self.path.stat().st_size // self._record.itemsize
            return np.memmap(self.path, self._record, "r", shape=(count,)) if count else None
        except (OSError, ValueError):  # removed, or cut since
            return None

    @contextmanager
    def _appending(self, on_wait: Callable[[], None]) -> Iterator[BinaryIO | None]:
        """Hold the lock and open the file to append to it; None, with a message, where that cannot be done."""
        with ExitStack() as held:
            file: BinaryIO | None = None
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Its empty file stays: removing it would take it from a process that waits for it.
                held.callback(_acquired(self.folder / f".{self.key}-{self.view}.lock", on_wait).release)
                self.path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed during the wait
                file = held.enter_context(self.path.open("ab", buffering=0))
                file.truncate(file.tell() // self._record.itemsize * self._record.itemsize)
            except OSError as error:
                self._tell_unwritable(error)
                file = None
            yield file
            if file is not None:
                os.fsync(file.fileno())
                sync_folder(self.path.parent)

    def _append(self, file: BinaryIO | None, content: Sequence[str], features_BC: Floats) -> BinaryIO | None:
        """Append records; return the file, or None, with a message, once it cannot be written any more."""
        if file is None:
            return None
        records = np.empty(len(content), self._record)
        records["content"] = np.frombuffer(bytes.fromhex("".join(content)), f"V{DIGEST_BYTES}")
        records["features"] = features_BC
        records["checksum"] = [_checksum(record) for record in records]
        try:
            _write(file, records.tobytes())
        except OSError as error:
            self._tell_unwritable(error)
            return None
        return file

    def _tell_unwritable(self, error: OSError) -> None:
        logger.warning(
            f"features cannot be kept in {self.folder} ({error.strerror or error}): they are computed again next time. "
            "Set LOUPE_CACHE to a folder that can be written to, with free space."
        )


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of the data to an unbuffered file, which may take a part of it at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _checksum(record: Any) -> int:
    """Checksum of the hash and the features of a record."""
    return checksum(np.frombuffer(record.tobytes()[:-4], np.uint8))


def _is_intact(record: Any) -> bool:
    return bool(record["checksum"] == _checksum(record))


def _acquired(path: Path, on_wait: Callable[[], None]) -> FileLock:
    lock = FileLock(path)
    while not lock.is_locked:
        with suppress(Timeout):
            lock.acquire(timeout=WAIT_SECONDS)
            break
        on_wait()
    return lock
