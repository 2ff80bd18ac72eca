"""A server as a process: what may not stop it, fill its memory or be let in, and its end."""

import asyncio
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from raw_requests import until_end
from server_process import HOSTILE, Server, command, noise, serving, tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals and /proc of Unix")]

MB = 10**6
HEALTH = "/v2/health/live"
SENDERS, UPLOADS, UPLOAD_SECONDS = 60, 100, 4.0


@pytest.fixture(scope="module")
def run(tmp_path_factory, bare) -> Path:
    return tiny_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    words = (run, "--device", "cpu", "--decoders", 2, "--deadline", 15, "--max-body", 15)
    with serving(tmp_path_factory.mktemp("log") / "stderr", *words) as server:
        assert server.predict(noise(32))[0] == 200
        yield server


def chunked(server: Server, head: str, prefix: bytes, total_bytes: int) -> tuple[bytes, int]:
    """Answer to a body without length, and the number of bytes that could be sent; it is read when sending fails."""
    piece = b"x" * MB
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    with socket.create_connection((server.host, server.port), 30) as client:
        lines = (
            f"POST /predict HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nTransfer-Encoding: chunked\r\n{head}\r\n"
        )
        client.sendall(lines.encode() + b"%x\r\n%s\r\n" % (len(prefix), prefix))
        sent = 0
        try:
            while sent < total_bytes:
                client.sendall(chunk)
                sent += len(piece)
            client.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass
        try:
            return until_end(client), sent
        except ConnectionResetError:
            return b"", sent


FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory as Linux tells it")
@pytest.mark.parametrize(
    ("kind", "prefix"), [("image/png", b"x"), ("multipart/form-data; boundary=b", FORM_HEAD), ("text/plain", b"x")]
)
def test_a_gigabyte_without_length_is_refused_in_little_memory(server, kind, prefix):
    before = server.peak_bytes()
    answer, sent = chunked(server, f"Content-Type: {kind}\r\n", prefix, 1000 * MB)
    grown = server.peak_bytes() - before
    print(f"{kind}: {sent / MB:.0f} MB sent, peak memory grew by {grown / MB:.1f} MB")
    assert answer.startswith(b"HTTP/1.1 415" if kind == "text/plain" else b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert sent < 200 * MB
    assert grown < 50 * MB
    assert server.predict(noise(32))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "attacker.example"}, {"Host": "127.0.0.1:1"}, {"Origin": "https://attacker.example"}, {"Origin": "null"}],
)
def test_foreign_hosts_and_origins_are_refused(server, headers):
    status, answered, body = server.ask("POST", "/predict", noise(32), {"Content-Type": "image/png", **headers})
    assert (status, list(json.loads(body))) == (403, ["error"])
    assert not [name for name in answered if name.startswith("access-control")]
    assert server.ask("GET", "/", headers=headers)[0] == 403


def test_names_of_classes_and_files_are_data(server):
    name = "<script>alert(1)</script>.png"
    form = FORM_HEAD.replace(b"a.png", name.encode()) + noise(32) + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, headers, body = server.ask("POST", "/predict?top=3", form, kind)
    image = json.loads(body)["images"][0]
    assert (status, headers["content-type"], headers["x-content-type-options"]) == (200, "application/json", "nosniff")
    assert image["path"] == name
    assert {entry["class"] for entry in image["top"]} == set(HOSTILE)
    for path in ("/metrics", "/v2/models"):
        status, headers, body = server.ask("GET", path)
        assert "html" not in headers["content-type"]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2"])
def test_an_address_beyond_loopback_needs_a_token(run, host):
    ended = subprocess.run(command(run, "--host", host, "--port", 0), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "--token-file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_with_a_token_file_only_the_token_opens_the_server(run, tmp_path):
    """127.0.0.2 counts as an address beyond loopback, but nothing outside this machine reaches it."""
    path = tmp_path / "token"
    with serving(tmp_path / "log", run, "--token-file", path, "--device", "cpu", host="127.0.0.2") as server:
        token = path.read_text().strip()
        assert path.stat().st_mode & 0o777 == 0o600
        status, headers, _ = server.ask("POST", "/predict", noise(32), {"Content-Type": "image/png"})
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="loupe"')
        assert server.predict(noise(32), headers={"Authorization": f"Bearer {token}x"})[0] == 401
        assert server.predict(noise(32), headers={"Authorization": f"Bearer {token}"})[0] == 200
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", HEALTH)[0] == 200
        assert token not in server.log.read_text()


async def asked(server: Server, head: str, body: bytes = b"") -> tuple[int, float]:
    """Status of an answer, 0 if the connection ended without one, and the seconds until it came."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(f"{head}Host: {server.host}:{server.port}\r\nConnection: close\r\n\r\n".encode() + body)
        line = await reader.readline()
        return int(line.split()[1]) if line else 0, time.perf_counter() - began
    except ConnectionError:
        return 0, time.perf_counter() - began
    finally:
        writer.close()


async def dripping(server: Server) -> tuple[int, float]:
    """Status and seconds of a client that sends its image one byte at a time."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Type: image/png\r\n"
    writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode())
    answered = asyncio.ensure_future(reader.readline())
    while not answered.done():
        writer.write(b"x")
        await asyncio.wait([answered], timeout=0.5)
    writer.close()
    line = answered.result()
    return int(line.split()[1]) if line else 0, time.perf_counter() - began


async def held_up(server: Server, image: bytes) -> None:
    """Ask for the health of a server beside slow senders and uploads, then again once both are over."""
    slow = [asyncio.create_task(dripping(server)) for _ in range(SENDERS)]
    await asyncio.sleep(0.5)
    end = time.perf_counter() + UPLOAD_SECONDS

    async def uploads() -> list[int]:
        head = f"POST /predict HTTP/1.1\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n"
        statuses = []
        while time.perf_counter() < end:
            statuses.append((await asked(server, head, image))[0])
        return statuses

    fast = [asyncio.create_task(uploads()) for _ in range(UPLOADS)]
    health = []
    while not all(task.done() for task in fast):
        health.append(await asked(server, f"GET {HEALTH} HTTP/1.1\r\n"))
        await asyncio.sleep(0.05)
    counts = Counter(status for task in fast for status in task.result())
    seconds = [taken for _, taken in health]
    print(f"{UPLOADS} parallel uploads of {len(image)} bytes beside {SENDERS} slow senders: answers {dict(counts)}")
    print(f"health: {len(health)} times, median {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s")
    assert {status for status, _ in health} == {200}
    assert statistics.median(seconds) < 1
    assert max(seconds) < 3
    assert set(counts) <= {200, 429}
    assert counts[200] >= UPLOADS // 10
    ended = await asyncio.gather(*slow)
    assert {status for status, _ in ended} == {408}
    assert all(14 < taken < 25 for _, taken in ended)


def test_slow_senders_and_many_uploads_leave_health_answering(server):
    asyncio.run(held_up(server, noise(600, "JPEG")))
    began = time.perf_counter()
    assert server.ask("GET", HEALTH)[0] == 200
    assert server.predict(noise(32))[0] == 200
    assert time.perf_counter() - began < 2


def test_what_is_in_flight_at_sigterm_is_answered(run, tmp_path):
    image = noise(32)
    with serving(tmp_path / "log", run, "--device", "cpu", "--decoders", 1) as server:
        with socket.create_connection((server.host, server.port), 30) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Type: image/png\r\n"
            client.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image[:50])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(ConnectionError):
                socket.create_connection((server.host, server.port), 5)
            client.sendall(image[50:])
            answer = until_end(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["images"][0]["top"]
        began = time.perf_counter()
        assert server.process.wait(20) == 0
        assert time.perf_counter() - began < 5
        assert "Traceback" not in server.log.read_text()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="processes and files as Linux tells them")
def test_ended_connections_leave_nothing_behind(server):
    """Clients that connect and go, at once or while they send, cost no file and no task."""

    def files() -> int:
        return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    before = files()
    for sent in (b"", b"G", b"POST /predict HTTP/1.1\r\nHost: a", FORM_HEAD):
        for _ in range(25):
            with socket.create_connection((server.host, server.port), 5) as client:
                client.sendall(sent)
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Type: image/png\r\n"
    for _ in range(25):
        with socket.create_connection((server.host, server.port), 5) as client:
            client.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"x" * 500)
    deadline = time.monotonic() + 5
    while files() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert files() <= before
    assert not re.search("Traceback|exception", server.log.read_text())
    assert server.predict(noise(32))[0] == 200
