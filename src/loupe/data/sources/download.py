"""Fetching a published file: with progress, resumed where it was cut off, trusted only when its checksum is right."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.progress import Progress, TaskID

from loupe.errors import DataError, DiskError
from loupe.log import logger, progress_bar

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
MAX_STALLS = 3  # attempts in a row that bring nothing new before we give up


@dataclass(frozen=True)
class Source:
    """A file on the web: where it is, its published MD5, and what a person does when it cannot be had."""

    url: str
    md5: str
    remedy: str


def download(
    source: Source,
    target: Path,
    *,
    pause_seconds: float = 2.0,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Path:
    """The file at `target`, fetched if it is not there yet.

    Bytes go to `target` + `.part`, which a later attempt, in this process or another, goes on from by an HTTP range
    request. The file gets its name only after its checksum is right, so that `target` is always whole. LoupeError says
    what to do where it cannot be had: no network, an error from the server, a wrong checksum, no room on the disk.
    """
    if target.is_file():
        with suppress(OSError):  # a read-only cache is as good
            os.utime(target)  # when it was last used
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{part}.lock"):
            if not target.is_file():
                _fetch_verified(source, part, pause_seconds, timeout_seconds)
                part.replace(target)
    except OSError as error:
        raise DiskError(
            f"{target}: cannot be written: {error.strerror or error}. Make room, or set LOUPE_CACHE."
        ) from None
    return target


def md5_of(path: Path) -> str:
    """The MD5 of a file, as hex. It guards against accidents: the publisher gives no stronger one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _fetch_verified(source: Source, part: Path, pause: float, timeout: float) -> None:
    """Fetches and checks; starts anew once where a resumed file is wrong, as the bytes of old may be to blame."""
    resumed = part.is_file() and part.stat().st_size > 0
    _fetch(source, part, pause, timeout)
    found = md5_of(part)
    if found != source.md5 and resumed:
        logger.warning(f"{source.url}: the part fetched earlier does not fit; starting again.")
        part.unlink()
        _fetch(source, part, pause, timeout)
        found = md5_of(part)
    if found != source.md5:
        part.unlink()
        raise DataError(
            f"{source.url}: wrong checksum: expected {source.md5}, got {found}; what was fetched is thrown away. "
            f"{source.remedy}"
        )


def _fetch(source: Source, part: Path, pause: float, timeout: float) -> None:
    """Attempts until the whole file is there; gives up after `MAX_STALLS` attempts without a new byte."""
    name = source.url.rpartition("/")[2]
    logger.info(f"Downloading {source.url}.")
    stalls = 0
    with progress_bar() as progress:
        task = progress.add_task(name, total=None, note="")
        while True:
            before = _size(part)
            reason = _attempt(source, part, _Bar(progress, task), timeout)
            if reason is None:
                return
            stalls = stalls + 1 if _size(part) <= before else 0
            if stalls >= MAX_STALLS:
                raise DataError(f"{source.url}: cannot be fetched: {reason}. {source.remedy}")
            progress.update(task, note=f"cut off ({reason}), going on")
            time.sleep(pause * stalls)


def _attempt(source: Source, part: Path, show: Callable[[int, int | None], None], timeout: float) -> str | None:
    """One request, from where the part ends. None when all has come; else why not, if another attempt may help."""
    start = _size(part)
    headers = {"User-Agent": "loupe", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urlopen(Request(source.url, headers=headers), timeout=timeout) as response:
            return _receive(response, part, start, show)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the part is as long as the file, or longer: its checksum tells
            return None
        if error.code in (408, 429) or error.code >= 500:
            return f"the server answers {error.code} {error.reason}"
        raise DataError(f"{source.url}: the server answers {error.code} {error.reason}. {source.remedy}") from None
    except URLError as error:
        return f"{error.reason}"
    except (HTTPException, ConnectionError, TimeoutError) as error:
        return f"{error}" or type(error).__name__


def _receive(response: HTTPResponse, part: Path, start: int, show: Callable[[int, int | None], None]) -> str | None:
    """Writes what comes. A server that knows no ranges sends the file from its start, which replaces the part."""
    begins = _first_byte(response) if response.status == 206 else 0
    if begins not in (0, start):
        return f"the server sends byte {begins} where byte {start} was asked for"
    length = response.headers.get("Content-Length")
    total = begins + int(length) if length is not None else None
    with part.open("ab" if begins else "wb") as file:
        done = begins
        while True:
            try:
                data = response.read1(CHUNK_BYTES)
            except (OSError, HTTPException) as error:  # of the network; those of the disk are not caught here
                return f"{error}" or type(error).__name__
            if not data:
                break
            file.write(data)
            done += len(data)
            show(done, total)
    return None if total is None or done >= total else f"the connection ended at {done:,} of {total:,} bytes"


def _first_byte(response: HTTPResponse) -> int:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


@dataclass(frozen=True)
class _Bar:
    progress: Progress
    task: TaskID

    def __call__(self, done: int, total: int | None) -> None:
        megabytes = None if total is None else total / 1e6
        self.progress.update(self.task, completed=done / 1e6, total=megabytes, note="MB")
