"""Servers that are measured: started as processes of their own, ended with their children, and what they take."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from load import HOST, upload

START_SECONDS = 120.0
END_SECONDS = 20.0
MIB = 2**20


@dataclass(frozen=True)
class Contender:
    """Server that can be started, and the form of its requests.

    Attributes:
        name: name in the tables.
        command: command that starts it; `{port}` stands for the port.
        ready: path that answers with 200 once it can predict.
        target: path, with the query, that images are uploaded to.
        field_name: form field of an image.
        answer: class and probability in the JSON of an answer.
        environment: environment variables beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    target: str
    field_name: str
    answer: Callable[[Any], tuple[str, float]]
    environment: Mapping[str, str] = field(default_factory=dict)

    def requests(self, files: Sequence[Path]) -> list[bytes]:
        """Request for each image file."""
        return [upload(path.read_bytes(), path.name, self.target, self.field_name) for path in files]

    def damaged(self) -> bytes:
        """Request with an image that no decoder reads."""
        return upload(b"\xff\xd8\xff\xe0 damaged", "damaged.jpg", self.target, self.field_name)


def loupe_server(model: Path, name: str, sources: Path, deadline_seconds: float, *options: str) -> Contender:
    """Server of a run or of an export, from these sources, with further options."""

    def answer(body: Any) -> tuple[str, float]:
        first = body["images"][0]["top"][0]
        return first["class"], first["probability"]

    return Contender(
        name=name,
        command=(sys.executable, "-m", "loupe", "serve", str(model), "--port", "{port}", *options),
        ready="/v2/health/ready",
        target=f"/predict?top=1&deadline={deadline_seconds:g}",
        field_name="file",
        answer=answer,
        environment={"PYTHONPATH": str(sources)},
    )


def peer_server(
    library: str, python: Path, export: Path, batch: int, milliseconds: int, *, threads: int, sources: Path
) -> Contender:
    """LitServe or BentoML on an ONNX export, in an environment of its own (peers/)."""
    script = Path(__file__).parent / "peers" / f"{library.lower()}_server.py"
    is_list = library == "BentoML"  # its answer to a request of one image
    options = ("--threads", threads, "--batch", batch, "--latency-ms" if is_list else "--wait-ms", milliseconds)

    def answer(body: Any) -> tuple[str, float]:
        first = body[0] if is_list else body
        return first["label"], first["probability"]

    return Contender(
        name=f"{library}, batch {batch}, {milliseconds} ms",
        command=(str(python), str(script), str(export), "--port", "{port}", *map(str, options)),
        ready="/readyz" if is_list else "/health",
        target="/predict",
        field_name="images" if is_list else "request",
        answer=answer,
        environment={"PYTHONPATH": str(sources)},
    )


@dataclass(frozen=True)
class Server:
    """Running server."""

    contender: Contender
    port: int
    pid: int
    start_seconds: float


@contextmanager
def running(contender: Contender, log: Path) -> Iterator[Server]:
    """Server that answers, on a free port of this machine; it and its children are ended at the end."""
    port, began = free_port(), time.perf_counter()
    command = [word.format(port=port) for word in contender.command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **contender.environment},
            start_new_session=True,  # so that its children can be ended with it
        )
        try:
            wait_until_ready(f"http://{HOST}:{port}{contender.ready}", process, log)
            yield Server(contender, port, process.pid, time.perf_counter() - began)
        finally:
            end(process)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.perf_counter() + START_SECONDS
    while time.perf_counter() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    raise SystemExit(f"{process.args} does not answer:\n{log.read_text(errors='replace')[-3000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server by SIGTERM, and whatever is left of its session by SIGKILL."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Usage:
    """What a process and its descendants take.

    Attributes:
        own_mib: anonymous memory: heaps and stacks, without files that are mapped, such as libraries, which other
            processes may share.
        rss_mib: all resident memory; what several of the processes share counts for each.
    """

    processes: int
    threads: int
    files: int
    own_mib: float
    rss_mib: float
    processor_seconds: float


def usage(pid: int) -> Usage:
    """What a process and its descendants take now, from Linux's /proc."""
    found = [each for each in map(_usage_of_one, descendants(pid)) if each]
    return Usage(*(sum(values) for values in zip(*map(astuple, found), strict=True)))


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _usage_of_one(pid: int) -> Usage | None:
    folder = Path(f"/proc/{pid}")
    try:
        memory = _kilobytes(folder / "smaps_rollup")
        status = _kilobytes(folder / "status")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        files = len(list((folder / "fd").iterdir()))
    except OSError:  # it has ended
        return None
    processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(1, status["Threads"], files, memory["Anonymous"] / 1024, memory["Rss"] / 1024, processor)


def _kilobytes(path: Path) -> dict[str, int]:
    """Lines `Name:   number kB` of a file of /proc."""
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {name: int(words[0]) for name, _, value in pairs if (words := value.split()) and words[0].isdecimal()}
