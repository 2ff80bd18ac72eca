"""Download of a published file, with progress, resumption and a checksum."""

import hashlib
import os
import queue
import re
import threading
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
from loupe.offline import offline_variable

CHUNK_BYTES = 1 << 18
WAIT_SECONDS = 5.0  # for the server's answer, and between two parts of a download
MAX_STALLS = 3  # consecutive attempts without new bytes before giving up


class _NoAnswerError(Exception):
    """Server that cannot be reached; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """File on the web: URL, published checksum, and the remedy if it cannot be downloaded.

    The checksum is the name of its hash and hexadecimal digits: `md5:…` against accidental damage, where no stronger
    one is published; `sha512:…` for programs.
    """

    url: str
    checksum: str
    remedy: str

    def is_checksum_of(self, path: Path) -> bool:
        """True if the file has the published content."""
        return checksum_of(path, self.checksum.partition(":")[0]) == self.checksum


def download(
    source: Source,
    target: Path,
    *,
    pause_seconds: float = 2.0,
    timeout_seconds: float = WAIT_SECONDS,
) -> Path:
    """Download a file to `target` unless it exists.

    A server that does not answer is asked once. Bytes are written to `target` + `.part`, from which a later attempt
    resumes by an HTTP range request. The file is renamed after its checksum was verified, so `target` is always
    complete.

    Raises:
        DataError: there is no network or it is forbidden, the server returned an error, or the checksum is wrong.
        DiskError: the file cannot be written.
    """
    if target.is_file():
        with suppress(OSError):  # the cache may be read-only
            os.utime(target)  # time of the last use
        return target
    if named := offline_variable():
        raise DataError(f"{source.url}: not downloaded, because {named} forbids it. {source.remedy}")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{part}.lock"):
            if not target.is_file():
                _fetch_verified(source, part, pause_seconds, timeout_seconds)
                part.replace(target)
    except OSError as error:
        raise DiskError(
            f"{target}: cannot be written: {error.strerror or error}. Free disk space, or set LOUPE_CACHE to another "
            "folder."
        ) from None
    return target


def checksum_of(path: Path, algorithm: str) -> str:
    """Checksum of a file as in `Source`, by an algorithm of hashlib."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, lambda: _hash(algorithm)).hexdigest()}"


def _hash(algorithm: str) -> "hashlib._Hash":
    return hashlib.new(algorithm, usedforsecurity=algorithm != "md5")  # else a system in FIPS mode refuses MD5


def _fetch_verified(source: Source, part: Path, pause: float, timeout: float) -> None:
    """Download and verify; a resumed file with a wrong checksum is downloaded again once."""
    resumed = part.is_file() and part.stat().st_size > 0
    _fetch(source, part, pause, timeout)
    algorithm = source.checksum.partition(":")[0]
    found = checksum_of(part, algorithm)
    if found != source.checksum and resumed:
        logger.warning(f"{source.url}: the earlier partial download is invalid. Downloading again.")
        part.unlink()
        _fetch(source, part, pause, timeout)
        found = checksum_of(part, algorithm)
    if found != source.checksum:
        part.unlink()
        raise DataError(
            f"{source.url}: wrong checksum: expected {source.checksum}, got {found}. The download was discarded. "
            f"{source.remedy}"
        )


def _fetch(source: Source, part: Path, pause: float, timeout: float) -> None:
    """Repeat requests until the file is complete; give up after `MAX_STALLS` attempts without new bytes.

    A server that does not even answer the first request is not asked again.
    """
    name = source.url.rpartition("/")[2]
    logger.info(f"Downloading {source.url}.")
    stalls, answered = 0, False
    with progress_bar() as progress:
        task = progress.add_task(name, total=None, note="")
        while True:
            before = _size(part)
            try:
                reason = _attempt(source, part, _Bar(progress, task), timeout)
            except _NoAnswerError as error:
                if not answered:
                    raise DataError(f"{source.url}: cannot be downloaded: {error}. {source.remedy}") from None
                reason = str(error)
            if reason is None:
                return
            answered = True
            stalls = stalls + 1 if _size(part) <= before else 0
            if stalls >= MAX_STALLS:
                raise DataError(f"{source.url}: cannot be downloaded: {reason}. {source.remedy}")
            progress.update(task, note=f"interrupted ({reason}), retrying")
            time.sleep(pause * stalls)


def _attempt(source: Source, part: Path, show: Callable[[int, int | None], None], timeout: float) -> str | None:
    """One request from the end of the partial file. None when complete; else the reason, if a retry may help.

    Raises:
        _NoAnswerError: the server cannot be reached, or does not answer in time.
        DataError: the server refused.
    """
    start = _size(part)
    headers = {"User-Agent": "loupe", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with _answer(Request(source.url, headers=headers), timeout) as response:
            return _receive(response, part, start, show)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the partial file is at least as long as the file; the checksum decides
            return None
        if error.code in (408, 429) or error.code >= 500:
            return f"the server returned {error.code} {error.reason}"
        raise DataError(f"{source.url}: the server returned {error.code} {error.reason}. {source.remedy}") from None
    except (HTTPException, ConnectionError, TimeoutError) as error:
        return f"{error}" or type(error).__name__


def _answer(request: Request, seconds: float) -> HTTPResponse:
    """Answer to a request, for which a thread asks: a look-up of the server's name has no limit of its own."""
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(request, timeout=seconds))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty:
        found = TimeoutError()
    if isinstance(found, TimeoutError):
        raise _NoAnswerError(f"no answer within {seconds:g} s")
    if isinstance(found, URLError) and not isinstance(found, HTTPError):
        raise _NoAnswerError(getattr(found.reason, "strerror", None) or f"{found.reason}")
    if isinstance(found, Exception):
        raise found
    return found


def _receive(response: HTTPResponse, part: Path, start: int, show: Callable[[int, int | None], None]) -> str | None:
    """Write the received bytes. A server without range requests sends the whole file, which replaces the part."""
    begins = _first_byte(response) if response.status == 206 else 0
    if begins not in (0, start):
        return f"the server sent byte {begins} instead of byte {start}"
    length = response.headers.get("Content-Length")
    total = begins + int(length) if length is not None else None
    with part.open("ab" if begins else "wb") as file:
        done = begins
        while True:
            try:
                data = response.read1(CHUNK_BYTES)
            except (OSError, HTTPException) as error:  # network errors; disk errors are not caught here
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
