"""Throughput of images from shards on a web server with latency, read ahead into the cache, against a local folder.

    python benchmarks/remote.py [--shards 40] [--megabytes 5] [--latency-ms 20] [--repeats 5] [--json FILE]

Shards are tar files of JPEG images. Local and remote passes alternate; each remote pass begins with an empty cache that
holds a quarter of the shards. `decoded` decodes every image in one thread, as a training does at least; `read` only
reads the bytes. The server is a process of this machine, which waits before every answer.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import setting
from loupe.data.remote.address import Address
from loupe.data.remote.objects import listed
from loupe.data.remote.shard_cache import ShardCache

SIDE_PX = 256


def write_shards(folder: Path, count: int, size: int) -> None:
    """Write shards of about `size` bytes, each of the same JPEG images in another order."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    images = []
    for pixels in coarse:
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
        images.append(buffer.getvalue())
    for number in range(count):
        with tarfile.open(folder / f"{number:04}.tar", "w") as tar:
            written = 0
            while written < size:
                data = images[int(random.integers(len(images)))]
                entry = tarfile.TarInfo(f"{written:09}.jpg")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
                written += len(data)


def consume(path: Path, *, decode: bool) -> int:
    """Number of images of a shard, each read and, if so wanted, decoded."""
    count = 0
    with tarfile.open(path) as tar:
        for entry in tar:
            data = tar.extractfile(entry).read()
            if decode:
                np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            count += 1
    return count


def local_rate(folder: Path, *, decode: bool) -> float:
    """Images per second of a pass over a folder."""
    began = time.perf_counter()
    count = sum(consume(path, decode=decode) for path in sorted(folder.glob("*.tar")))
    return count / (time.perf_counter() - began)


def remote_rate(url: str, *, decode: bool, share: float) -> float:
    """Images per second of a pass over the shards at a URL, with an empty cache of a share of their bytes."""
    remotes = listed(Address.of(url))
    budget = max(int(share * sum(remote.size for remote in remotes)), 2 * max(remote.size for remote in remotes))
    with tempfile.TemporaryDirectory(dir=".") as folder, ShardCache(Path(folder), budget) as cache:
        began, count = time.perf_counter(), 0
        cache.read_ahead(remotes)
        for remote in remotes:
            with cache.local(remote) as path:
                count += consume(path, decode=decode)
        return count / (time.perf_counter() - began)


class Handler(BaseHTTPRequestHandler):
    """Files of a folder, each answer after some time."""

    folder = Path()
    latency_seconds = 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency_seconds)
        if self.path == "/":
            body = "".join(f'<a href="{path.name}">{path.name}</a>' for path in self.folder.iterdir()).encode()
            kind, tag = "text/html", '"index"'
        else:
            body, kind = (self.folder / Path(self.path).name).read_bytes(), "application/x-tar"
            tag = f'"{len(body)}"'
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": tag}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


def serve(folder: Path, latency_ms: float) -> None:
    """Serve a folder, and print the address."""
    Handler.folder, Handler.latency_seconds = folder, latency_ms / 1000
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a listing closes its connections early
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def served(folder: Path, latency_ms: float) -> Iterator[str]:
    """Address of a server process, ended with the block."""
    words = [sys.executable, __file__, "--serve", str(folder), "--latency-ms", str(latency_ms)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.latency_ms)
        return
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        write_shards(folder, given.shards, int(given.megabytes * 1e6))
        with served(folder, given.latency_ms) as url:
            measured = {kind: rates(folder, url, kind == "decoded", given.repeats) for kind in ("decoded", "read")}
    report = {"machine": setting.machine(1), "commit": setting.commit(), "arguments": arguments(given), **measured}
    print(f"{given.shards} shards of {given.megabytes:g} MB, latency {given.latency_ms:g} ms")
    for kind, found in measured.items():
        pairs = ", ".join(f"{ratio:.2f}" for ratio in found["ratios"])
        print(
            f"{kind}: local {found['local']:,.0f}, remote {found['remote']:,.0f} images/s; ratio "
            f"{statistics.median(found['ratios']):.2f} (pairs: {pairs})"
        )
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def rates(folder: Path, url: str, decode: bool, repeats: int) -> dict[str, Any]:
    """Medians of the rates, and the ratio of each pair of passes, which alternate."""
    local, remote = [], []
    for number in range(repeats):
        for far in (False, True) if number % 2 == 0 else (True, False):
            rate = remote_rate(url, decode=decode, share=0.25) if far else local_rate(folder, decode=decode)
            (remote if far else local).append(rate)
    ratios = [far / near for near, far in zip(local, remote, strict=True)]
    return {"local": statistics.median(local), "remote": statistics.median(remote), "ratios": ratios}


def arguments(given: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(given).items() if name not in ("json", "serve")}


if __name__ == "__main__":
    main()
