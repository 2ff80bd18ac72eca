"""Cache of whole shards as local files, within a budget of bytes: read ahead by threads, evicted least recently used.

A shard that is there is complete: it was fetched to another name, and its checksum is verified when a process first
opens it. Several processes share one folder, and each shard is fetched once. Shards in use are never evicted.
"""

import errno
import os
import re
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import TracebackType
from urllib.parse import urlsplit

from loupe.cache import cache_folder
from loupe.data.remote import checksums
from loupe.data.remote.objects import receive
from loupe.data.remote.redaction import identity
from loupe.data.remote.retries import POLICY, RetryPolicy
from loupe.data.remote.shard_folder import Claim, ShardFolder
from loupe.data.remote.store import RemoteObject
from loupe.errors import DISK_FULL, ConfigError, DiskError, disk_error
from loupe.log import logger, size_text

VARIABLE = "LOUPE_SHARD_CACHE"
THREADS = 4
MOST_AHEAD = 16  # shards that are there before their use
WAIT_SECONDS = 60.0  # for shards in use to be released
POLL_SECONDS = 0.02
CLOSE_SECONDS = 2.0
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BEGAN = time.time()


def budget_bytes(text: str) -> int:
    """Number of bytes of a budget as `50GB`, `512MiB` or `2e9`.

    Raises:
        ConfigError: it is no positive size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    unit = _UNITS.get(found[2].lower()) if found else None
    count = int(float(found[1]) * unit) if found and unit else 0
    if count <= 0:
        raise ConfigError(f"{VARIABLE}={text}: not a size. Give a positive one with its unit, for example 50GB.")
    return count


def default_budget_bytes(folder: Path) -> int:
    """Budget of `LOUPE_SHARD_CACHE`; else half of the free disk space, counting the shards that are there as free.

    Raises:
        ConfigError: the variable is no size.
    """
    if configured := os.environ.get(VARIABLE):
        return budget_bytes(configured)
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    present = sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.is_dir() else 0
    return (shutil.disk_usage(existing).free + present) // 2


class ShardCache:
    """Shards of remote data sets as local files.

    Use as a context: its end stops the threads and removes the pins.

    Args:
        folder: folder of the cache; by default `shards` in Loupe's cache.
        budget: size of all shards together in bytes; by default that of `default_budget_bytes`.
        policy: limits of the attempts to fetch a shard.
        threads: number of shards that are read ahead at once.
        wait_seconds: time to wait for other shards to be released where the budget is taken by shards in use.

    Raises:
        ConfigError: `LOUPE_SHARD_CACHE` is no size.
        DiskError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | None = None,
        budget: int | None = None,
        *,
        policy: RetryPolicy = POLICY,
        threads: int = THREADS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        folder = folder or cache_folder() / "shards"
        self.budget_bytes = default_budget_bytes(folder) if budget is None else budget
        try:
            self._folder = ShardFolder(folder, self.budget_bytes)
        except OSError as error:
            raise _disk_error(error, folder) from None
        self._policy, self._wait_seconds, self._thread_count = policy, wait_seconds, threads
        self._changed = threading.Condition()
        self._queue: deque[RemoteObject] = deque()
        self._waiting: set[str] = set()  # read ahead and not used yet
        self._uses: Counter[str] = Counter()
        self._failed: dict[str, Exception] = {}
        self._known: dict[str, str] = {}  # checksums of the shards that this process has fetched or verified
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> "ShardCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead, and give up all pins."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)  # one that waits for a silent server ends later, and keeps nothing
        with suppress(OSError):  # of a folder that somebody else has changed: the lock ends with the process
            self._folder.close()

    def read_ahead(self, remotes: Iterable[RemoteObject]) -> None:
        """Fetch shards in the background, in the order of their use, as far as the budget allows.

        Replaces an earlier order. A shard that cannot be fetched raises its error when it is used.
        """
        upcoming = list(dict.fromkeys(remotes))
        keys = {shard_key(remote) for remote in upcoming}
        with self._changed:
            for key in self._waiting - keys:
                self._folder.unpin(key, ahead=True)
            self._waiting &= keys
            self._queue = deque(remote for remote in upcoming if shard_key(remote) not in self._waiting)
            for key in keys:
                self._failed.pop(key, None)
            self._changed.notify_all()
            while len(self._threads) < min(self._thread_count, len(self._queue)) and not self._closed:
                thread = threading.Thread(target=self._work, name="loupe-shards", daemon=True)
                self._threads.append(thread)
                thread.start()

    @contextmanager
    def local(self, remote: RemoteObject) -> Iterator[Path]:
        """Path of a shard on this machine, which stays there until the end of the block.

        Raises:
            ConfigError: the budget is below the size of the shard, or of the shards that are in use at once.
            RemoteError: it cannot be fetched.
            DiskError: the disk is full.
        """
        key = shard_key(remote)
        path = self._present(remote, key)
        try:
            yield path
        finally:
            with self._changed:
                self._release(key)
                self._changed.notify_all()

    def _present(self, remote: RemoteObject, key: str) -> Path:
        """Path of a verified shard, which is pinned."""
        self._check_size(remote)
        began = time.monotonic()
        with self._changed:
            self._queue = deque(each for each in self._queue if shard_key(each) != key)
            self._uses[key] += 1
        try:
            while True:
                with self._changed:
                    if failure := self._failed.pop(key, None):
                        raise failure
                claim = self._folder.claim(key, remote.size, ahead=False)
                if claim is Claim.OURS:
                    self._fetch(remote, key, ahead=False)
                    claim = Claim.PRESENT
                if claim is Claim.PRESENT:
                    self._unwait(key)
                    if self._verified(remote, key):
                        return self._folder.path(key)
                    continue
                if claim is Claim.NO_SPACE and time.monotonic() - began > self._wait_seconds:
                    raise self._no_space(remote)
                with self._changed:
                    self._changed.wait(POLL_SECONDS)
        except BaseException as error:
            with self._changed:
                self._release(key)
            if isinstance(error, OSError):
                raise _disk_error(error, self._folder.folder) from None
            raise

    def _release(self, key: str) -> None:
        self._uses[key] -= 1
        if self._uses[key] <= 0:
            del self._uses[key]
            self._folder.unpin(key, ahead=False)

    def _unwait(self, key: str) -> None:
        with self._changed:
            if key in self._waiting:
                self._waiting.discard(key)
                self._folder.unpin(key, ahead=True)
                self._changed.notify_all()

    def _check_size(self, remote: RemoteObject) -> None:
        if remote.size > self.budget_bytes:
            raise ConfigError(
                f"{remote.shown} has {size_text(remote.size)}, and the cache of shards may hold "
                f"{size_text(self.budget_bytes)}. Give it more: {VARIABLE}=50GB, in bytes with a unit."
            )

    def _no_space(self, remote: RemoteObject) -> ConfigError:
        return ConfigError(
            f"{remote.shown} ({size_text(remote.size)}) does not fit beside the shards that are in use: the cache may "
            f"hold {size_text(self.budget_bytes)}. Give it more with {VARIABLE}, or read fewer shards at once."
        )

    def _verified(self, remote: RemoteObject, key: str) -> bool:
        """True for a shard whose bytes are those that were fetched; another one is removed.

        Without a version, a shard that was fetched before this process began may be outdated, and is removed too.
        """
        path, digest = self._folder.path(key), self._folder.digest(key)
        if digest is not None and self._known.get(key) == digest.checksum:
            return True
        try:
            inode = path.stat().st_ino
            with path.open("rb") as file:
                found = checksums.of_file(file, "sha256", remote.size)
        except FileNotFoundError:
            return False
        if digest is not None and digest.checksum == found and (remote.version or digest.written >= _BEGAN):
            self._remember(remote, key, found)
            return True
        if digest is None or digest.checksum != found:
            logger.warning(f"{path}: the cached shard is damaged. It is fetched again.")
        self._folder.remove(key, inode)
        return False

    def _fetch(self, remote: RemoteObject, key: str, *, ahead: bool) -> None:
        """Fetch a shard whose space is reserved."""
        try:
            while True:
                try:
                    with self._folder.part(key).open("r+b") as file:
                        receive(remote, file, self._policy, self._stop_if_closed if ahead else None)
                        if remote.checksum and remote.checksum.startswith("sha256:"):
                            found = remote.checksum
                        else:
                            found = checksums.of_file(file, "sha256", remote.size)
                    break
                except OSError as error:
                    if error.errno not in DISK_FULL or not self._folder.free(remote.size):
                        raise _disk_error(error, self._folder.folder) from None
            self._remember(remote, key, found)
            self._folder.publish(key, found, ahead=ahead)
        except BaseException:
            self._folder.abandon(key)
            raise
        finally:
            with self._changed:
                self._changed.notify_all()

    def _remember(self, remote: RemoteObject, key: str, checksum: str) -> None:
        if self._known.setdefault(key, checksum) != checksum:
            raise remote.changed("it came with other bytes than the last time, although its version is the same")

    def _stop_if_closed(self, done: int) -> None:
        if self._closed:
            raise _ClosedError

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._queue or len(self._waiting) >= MOST_AHEAD):
                    self._changed.wait()
                if self._closed:
                    return
                remote = self._queue.popleft()
                key = shard_key(remote)
                self._waiting.add(key)
            try:
                kept = self._ahead(remote, key)
            except _ClosedError:
                return
            except Exception as error:
                with self._changed:
                    self._failed[key] = error
                kept = False
            with self._changed:
                if not kept or key not in self._waiting:
                    self._waiting.discard(key)
                    self._folder.unpin(key, ahead=True)
                self._changed.notify_all()

    def _ahead(self, remote: RemoteObject, key: str) -> bool:
        """Fetch a shard ahead of its use; True once it is there and waits."""
        while not self._closed and key in self._waiting and not self._uses[key]:
            claim = self._folder.claim(key, remote.size, ahead=True)
            if claim is Claim.OURS:
                self._fetch(remote, key, ahead=True)
                return True
            if claim is Claim.PRESENT:
                return True
            with self._changed:
                self._changed.wait(POLL_SECONDS if claim is Claim.FETCHING else 5 * POLL_SECONDS)
        return False


class _ClosedError(Exception):
    """End of the cache during a download."""


def shard_key(remote: RemoteObject) -> str:
    """Name of the file of a shard: a hash of its address, its size and its version."""
    suffix = PurePosixPath(urlsplit(remote.shown).path).suffix
    content = f"{identity(remote.url)}\n{remote.size}\n{remote.version}"
    kept = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", suffix) else ""
    return f"{sha256(content.encode()).hexdigest()[:32]}{kept}"


def _disk_error(error: OSError, folder: Path) -> DiskError:
    if error.errno in (errno.ENOSPC, *DISK_FULL):
        return DiskError(
            f"{folder}: the disk is full, and no shard can be evicted. Free space, lower {VARIABLE}, or set "
            "LOUPE_CACHE to a folder on another disk."
        )
    named = disk_error(error, folder, "repeat the command")
    return named or DiskError(f"{folder}: cannot be written: {error.strerror or error}.")
