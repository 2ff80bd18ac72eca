"""`loupe serve` in a process of its own, on loopback and a free port, and a tiny run to serve."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

HOSTILE = ('"><img src=x onerror=alert(1)>', "<script>alert(1)<script>", "plain")
START_SECONDS, END_SECONDS = 90, 20


@dataclass
class Server:
    """Server that answers.

    Attributes:
        process: of `loupe serve`.
        host, port: its address.
        log: its standard error.
    """

    process: subprocess.Popen[str]
    host: str
    port: int
    log: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def predict(self, image: bytes, query: str = "", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON of the prediction of one image."""
        status, _, body = self.ask("POST", f"/predict{query}", image, {"Content-Type": "image/png", **(headers or {})})
        return status, json.loads(body)

    def client(self) -> httpx.Client:
        """Client of the server, which many threads may use."""
        return httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60, trust_env=False)

    def events(self) -> list[dict[str, Any]]:
        """Lines of the log so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]

    def children(self) -> list[int]:
        """Process numbers of the processes that decode (Linux)."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def peak_bytes(self) -> int:
        """Largest resident memory of the process so far (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return 1024 * int(found[1])


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "loupe", "serve", *map(str, words)]


@contextmanager
def serving(log: Path, *words: object, host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    """Context with a server of `loupe serve WORDS --host HOST --port 0`, whose standard error goes to a file."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command(*words, "--host", host, "--port", 0),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | environment,
        )
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    try:
        assert process.stdout
        line = process.stdout.readline()
        late.cancel()
        address = re.search(r"http://([^/:]+):(\d+)/", line)
        assert address, f"no server: {line!r} {log.read_text()[-2000:]}"
        yield Server(process, address[1], int(address[2]), log)
    finally:
        late.cancel()
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def tiny_run(folder: Path) -> Path:
    """Run of three classes, two of which have the names of scripts, trained for one epoch."""
    import loupe

    rng = np.random.default_rng(0)
    for name, level in zip(HOSTILE, (50, 125, 200), strict=True):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(level - 40, level + 40, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    settings = ["input.size_px=16", "stages.0.batch_size=8", "stages.0.augment.crop_padding_px=2"]
    options = {"epochs": 1, "settings": settings, "output": folder, "name": "tiny", "device": "cpu", "quiet": True}
    return loupe.train(folder / "photos", recipe="small-images", **options).path


def noise(size_px: int, kind: str = "PNG") -> bytes:
    """Image file of random pixels."""
    from io import BytesIO

    pixels = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def ask(client: httpx.Client, paths: Sequence[Path], query: str = "top=3") -> httpx.Response:
    """Answer of `POST /predict` to some files, whose names are their paths."""
    return client.post(f"/predict?{query}", files=[("image", (str(path), path.read_bytes())) for path in paths])


def predicted(run: Path, paths: Sequence[Path], folder: Path, top: int = 3) -> dict[str, Any]:
    """Images of `loupe predict --json` by their paths."""
    words = ["predict", run, *paths, "--top", top, "--json", "--quiet", "--to", folder / "predicted.csv"]
    done = subprocess.run([sys.executable, "-m", "loupe", *map(str, words)], stdout=subprocess.PIPE, check=True)
    return {image["path"]: image for image in json.loads(done.stdout)["images"]}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same label and classes, with probabilities to 1e-5."""
    assert found["label"] == wanted["label"]
    assert [best["class"] for best in found["top"]] == [best["class"] for best in wanted["top"]]
    for one, other in zip(found["top"], wanted["top"], strict=True):
        assert abs(one["probability"] - other["probability"]) <= 1e-5
