"""Downloads against a server of our own: whole, cut off, resumed, refused, wrong."""

import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from loupe.data.sources.download import Source, checksum_of, download
from loupe.errors import DataError, LoupeError
from loupe.log import terminal

DATA = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(DATA).hexdigest()
REMEDY = "Give the file itself."


class Server(ThreadingHTTPServer):
    """Sends DATA. `cuts` holds, for each request in turn, after how many bytes the connection is cut (None: never)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int | None] = []
        self.status: list[int] = []  # answers in place of the file, in turn
        self.knows_ranges = True
        self.data = DATA
        self.asked: list[int] = []  # the first byte that each request asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        server.asked.append(start)
        if server.status and (status := server.status.pop(0)):
            self.send_error(status)
            return
        if not server.knows_ranges:
            start = 0
        if start >= len(server.data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(server.data) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(server.data[start:] if cut is None else server.data[start : start + cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are offline; these have a server of their own."""
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(url: str, target: Path, checksum: str = f"md5:{MD5}") -> Path:
    return download(Source(url, checksum, REMEDY), target, pause_seconds=0.0, timeout_seconds=5.0)


def test_a_file_comes_whole_and_is_not_fetched_again(server, tmp_path):
    target = tmp_path / "deep" / "data.tar.gz"
    assert fetch(server.url, target) == target
    assert target.read_bytes() == DATA
    os.utime(target, (0, 0))
    assert fetch(server.url, target) == target
    assert server.asked == [0]
    assert target.stat().st_mtime > 0, "when it was last used"
    assert not list(target.parent.glob("*.part"))


def test_a_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    server.cuts = [300_000, 200_000, 1]
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    assert server.asked == [0, 300_000, 500_000, 500_001]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.knows_ranges = False
    server.cuts = [300_000]
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    assert server.asked == [0, 300_000]


def test_a_later_run_goes_on_from_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "data.part").write_bytes(DATA[:400_000])
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    assert server.asked == [400_000]


def test_a_part_that_is_already_whole_needs_no_byte(server, tmp_path):
    (tmp_path / "data.part").write_bytes(DATA)
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    assert server.asked == [1_000_000]


@pytest.mark.parametrize("old", [b"something else", b"x" * 2_000_000])
def test_a_part_that_does_not_fit_is_fetched_anew(server, tmp_path, old, caplog):
    (tmp_path / "data.part").write_bytes(old)
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    assert server.asked == [len(old), 0]
    assert "Downloading again" in caplog.text


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(LoupeError, match=f"wrong checksum: expected md5:{'0' * 32}, got md5:{MD5}.*{REMEDY}"):
        fetch(server.url, tmp_path / "data", checksum="md5:" + "0" * 32)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_an_error_at_once(server, tmp_path, status):
    server.status = [status]
    with pytest.raises(LoupeError, match=f"the server returned {status} .*{REMEDY}"):
        fetch(server.url, tmp_path / "data")
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert fetch(server.url, tmp_path / "data").read_bytes() == DATA
    server.status = [500] * 9
    server.asked.clear()
    with pytest.raises(LoupeError, match=f"cannot be downloaded: the server returned 500 .*{REMEDY}"):
        fetch(server.url, tmp_path / "other")
    assert len(server.asked) == 3


def test_a_server_that_always_cuts_off_is_given_up_and_the_part_kept(server, tmp_path):
    server.cuts = [100_000] + [0] * 9
    with pytest.raises(LoupeError, match=f"the connection ended at 100,000 of 1,000,000 bytes.*{REMEDY}"):
        fetch(server.url, tmp_path / "data")
    assert (tmp_path / "data.part").read_bytes() == DATA[:100_000]


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid"])
def test_no_network_is_an_error_with_a_remedy(tmp_path, host):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LoupeError, match=f"cannot be downloaded: .*{REMEDY}"):
        fetch(f"http://{host.format(port=port)}/data.tar.gz", tmp_path / "data")


def test_a_place_that_cannot_be_written_is_an_error(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LoupeError, match=r"cannot be written.*LOUPE_CACHE"):
        fetch(server.url, tmp_path / "file" / "data")


def test_two_at_once_fetch_it_once(server, tmp_path):
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(server.url, tmp_path / "data"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "data"] * 4
    assert server.asked == [0]


def test_progress_is_shown_and_said(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    server.cuts = [10]
    with terminal():
        download(Source(server.url, f"md5:{MD5}", REMEDY), tmp_path / "data", pause_seconds=0.0)
    shown = capsys.readouterr().err
    assert f"Downloading {server.url}" in shown
    assert "data.tar.gz" in shown
    assert "1/1" in shown and "MB" in shown


def test_checksums_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum_of(tmp_path / "abc", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert checksum_of(tmp_path / "abc", "sha512").startswith("sha512:ddaf35a193617abacc417349ae204131")  # FIPS 180-2


def test_a_server_that_does_not_answer_is_asked_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/data.tar.gz"
        with pytest.raises(DataError, match=f"no answer within 0.2 s. {REMEDY}"):
            download(Source(url, f"md5:{MD5}", REMEDY), tmp_path / "data", timeout_seconds=0.2)
        silent.accept()[0].close()
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent.accept()


def test_a_name_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    asked, over = [], threading.Event()
    monkeypatch.setattr(
        "loupe.data.sources.download.urlopen", lambda request, timeout: asked.append(request) or over.wait(30)
    )
    try:
        with pytest.raises(DataError, match=REMEDY):
            download(Source("http://nowhere/data", f"md5:{MD5}", REMEDY), tmp_path / "data", timeout_seconds=0.1)
    finally:
        over.set()
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["LOUPE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nobody_is_asked(server, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(DataError, match=f"{name}=1 forbids it. {REMEDY}"):
        fetch(server.url, tmp_path / "data")
    assert server.asked == []
