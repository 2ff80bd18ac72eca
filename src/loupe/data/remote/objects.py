"""Access to remote files: listing them, and reading them whole or in part, so that only their own bytes are taken.

A read goes on where it broke off, and ends once size, version and checksum (where the store has one) are right.
"""

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from loupe.data.remote import checksums
from loupe.data.remote.address import Address
from loupe.data.remote.cloud_store import CloudStore
from loupe.data.remote.failures import AttemptError, MissingError, RemoteError
from loupe.data.remote.hub_store import HubStore
from loupe.data.remote.retries import POLICY, RetryPolicy, with_retries
from loupe.data.remote.store import RemoteObject, Store
from loupe.data.remote.web_store import WebStore
from loupe.errors import DiskError, counted, disk_error
from loupe.offline import offline_variable

MOST_DAMAGED = 3  # whole reads with a wrong checksum

Progress = Callable[[int], None]


def listed(address: Address, policy: RetryPolicy = POLICY) -> tuple[RemoteObject, ...]:
    """Files at an address, sorted by their addresses: one file, those of a folder and its folders, or of a pattern.

    Raises:
        RemoteError: there are none, or they cannot be listed.
        ConfigError: a package is missing.
    """
    _refuse_offline(address.shown)
    store = _store(address.scheme, policy)
    expanded = address.expanded()
    if len(expanded) > 1 and not isinstance(store, WebStore):
        return tuple(_of_range(address, expanded, store))
    found = sorted(store.listed(address), key=lambda remote: remote.url)
    if not found:
        what = "no file matches" if address.is_pattern else "there is no file"
        raise MissingError(address.url, what, "Check the address.")
    return tuple(found)


def _of_range(address: Address, expanded: list[Address], store: Store) -> list[RemoteObject]:
    """Files of a range of numbers, from one listing of their folder."""
    pattern = Address.of(re.sub(r"\{\d+\.\.\d+\}", "*", address.url))
    present = {Address.of(remote.url).path: remote for remote in store.listed(pattern)}
    missing = [each for each in expanded if each.path not in present]
    if missing:
        count = counted(len(missing), "file")
        raise MissingError(missing[0].url, f"not found; {count} of {len(expanded):,} missing", "Check the range.")
    return [present[each.path] for each in expanded]


def commit_of(address: Address, policy: RetryPolicy = POLICY) -> str:
    """Commit that the revision of a data set on a hub stands for now; that of `main` where none is given.

    Raises:
        RemoteError: the data set or the revision does not exist or may not be read, or the hub cannot be reached.
    """
    _refuse_offline(address.shown)
    return HubStore(policy).commit(address)


def read(remote: RemoteObject, policy: RetryPolicy = POLICY) -> bytes:
    """Content of a remote file.

    Raises:
        RemoteError: it cannot be read.
        ChangedError: it is not the file that was listed.
    """
    file = BytesIO()
    _receive(remote, 0, remote.size, file, policy, None)
    return file.getvalue()


def read_range(remote: RemoteObject, start: int, stop: int, policy: RetryPolicy = POLICY) -> bytes:
    """Bytes from `start` up to `stop` of a remote file. Size and version are checked, but no checksum.

    Raises:
        ValueError: the range is not within the file.
        RemoteError, ChangedError: as for `read`.
    """
    if not 0 <= start <= stop <= remote.size:
        raise ValueError(f"no range of the {remote.size} bytes of {remote.shown}: {start} to {stop}")
    file = BytesIO()
    _receive(remote, start, stop, file, policy, None)
    return file.getvalue()


def download(
    remote: RemoteObject, target: Path, policy: RetryPolicy = POLICY, progress: Progress | None = None
) -> None:
    """Write a remote file to `target`, which exists only once it is complete.

    Args:
        remote: file as it was listed.
        target: path of the file to write.
        policy: limits of the attempts.
        progress: function that is called with the number of bytes that are there; what it raises ends the download.

    Raises:
        RemoteError, ChangedError: as for `read`.
        DiskError: the file cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b") as file:
            receive(remote, file, policy, progress)
        part.replace(target)
    except OSError as error:
        named = disk_error(error, target, "repeat the command")
        raise named or DiskError(f"{target}: cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def receive(
    remote: RemoteObject, file: BinaryIO, policy: RetryPolicy = POLICY, progress: Progress | None = None
) -> None:
    """Write a remote file into an open file that can be read and positioned.

    Raises:
        RemoteError, ChangedError: as for `read`.
        OSError: the file cannot be written.
    """
    _receive(remote, 0, remote.size, file, policy, progress)


def _receive(
    remote: RemoteObject, start: int, stop: int, file: BinaryIO, policy: RetryPolicy, progress: Progress | None
) -> None:
    _refuse_offline(remote.shown)
    reading = _Reading(remote, start, stop, file, policy, progress)
    with_retries(remote.url, reading.attempt, policy, progress=lambda: reading.done, byte_count=stop - start)


class _Reading:
    """Reading of a range of a remote file into a file, over several attempts."""

    def __init__(
        self,
        remote: RemoteObject,
        start: int,
        stop: int,
        file: BinaryIO,
        policy: RetryPolicy,
        progress: Progress | None,
    ) -> None:
        self.done = 0
        self._remote, self._start, self._stop, self._file = remote, start, stop, file
        self._store = _store(Address.of(remote.url).scheme, policy)
        self._policy, self._progress = policy, progress
        self._deadline = policy.clock() + policy.budget_seconds(stop - start)
        self._checksum = remote.checksum
        self._damaged = 0

    def attempt(self) -> None:
        """Read what is missing, and verify the file."""
        wanted = self._stop - self._start
        if not self._remote.resumable:
            self._restart()
        if self.done < wanted:
            self._read(wanted)
        confirmed = self._store.confirmed(self._remote)
        if self._start == 0 and self._stop == self._remote.size:
            self._verify(confirmed)

    def _read(self, wanted: int) -> None:
        answer = self._store.open(self._remote, self._start + self.done, self._stop)
        self._checksum = self._checksum or answer.checksum
        for chunk in answer.chunks:
            taken = chunk[: wanted - self.done]
            self._file.write(taken)
            self.done += len(taken)
            if self._progress:
                self._progress(self.done)
            if self.done == wanted:
                break
            if self._policy.clock() > self._deadline:
                raise RemoteError(self._remote.url, f"too slow: {self.done:,} of {wanted:,} bytes", "Try again later.")
        if self.done < wanted:
            raise AttemptError(f"the connection ended at {self.done:,} of {wanted:,} bytes")

    def _verify(self, confirmed: str | None) -> None:
        checksum = self._checksum or confirmed
        if checksum is None:
            return
        found = checksums.of_file(self._file, checksum.partition(":")[0], self._remote.size)
        if found != checksum:
            self._restart()
            self._damaged += 1
            if self._damaged < MOST_DAMAGED:
                raise AttemptError("it came with other bytes than its checksum says")
            raise RemoteError(
                self._remote.url,
                f"it came with other bytes than its checksum says ({checksum.partition(':')[0]}), {MOST_DAMAGED} times",
                "Nothing of it is kept. The file in the store is damaged, or something on the way changes it.",
            )

    def _restart(self) -> None:
        self._file.seek(0)  # and not truncated: as many bytes are written again
        self.done = 0


@lru_cache(maxsize=32)
def _store(scheme: str, policy: RetryPolicy) -> Store:
    if scheme == "hf":
        return HubStore(policy)
    return WebStore(policy) if scheme in {"http", "https"} else CloudStore(policy)


def _refuse_offline(shown: str) -> None:
    if named := offline_variable():
        raise RemoteError(shown, f"not read, because {named} forbids it", "Unset it, or give images on this machine.")
