"""Folder of cached shards that several processes use at once: who uses which, who fetches which, and what is evicted.

Every change of the folder is made under one lock, for as long as a few calls to the file system take. A process holds a
lock for as long as it lives. Its pins and unfinished files count while that lock is held, and are removed by the next
process that looks at the folder after its end.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.002
LOCK_SECONDS = 60.0


class Claim(Enum):
    """State of a shard that a process asks for."""

    PRESENT = "in the folder, and pinned"
    FETCHING = "being fetched by another thread or process"
    NO_SPACE = "absent, and the budget is taken by shards in use"
    OURS = "absent; its space is reserved for the caller, who fetches it"


@dataclass(frozen=True)
class Digest:
    """Checksum of a cached shard, and the time at which it was written in seconds since 1970."""

    checksum: str
    written: float


class ShardFolder:
    """State of a folder of shards on the disk.

    Args:
        folder: folder of the shards.
        budget_bytes: size of all shards together, with those that are being fetched.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        state = folder / ".state"
        self._parts, self._pins, self._digests = (state / name for name in ("parts", "pins", "digests"))
        self._index = state / "index.lock"
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._alive = FileLock(self._pins / f"{self._name}.lock", thread_local=False)
        self._mine = self._pins / self._name
        with self._locked():  # no other process takes the lock for that of a dead one
            self._alive.acquire(timeout=LOCK_SECONDS)
            self._remove_dead()

    def close(self) -> None:
        """Remove all that belongs to this process."""
        with self._locked():
            self._remove_owner(self._name)
            self._alive.release()
            with suppress(OSError):
                (self._pins / f"{self._name}.lock").unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """Path of a shard."""
        return self.folder / key

    def claim(self, key: str, size: int, *, ahead: bool) -> Claim:
        """Pin a shard if it is there; else reserve its space unless another fetches it.

        Args:
            key: name of its file.
            size: size in bytes.
            ahead: it is fetched ahead of its use: shards that wait for their use are not evicted for it.
        """
        with self._locked():
            if self._pin_present(key, ahead):
                return Claim.PRESENT
            self._remove_dead()
            if any(part.name.startswith(f"{key}.") for part in self._parts.iterdir()):
                return Claim.FETCHING
            if not self._make_space(size, waiting_too=not ahead):
                return Claim.NO_SPACE
            with self.part(key).open("wb") as file:
                file.truncate(size)  # reserves the space within the budget; not on the disk
            return Claim.OURS

    def part(self, key: str) -> Path:
        """Path at which this process writes a shard that it fetches."""
        return self._parts / f"{key}.{self._name}.part"

    def publish(self, key: str, checksum: str, *, ahead: bool) -> None:
        """Make a shard that was fetched visible, pinned for this process."""
        with self._locked():
            record = {"checksum": checksum, "written": time.time()}
            (self._digests / key).write_text(json.dumps(record), encoding="ascii")
            self.part(key).replace(self.path(key))
            self._pin_present(key, ahead)

    def abandon(self, key: str) -> None:
        """Remove an unfinished shard of this process."""
        with self._locked():
            self.part(key).unlink(missing_ok=True)

    def pin_present(self, key: str, *, ahead: bool) -> bool:
        """Pin a shard if it is there, and say so."""
        with self._locked():
            return self._pin_present(key, ahead)

    def unpin(self, key: str, *, ahead: bool) -> None:
        """Remove a pin of this process."""
        with suppress(OSError):
            self._pin(self._mine, key, ahead).unlink(missing_ok=True)

    def digest(self, key: str) -> Digest | None:
        """Checksum that was written with a shard; None if there is none that can be read."""
        try:
            record = json.loads((self._digests / key).read_text(encoding="ascii"))
            return Digest(str(record["checksum"]), float(record["written"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, key: str, inode: int) -> None:
        """Remove a shard that is damaged or outdated, unless another process has replaced it already."""
        with self._locked():
            path = self.path(key)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == inode:
                    self._evict(path)

    def free(self, size: int) -> bool:
        """Evict shards of at least `size` bytes that nobody uses, for a disk that is full; False if there are none."""
        with self._locked():
            freed = 0
            for path, shard_size in self._evictable(waiting_too=True):
                if freed >= size:
                    break
                self._evict(path)
                freed += shard_size
            return freed > 0

    def used_bytes(self) -> int:
        """Size of all shards and of the space that is reserved."""
        with self._locked():
            return self._used()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._index.parent.mkdir(parents=True, exist_ok=True)  # somebody may have cleared the cache
        lock = FileLock(self._index, thread_local=False)
        with lock.acquire(timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS):
            for path in (self._parts, self._digests, self._mine):
                path.mkdir(parents=True, exist_ok=True)
            yield

    def _pin_present(self, key: str, ahead: bool) -> bool:
        path = self.path(key)
        if not path.is_file():
            return False
        self._pin(self._mine, key, ahead).touch()
        with suppress(OSError):
            os.utime(path)  # time of the last use
        return True

    def _pin(self, owner: Path, key: str, ahead: bool) -> Path:
        return owner / f"{key}{'.ahead' if ahead else '.use'}"

    def _used(self) -> int:
        return sum(size for _, size, _ in _files(self.folder)) + sum(size for _, size, _ in _files(self._parts))

    def _make_space(self, size: int, *, waiting_too: bool) -> bool:
        """Evict the least recently used shards until `size` more bytes fit; nothing where they would not."""
        needed = self._used() + size - self.budget_bytes
        chosen = []
        for path, shard_size in self._evictable(waiting_too=waiting_too):
            if needed <= 0:
                break
            chosen.append(path)
            needed -= shard_size
        if needed > 0:
            return False
        for path in chosen:
            self._evict(path)
        return True

    def _evictable(self, *, waiting_too: bool) -> list[tuple[Path, int]]:
        """Shards that no process uses, those first that none waits for, then the least recently used."""
        pins = {pin.name for owner in self._pins.iterdir() if owner.is_dir() for pin in owner.iterdir()}
        found = []
        for path, size, used in _files(self.folder):
            waiting = f"{path.name}.ahead" in pins
            if f"{path.name}.use" not in pins and (waiting_too or not waiting):
                found.append((waiting, -used if waiting else used, path, size))  # of the waiting, the last one first
        return [(path, size) for _, _, path, size in sorted(found)]

    def _evict(self, path: Path) -> None:
        with suppress(OSError):  # Windows: a file that is open
            path.unlink(missing_ok=True)
            (self._digests / path.name).unlink(missing_ok=True)

    def _remove_dead(self) -> None:
        """Remove the pins and the unfinished shards of processes that have ended."""
        living = {self._name}
        for lock in self._pins.glob("*.lock"):
            if lock.stem in living:
                continue
            held = FileLock(lock, thread_local=False)
            try:
                held.acquire(timeout=0)
            except (Timeout, OSError):
                living.add(lock.stem)
                continue
            held.release()
            with suppress(OSError):
                lock.unlink(missing_ok=True)
        owners = {path.name for path in self._pins.iterdir() if path.is_dir()}
        owners |= {part.name.split(".")[-2] for part in self._parts.glob("*.part")}
        for owner in owners - living:
            self._remove_owner(owner)

    def _remove_owner(self, owner: str) -> None:
        with suppress(OSError):
            shutil.rmtree(self._pins / owner)
        for part in self._parts.glob(f"*.{owner}.part"):
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Path, size in bytes and time of the last use of each file of a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file():
                    status = entry.stat()
                    yield Path(entry.path), status.st_size, status.st_mtime_ns
