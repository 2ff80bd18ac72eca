"""Nodes of a real Ray cluster on loopback, and commands of Loupe beside them: started, killed, and all ended."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STORE_BYTES = 100 * 2**20
LONG_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], object], what: str, seconds: float = LONG_SECONDS) -> None:
    """Wait until a condition holds; an error after that time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} took longer than {seconds:.0f} s"
        time.sleep(0.2)


def descendants(process: int) -> set[int]:
    """Process with its children, theirs, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            status = (folder / "stat").read_text()
            parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def living(processes: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    found = set()
    for process in processes:
        with suppress(OSError):
            status = Path(f"/proc/{process}/stat").read_text()
            if status.rpartition(")")[2].split()[0] not in "ZX":
                found.add(process)
    return found


def listening(process: int) -> set[str]:
    """Addresses on which a process and its descendants listen for TCP, in the form of /proc/net/tcp and tcp6."""
    mine, found = set(), set()
    for each in descendants(process):
        for opened in Path(f"/proc/{each}/fd").glob("*"):
            with suppress(OSError):
                mine.add(str(opened.readlink()))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in mine:
                found.add(words[1].partition(":")[0])
    return found


def kill(processes: set[int]) -> None:
    """SIGKILL for all of them at once, as where a machine loses its power."""
    for process in processes:
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


class RayNodes:
    """A head and further nodes, each a `ray start` on loopback with a few CPUs.

    Attributes:
        address: of the head.
        environment: variables of the nodes, and of commands that use them.
    """

    def __init__(self, cache: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_failure_threshold": "2",  # a lost node is noticed in seconds
            "RAY_health_check_period_ms": "1000",
            "OMP_NUM_THREADS": "1",
            "LOUPE_CACHE": str(cache),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._seen: set[int] = set()

    def start(self, name: str, cpus: int) -> subprocess.Popen[bytes]:
        """Start a node, the first as the head, and wait until it answers."""
        host, port = self.address.split(":")
        place = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        words = place if not self._started else [f"--address={self.address}"]
        log = self.folder / f"{name}.txt"
        with log.open("wb") as file:
            node = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words),
                    *(f"--node-name={name}", f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"),
                    *(f"--node-ip-address={host}", "--disable-usage-stats"),
                ],
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(node)
        until(lambda: b"Ray runtime started" in log.read_bytes() or node.poll() is not None, f"the start of {name}")
        assert node.poll() is None, log.read_text()
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End all processes of a node with SIGKILL."""
        kill(descendants(node.pid))
        node.wait(LONG_SECONDS)

    def close(self) -> None:
        """End all processes of all nodes."""
        for node in self._started:
            if node.poll() is None:
                self._seen |= descendants(node.pid)
        kill(self._seen)
        for node in self._started:
            node.wait(LONG_SECONDS)
        until(lambda: not living(self._seen), "the end of the nodes")
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def ray_nodes(cache: Path) -> Iterator[RayNodes]:
    """Nodes for the block, all ended after it."""
    nodes = RayNodes(cache)
    try:
        yield nodes
    finally:
        nodes.close()


class Command:
    """A command of Loupe, or another program, in a process of its own, with all processes that it has started."""

    def __init__(
        self,
        words: list[str],
        environment: dict[str, str],
        folder: Path,
        program: tuple[str, ...] = (sys.executable, "-m", "loupe"),
    ) -> None:
        self.log = folder / f"command-{secrets.token_hex(4)}.txt"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [*program, *words],
                env=environment,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.seen: set[int] = set()

    def look(self) -> None:
        """Remember the processes that it has now."""
        if self.process.poll() is None:
            self.seen |= descendants(self.process.pid)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds, while the command runs."""

        def holds() -> bool:
            self.look()
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()}"
            return bool(condition())

        until(holds, what)

    def end(self) -> int:
        """Exit code."""
        until(lambda: (self.look(), self.process.poll() is not None)[1], "the command")
        return self.process.wait()

    def close(self) -> None:
        """End it and all processes that it has started."""
        self.look()
        kill(self.seen)
        self.process.wait(LONG_SECONDS)
        until(lambda: not living(self.seen), "the end of the command")


@contextmanager
def command(
    words: list[str],
    environment: dict[str, str],
    folder: Path,
    program: tuple[str, ...] = (sys.executable, "-m", "loupe"),
) -> Iterator[Command]:
    """Command that runs beside the block, and is ended after it."""
    started = Command(words, environment, folder, program)
    try:
        yield started
    finally:
        started.close()
