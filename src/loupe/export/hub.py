"""Upload of an export to a Hugging Face hub, on request alone: a repository that is private by default, one commit.

The token is that of huggingface_hub (`hf auth login`, or the variable HF_TOKEN). The upload runs in a child process
(`hub_process.py`), which is ended if the hub sends and takes nothing for a minute.
"""

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loupe.errors import ConfigError, LoupeError
from loupe.export.folder import CARD, MANIFEST, PARITY, Manifest, hashes
from loupe.export.job import Options
from loupe.log import progress_bar
from loupe.models import hub
from loupe.offline import offline_variable
from loupe.runs.run import Run

QUIET_SECONDS = 60.0  # for an answer, and between two parts of an upload


class PushError(LoupeError):
    """Export that was not pushed; `kind` says why, `loupe.export.hub_process.push` has the kinds."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_name(name: str) -> None:
    """Check the name of a repository, and that the network may be used, before anything is exported.

    Raises:
        ConfigError: it is not of the form USER/NAME, or a variable forbids the network.
    """
    if named := offline_variable():
        raise ConfigError(f"--push {name}: {named} forbids it. Unset that variable, or leave out --push.")
    try:
        utils: Any = import_module("huggingface_hub.utils")
        utils.validate_repo_id(name)
        valid = name.count("/") == 1
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--push {name!r} must be USER/NAME: letters, digits, `-`, `_` and `.`, at most 96 characters."
        )


def is_export_of(folder: Path, run: Run, target: str, options: Options) -> bool:
    """True if a folder is an unchanged export of the run as it is now, so that a push needs no other.

    The precision and the threshold are those of the options. Which images it was compared on is not known.

    Raises:
        RecordError: it is an export whose description cannot be read.
    """
    manifest = Manifest.read_if_there(folder / MANIFEST)
    if manifest is None:
        return False
    found = (manifest.target, manifest.precision, manifest.threshold, manifest.weights_blake2b)
    if found != (target, options.precision, options.threshold, run.config.weights_blake2b):
        return False
    return manifest.files.items() <= hashes(folder).items()


def push(folder: Path, name: str, *, public: bool, message: str) -> str:
    """Upload an export in one commit, and return the address of the commit. A missing repository is created.

    The same commit deletes the files of an earlier export that this one does not have.

    Args:
        folder: an export with its card, which becomes README.md as well.
        name: USER/NAME of the repository. One with other files than those of an export is left alone.
        public: create it public; an existing repository must be what is asked for.
        message: first line of the commit.

    Raises:
        ConfigError: as for `check_name`.
        RecordError: the folder is no export, or its description cannot be read.
        PushError: there is no token or no right, the name is taken, a file is missing, or the hub does not answer.
    """
    check_name(name)
    server = hub.endpoint()
    host = urlsplit(server).netloc or server
    files = list(files_of(folder))
    total = sum(path.stat().st_size for _, path in files)
    request: dict[str, Any] = {"endpoint": server, "name": name, "public": public, "message": message}
    request["manifest"] = MANIFEST
    request["files"] = [(inside, str(path.resolve())) for inside, path in files]
    with hub.asking("loupe.export.hub_process", request, {"HF_HUB_DISABLE_XET": "1"}) as states, progress_bar() as bar:
        task = bar.add_task(f"to {name}", total=total / 1e6, note="MB")
        heard, limit = time.monotonic(), hub.START_SECONDS
        while True:
            state = hub.next_state(states)
            if "path" in state:
                return str(state["path"])
            if "error" in state:
                raise _failure(state["error"], state["reason"], host, name)
            if state:
                heard, limit = time.monotonic(), QUIET_SECONDS
            elif time.monotonic() - heard > limit:
                raise _failure("unreachable", f"has been silent for {limit:g} s", host, name)
            if "bytes" in state:
                bar.update(task, completed=min(state["bytes"], total) / 1e6)


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of an export with their names in the repository, and no others; the card is its README.md as well.

    Raises:
        RecordError: the folder is no export, or its description cannot be read.
        PushError: a file is missing, or outside the folder.
    """
    yield "README.md", folder / CARD
    for name in sorted({*Manifest.read(folder / MANIFEST).files, CARD, MANIFEST, PARITY}):
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise PushError("disk", f"not pushed: {path} is missing or outside the folder. {Manifest.REMEDY}")
        yield name, path


def _failure(kind: str, reason: str, host: str, name: str) -> PushError:
    """Error with the remedy."""
    user = name.partition("/")[0]
    messages = {
        "token": f"there is no token for {host}. Log in with `hf auth login`, or set HF_TOKEN to a token with write "
        f"permission from https://{host}/settings/tokens.",
        "rejected": f"{host} does not accept the token. Log in again with `hf auth login`, or renew HF_TOKEN.",
        "forbidden": f"the token may not write to {name} ({reason}). Give a token with write permission for {user}, or "
        "another name.",
        "taken": f"{name} exists, and holds something else than an export ({reason}). Choose another name.",
        "public": f"{name} is public. Give --public to publish the model there, or choose another name.",
        "private": f"{name} exists and is private. Leave out --public, or make it public in its settings on {host}.",
        "changed": f"{name} was changed by someone else meanwhile. Push again.",
        "refused": f"{host} {reason}. Nothing was committed to {name}.",
        "disk": f"a file of the export cannot be read: {reason}.",
    }
    said = messages.get(kind, f"{host}: {reason}. Push again later: what is there already is not sent twice.")
    return PushError(kind, f"not pushed: {said}")
