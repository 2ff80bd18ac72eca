"""A real `loupe serve` process on a free port of this machine, which always ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import loupe

START_SECONDS = 120
ENV = {"PYTHONPATH": str(Path(loupe.__file__).parents[1])}


@dataclass
class Served:
    """Server that answers at `address`; its log is in `log`."""

    address: str
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def events(self) -> list[dict[str, Any]]:
        """Lines of the log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]

    def children(self) -> list[int]:
        """Process numbers of the processes that decode (Linux)."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def resident_bytes(self) -> int:
        """Memory of the server itself (Linux)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def served(*words: object, folder: Path) -> Iterator[Served]:
    """Server of `loupe serve WORDS --port 0`, with its log in a folder."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "loupe", "serve", *map(str, words), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=os.environ | ENV)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"http://[^/ ]+", first)
        assert found, f"the server did not start: {log.read_text()}"
        yield Served(found.group(), process, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(client: httpx.Client, paths: Sequence[Path], query: str = "top=3") -> httpx.Response:
    """Answer of `POST /predict` to some files, whose names are their paths."""
    return client.post(f"/predict?{query}", files=[("image", (str(path), path.read_bytes())) for path in paths])


def predicted(run: Path, paths: Sequence[Path], folder: Path, top: int = 3) -> dict[str, Any]:
    """Images of `loupe predict --json` by their paths."""
    words = ["predict", run, *paths, "--top", top, "--json", "--quiet", "--to", folder / "predicted.csv"]
    command = [sys.executable, "-m", "loupe", *map(str, words)]
    done = subprocess.run(command, env=os.environ | ENV, stdout=subprocess.PIPE, check=True)
    return {image["path"]: image for image in json.loads(done.stdout)["images"]}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same label and classes, with probabilities to 1e-5."""
    assert found["label"] == wanted["label"]
    assert [best["class"] for best in found["top"]] == [best["class"] for best in wanted["top"]]
    for one, other in zip(found["top"], wanted["top"], strict=True):
        assert abs(one["probability"] - other["probability"]) <= 1e-5
