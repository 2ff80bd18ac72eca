"""Stores of remote files for tests, on this machine: a web server that misbehaves on purpose, a hub, and S3."""

import hashlib
import json
import logging
import random
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
FAULTS = ("500", "503", "reset")  # of which `fault_rate` draws


class ObjectServer(ThreadingHTTPServer):
    """Web server of the files in `files`, by their paths.

    Attributes:
        files: content by path, with a slash at its beginning.
        script: misbehaviour of the next requests, one word each; see `Handler`. An empty word is good behaviour.
        fault_rate: share of other requests that fail, as drawn from `seed`.
        latency_seconds: time before each answer.
        ranges: ranges of bytes are answered; else the whole file is sent.
        tags: entity tags are `strong`, `weak`, or missing (``).
        checksums: headers for the content of a file, for example `Content-MD5`.
        token: token without which requests are refused with 401.
        redirects: addresses by path.
        refusals: statuses by path, in place of the answer.
        asked: method, path and range of each request.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: Mapping[str, bytes] | None = None, *, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files or {})
        self.script: deque[str] = deque()
        self.fault_rate = 0.0
        self.latency_seconds = 0.0
        self.ranges = True
        self.tags = "strong"
        self.checksums: Callable[[bytes], Mapping[str, str]] = lambda data: {}
        self.token = ""
        self.redirects: dict[str, str] = {}
        self.refusals: dict[str, int] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.authorizations: list[tuple[str, str]] = []
        self.closing = threading.Event()
        self.generation = 0
        self.page_size = 1000
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self) -> str:
        """Misbehaviour of the next request."""
        with self._lock:
            if self.script:
                return self.script.popleft()
            return self._random.choice(FAULTS) if self._random.random() < self.fault_rate else ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence: a client may close its connection."""


class Handler(BaseHTTPRequestHandler):
    """Answers of the server. Words of its script:

    a status, `reset`, `truncate` (half of the body, then the end), `longer` (a Content-Length above the body),
    `trickle` (a byte each 50 ms), `silent` (no answer), `stalls` (half of the body, then silence), `other tag`
    (other bytes with another entity tag), `same tag` (other bytes with the same tag and length), `shorter` (another
    size with the same tag), `compressed` (says that it is).
    """

    server: ObjectServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        path = urlsplit(self.path).path
        asked_range = self.headers.get("Range", "")
        server.asked.append(("GET", self.path, asked_range))
        server.authorizations.append((path, self.headers.get("Authorization", "")))
        word = server.fault()
        server.closing.wait(server.latency_seconds)
        if word == "silent":
            server.closing.wait()
            self.close_connection = True
        elif word == "reset":
            self._reset()
        elif word.isdecimal():
            self._refuse(int(word))
        elif server.token and server.token not in self.headers.get("Authorization", ""):
            self._refuse(401)
        elif path in server.refusals:
            self._refuse(server.refusals[path])
        elif path in server.redirects:
            self._refuse(302, {"Location": server.redirects[path]})
        elif path.startswith("/api/datasets/"):
            self._hub(path)
        else:
            data = server.files.get(unquote(self._resolved(path)))
            if data is None and path.endswith("/"):
                self._index(unquote(path))
            elif data is None:
                self._refuse(404)
            else:
                self._send(data, asked_range, word)

    do_HEAD = do_GET

    def _resolved(self, path: str) -> str:
        """Path of a file of a data set without its commit."""
        return re.sub(r"^/datasets/([^/]+/[^/]+)/resolve/[^/]+/", r"/\1/", path)

    def _refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _reset(self) -> None:
        """End the connection as a crashed server does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, data: bytes, asked_range: str, word: str) -> None:
        server = self.server
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}-{server.generation}"'
        headers = {**server.checksums(data)}
        if word in ("other tag", "same tag"):
            data = data[::-1]
            tag = tag if word == "same tag" else '"another"'
        if word == "shorter":
            data = data[:-1]
        if word == "compressed":
            headers["Content-Encoding"] = "gzip"
        if server.tags:
            headers["ETag"] = tag if server.tags == "strong" else f"W/{tag}"
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked_range) if server.ranges else None
        status, body = 200, data
        if found and self.headers.get("If-Range", tag) == tag:
            first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            if first >= len(data):
                self._refuse(416, {"Content-Range": f"bytes */{len(data)}", **headers})
                return
            status, body = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + (9 if word == "longer" else 0)))
        self.end_headers()
        self._body(body, word)

    def _body(self, body: bytes, word: str) -> None:
        half = word in ("truncate", "stalls")
        sent = body[: len(body) // 2] if half else body
        if word == "trickle":
            for byte in sent:
                if self.server.closing.wait(0.05):
                    break
                self.wfile.write(bytes([byte]))
        else:
            self.wfile.write(sent)
        if word == "stalls":
            self.server.closing.wait()
        if half or word == "longer":
            self.close_connection = True

    def _index(self, path: str) -> None:
        names = sorted(name.removeprefix(path) for name in self.server.files if name.startswith(path))
        shown = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in names})
        links = "".join(f'<li><a href="{quote(name)}">{name}</a></li>' for name in shown)
        page = f'<html><a href="../">Parent</a><a href="?C=N">Name</a><ul>{links}</ul></html>'.encode()
        self.send_response(200 if names else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def _hub(self, path: str) -> None:
        """Answers of a hub: the commit of a revision, and the entries of a folder, page by page."""
        server = self.server
        name, action, rest = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/([a-z]+)/(.*)", path).groups()
        names = [each.removeprefix(f"/{name}/") for each in server.files if each.startswith(f"/{name}/")]
        revision, _, folder = rest.partition("/")
        if not names or unquote(revision) not in ("main", "v1", "refs/convert/parquet", COMMIT):
            self._refuse(401 if not names else 404)
            return
        if action == "revision":
            self._json({"sha": COMMIT})
            return
        query = parse_qs(urlsplit(self.path).query)
        recursive, begin = query["recursive"] == ["True"], int(query.get("cursor", ["0"])[0])
        inside = f"{unquote(folder)}/" if folder else ""
        found: dict[str, dict] = {}
        for each in sorted(names):
            if not each.startswith(inside):
                continue
            deeper = each[len(inside) :]
            if "/" in deeper:
                above = inside + deeper.partition("/")[0]
                found[above] = {"type": "directory", "path": above, "oid": "0" * 40, "size": 0}
            if "/" not in deeper or recursive:
                found[each] = self._entry(each, server.files[f"/{name}/{each}"])
        if not found:
            self._refuse(404)
            return
        page = list(found.values())[begin : begin + server.page_size]
        more = begin + server.page_size < len(found)
        following = f"{server.url}{path}?recursive={recursive}&cursor={begin + server.page_size}"
        self._json(page, {"Link": f'<{following}>; rel="next"'} if more else {})

    def _entry(self, path: str, data: bytes) -> dict:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if path.endswith((".parquet", ".tar", ".bin")):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@contextmanager
def running(files: Mapping[str, bytes] | None = None, *, seed: int = 0) -> Iterator[ObjectServer]:
    """Web server in a thread, ended with the block."""
    with ObjectServer(files, seed=seed) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """Address of moto's S3 server in a thread, ended with the block."""
    from moto.moto_api._internal import moto_api_backend
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        moto_api_backend.reset()


class FakeClock:
    """Clock that moves only when somebody sleeps, and the pauses that were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        time.sleep(0)
