"""Files of a Hugging Face hub: those on this machine, and downloads that wait at most 5 seconds for an answer.

The hub is asked by a child process (`hub_process.py`). A hub that does not answer is not asked again for ten minutes.
"""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from loupe.data.processes import command
from loupe.errors import DiskError
from loupe.log import command_line, progress_bar, size_text
from loupe.offline import offline_variable

WAIT_SECONDS = 5.0  # for the hub's answer, and between two parts of a download
START_SECONDS = 60.0  # for the child process, on a machine that is busy
MEMORY_SECONDS = 600.0  # a failure is repeated without asking
POLL_SECONDS = 0.1

States = queue.SimpleQueue[dict[str, Any]]


class DownloadError(Exception):
    """File that is not on this machine and cannot be downloaded; the message gives the reason as a clause."""


class MissingFileError(DownloadError):
    """File that its repository does not have."""


@dataclass(frozen=True)
class HubFile:
    """File of a repository of the hub."""

    repository: str
    name: str
    revision: str | None = None

    @property
    def url(self) -> str:
        return f"{endpoint()}/{self.repository}/resolve/{self.revision or 'main'}/{self.name}"

    @property
    def cache_remedy(self) -> str:
        """Command that downloads the file on a machine with a network, and the folder to copy from there."""
        from huggingface_hub import constants

        folder = f"models--{self.repository.replace('/', '--')}"
        command = command_line(["hf", "download", self.repository, self.name])
        return (
            f"On a machine with a network: {command}. Copy {folder} from its folder ~/.cache/huggingface/hub to "
            f"{constants.HF_HUB_CACHE} here."
        )

    def cached(self) -> Path | None:
        """Path of the file in the cache of huggingface_hub, without asking; None if it is not there.

        Raises:
            MissingFileError: the cache knows that the repository does not have it.
        """
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.repository, self.name, revision=self.revision)
        except (OSError, ValueError):  # not a name of a repository, or a folder that cannot be read
            return None
        if found is _CACHED_NO_EXIST:
            raise MissingFileError(f"{self.repository} has no {self.name}")
        return Path(found) if isinstance(found, str) else None

    def fetch(self) -> Path:
        """Path of the file on this machine, downloaded only if it is missing.

        Raises:
            MissingFileError: the repository does not have it.
            DownloadError: offline, or the hub does not answer or refuses.
            DiskError: the file cannot be written.
        """
        return self.cached() or self._ask(ask_only=False)

    def ask(self) -> None:
        """Ask the hub for the file, and download nothing.

        Raises:
            DownloadError: as for `fetch`.
        """
        self._ask(ask_only=True)

    def _ask(self, *, ask_only: bool) -> Path:
        from huggingface_hub import constants

        request = {"repository": self.repository, "file": self.name, "revision": self.revision}
        return _download(endpoint(), self.url, {**request, "cache": constants.HF_HUB_CACHE, "ask_only": ask_only})


def fetch_address(url: str, target: Path) -> Path:
    """Path of a file with an address of its own, downloaded to `target` if that is missing.

    Raises:
        DownloadError, DiskError: as for `HubFile.fetch`.
    """
    return target if target.is_file() else _download(url, url, {"url": url, "target": str(target)})


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def forget_failures() -> None:
    """Ask again for what has failed before."""
    _failures.clear()


# The time of a failure and its error, by the address: of a server that did not answer, or of a file that it refused.
_failures: dict[str, tuple[float, DownloadError]] = {}


@contextmanager
def asking(module: str, request: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[States]:
    """Child process that answers a request, by the function `serve` of a module; ended with the block.

    Args:
        request: values that JSON can hold.
        variables: changes of its environment.

    Yields:
        The states that it sends, and at its end an error of kind `unreachable`.

    Raises:
        OSError: the process cannot be started.
    """
    states: States = queue.SimpleQueue()
    child = subprocess.Popen(
        command(module, dict(request)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **variables},
        text=True,
        encoding="utf-8",
    )
    assert child.stdout is not None
    threading.Thread(target=_read, args=(child.stdout, states), name="loupe-hub", daemon=True).start()
    try:
        yield states
    finally:
        child.kill()
        child.wait()


def next_state(states: States) -> dict[str, Any]:
    """Next state of a child process; empty if none arrives for a moment."""
    try:
        return states.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return {}


def _read(lines: IO[str], states: States) -> None:
    with lines:
        for line in lines:
            states.put(json.loads(line))
    states.put({"error": "unreachable", "reason": "the process that asked for it has ended"})


def _download(server: str, url: str, request: dict[str, Any]) -> Path:
    if named := offline_variable():
        raise DownloadError(f"{named} forbids asking for them")
    host = urlsplit(server).netloc or server
    for address in (host, url):
        began, earlier = _failures.get(address, (0.0, None))
        if earlier is not None and time.monotonic() - began < MEMORY_SECONDS:
            raise earlier
    try:
        return _Download(host, request).wait()
    except _HostError as error:
        failed = DownloadError(f"{host} {error}")
        _failures[host] = time.monotonic(), failed
        raise failed from None
    except DownloadError as error:
        _failures[url] = time.monotonic(), error
        raise


class _HostError(Exception):
    """Failure of the server, whatever file is asked for; the message follows its name."""


class _Download:
    """One request to a child process."""

    def __init__(self, host: str, request: dict[str, Any]) -> None:
        self._host = host
        self._quiet_seconds = _seconds("HF_HUB_DOWNLOAD_TIMEOUT")
        self._answer_seconds = _seconds("HF_HUB_ETAG_TIMEOUT")
        self._request = {**request, "seconds": self._answer_seconds}
        self._file = Path(str(request.get("file") or request["url"])).name
        self._states: States = queue.SimpleQueue()
        self._bytes = 0
        self._answered = False

    def wait(self) -> Path:
        """Path of the file once it is there.

        Raises:
            DownloadError, DiskError: it cannot be downloaded.
            _HostError: the server cannot be reached.
        """
        with self._child(), progress_bar() as progress:
            task = progress.add_task(self._file, total=None, note="MB")
            limit, heard, incomplete = START_SECONDS, time.monotonic(), self._incomplete_bytes()
            while True:
                state = next_state(self._states)
                if "path" in state:
                    return Path(state["path"])
                if "error" in state:
                    raise self._failure(state["error"], state["reason"])
                present = self._incomplete_bytes()
                # Bytes that are sent again, by a server that always breaks off at the same place, are not progress.
                if state.get("bytes", 0) > self._bytes or present > incomplete or (state and "bytes" not in state):
                    heard = time.monotonic()
                elif time.monotonic() - heard > limit:
                    raise self._too_late(limit)
                incomplete = max(incomplete, present)
                if state:
                    self._answered = self._answered or "answered" in state
                    limit = self._quiet_seconds if self._answered else self._answer_seconds
                if "bytes" in state:
                    self._bytes = max(self._bytes, state["bytes"])
                    total = None if state["total"] is None else state["total"] / 1e6
                    progress.update(task, completed=self._bytes / 1e6, total=total)

    @contextmanager
    def _child(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                waiting = {"HF_HUB_DOWNLOAD_TIMEOUT": f"{self._quiet_seconds:.0f}"}
                self._states = stack.enter_context(asking("loupe.models.hub_process", self._request, waiting))
            except OSError as error:
                raise DownloadError(f"no process can be started to ask for them: {error}") from None
            yield

    def _incomplete_bytes(self) -> int:
        """Size of the unfinished downloads of the repository, of which this one may wait for another process's."""
        if "cache" not in self._request:
            return 0
        folder = Path(self._request["cache"]) / f"models--{self._request['repository'].replace('/', '--')}" / "blobs"
        try:
            return sum(path.stat().st_size for path in folder.glob("*.incomplete*"))
        except OSError:
            return 0

    def _too_late(self, seconds: float) -> _HostError:
        if not self._answered:
            return _HostError(f"does not answer within {seconds:g} s")
        return _HostError(f"sends nothing more after {size_text(self._bytes)} of {self._file}")

    def _failure(self, kind: str, reason: str) -> Exception:
        reason = reason[:120]
        if kind == "disk":
            return DiskError(f"{self._file} cannot be written: {reason}. Free disk space, or set HF_HOME.")
        if kind == "missing":
            return MissingFileError(reason)
        if kind == "damaged":
            return DownloadError(reason)
        if kind == "refused":
            return DownloadError(f"{self._host} {reason}")
        if self._answered:
            return DownloadError(f"{self._host} broke off after {size_text(self._bytes)} of {self._file}: {reason}")
        return _HostError(reason if reason.startswith("answered ") else f"cannot be reached: {reason}")


def _seconds(variable: str) -> float:
    """Time to wait: that of a variable of huggingface_hub where the user has set it."""
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return WAIT_SECONDS
