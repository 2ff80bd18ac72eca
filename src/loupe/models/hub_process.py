"""Child process that asks the hub for one file and downloads it, with JSON lines about its state on standard output.

It has the environment, the timeouts and the log of huggingface_hub for itself. Its parent ends it if it waits too long.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from loupe.data.processes import open_answers
from loupe.errors import DISK_FULL

CHUNK_BYTES = 1 << 16
SHA256 = re.compile(r"[0-9a-f]{64}")
NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # PyTorch's names of files begin their SHA-256 after a hyphen
ERRNO = re.compile(r"\[(Errno|WinError|SSL)[^\]]*\]\s*")

Say = Callable[..., None]


class HubError(Exception):
    """Failure of a kind: `unreachable` is said of the hub, `refused`, `missing` and `damaged` of a file; or `disk`.

    Other kinds belong to the work that raises them.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def serve(request: dict[str, Any]) -> None:
    """Answer a request for a file; the last line is `{"path": ...}`, or `{"error": kind, "reason": ...}`."""
    answer(request, from_address if "url" in request else from_hub)


def answer(request: dict[str, Any], work: Callable[[dict[str, Any], Say], str | Path]) -> None:
    """Answer a request by a function of the request and of what sends a state to the parent.

    The last line is `{"path": ...}` with what the function returns, or `{"error": kind, "reason": ...}`.
    """
    answers = open_answers()

    def say(**state: Any) -> None:
        with suppress(BrokenPipeError):
            answers.write(json.dumps(state).encode() + b"\n")
            answers.flush()

    try:
        say(path=str(work(request, say)))
    except HubError as error:
        say(error=error.kind, reason=str(error))
    except Exception as error:  # classes of an HTTP library that differ from release to release
        of_disk = isinstance(error, OSError) and (error.filename or error.errno in DISK_FULL)
        kind = "disk" if of_disk else "unreachable"
        say(error=kind, reason=ERRNO.sub("", " ".join(str(error).split())) or type(error).__name__)


def from_hub(request: dict[str, Any], say: Say) -> Path:
    """File of a repository in the cache of huggingface_hub, downloaded after the hub has answered for it."""
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    utils: Any = import_module("huggingface_hub.utils")
    repository, file, revision = request["repository"], request["file"], request["revision"]
    if hasattr(constants, "DOWNLOAD_CHUNK_SIZE"):
        constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES  # by default 10 MB: a slow download would look like a stalled one
    url = hf_hub_url(repository, file, revision=revision)
    headers = utils.build_hf_headers()
    say(ready=True)
    answer = utils.get_session().head(url, headers=headers, timeout=request["seconds"])
    _check(answer.status_code, answer.headers.get("X-Error-Code", ""), f"{repository}/{file}")
    say(answered=True)
    if request["ask_only"]:
        return Path()
    options: dict[str, Any] = {"revision": revision, "cache_dir": request["cache"]}
    if "tqdm_class" in signature(hf_hub_download).parameters:
        options["tqdm_class"] = type("Told", (Progress,), {"say": staticmethod(say)})
    path = Path(hf_hub_download(repository, file, etag_timeout=request["seconds"], **options))
    blob = path.resolve()
    if SHA256.fullmatch(blob.name):  # large files are named by their hash
        _check_hash(path, blob.name, say)
    return path


def _check(status: int, code: str, name: str) -> None:
    if status == 404 and code == "EntryNotFound":
        raise HubError("missing", f"there is no {name}")
    if status in (401, 403, 404, 407, 410):
        login = " or it asks for a login" if status in (401, 403) else ""
        raise HubError("unreachable" if status == 407 else "refused", f"answered {status} for {name}{login}")
    if status >= 400:
        raise HubError("unreachable", f"answered {status}")


def _check_hash(path: Path, expected: str, say: Say) -> None:
    """Remove a file with other bytes than its hash says.

    Raises:
        HubError: it was removed.
    """
    digest, blob = hashlib.sha256(), path.resolve()
    with blob.open("rb") as file:
        while data := file.read(1 << 24):
            digest.update(data)
            say(checked=len(data))
    if not digest.hexdigest().startswith(expected):
        for damaged in (path, blob):
            with suppress(OSError):
                damaged.unlink()
        raise HubError("damaged", "the downloaded file has a wrong checksum and was removed")


def from_address(request: dict[str, Any], say: Say) -> Path:
    """File at an address of its own, in PyTorch's folder of checkpoints."""
    target = Path(request["target"])
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    say(ready=True)
    try:
        with urlopen(request["url"], timeout=request["seconds"]) as answer:
            say(answered=True)
            total = int(answer.headers.get("Content-Length") or 0)
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                done = 0
                while data := answer.read1(CHUNK_BYTES):
                    file.write(data)
                    done += len(data)
                    say(bytes=done, total=total or None)
        if done < total:
            raise HubError("damaged", f"the download ended at {done:,} of {total:,} bytes")
        if named := NAMED_HASH.search(target.name):
            _check_hash(part, named[1], say)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


class Progress:
    """Progress bar with the interface of tqdm that says how many bytes there are."""

    say: Say

    def __init__(self, *args: Any, total: int | None = None, initial: int = 0, **options: Any) -> None:
        self.total, self.n = total, initial

    def update(self, count: float = 1) -> None:
        self.n += int(count)
        self.say(bytes=self.n, total=self.total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def __getattr__(self, name: str) -> Any:
        """Method that does nothing, for the rest of tqdm's interface: close, refresh, set_postfix_str ..."""
        if name.startswith("_") or name == "update_transfer":  # its presence means that two bars are one
            raise AttributeError(name)
        return lambda *args, **options: None
