"""Connections that no client can keep without using them, in uvicorn."""

import asyncio
import socket
import time
from contextlib import ExitStack, suppress

import pytest
from raw_requests import listening, until_end
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from loupe.serve.connections import Connections

pytestmark = pytest.mark.slow  # they wait for timers of tenths of a second
LARGE = 2**25
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Quick(Connections):
    header_seconds = 0.3
    read_seconds = 0.3
    header_bytes = 2000


class Few(Connections):
    most = 3
    most_refused = 2


async def app(scope, receive, send):
    request = Request(scope, receive)
    if scope["path"] == "/large":
        await Response(b"x" * LARGE)(scope, receive, send)
        return
    if scope["path"] == "/echo":
        await PlainTextResponse(request.headers.get("x-echo", "no echo"))(scope, receive, send)
        return
    size = len(await request.body())
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    await PlainTextResponse(f"{size} bytes")(scope, receive, send)


@pytest.fixture(scope="module")
def port():
    with listening(app, Quick) as port:
        yield port


@pytest.fixture
def client(port):
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        yield client


def answer_of(client: socket.socket, end: bytes = b"bytes") -> bytes:
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        assert piece, f"the connection ended after {received!r}"
        received += piece
    return received


def seconds_until_end(client: socket.socket) -> float:
    began = time.perf_counter()
    assert until_end(client) == b""
    return time.perf_counter() - began


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_connection_without_headers_ends(client, sent):
    client.sendall(sent)
    assert 0.2 < seconds_until_end(client) < 3


def test_a_trickle_of_headers_gains_no_time(client):
    began = time.perf_counter()
    with pytest.raises(OSError):
        while time.perf_counter() - began < 3:
            client.sendall(b"GET / HTTP/1.1\r\nX: " if time.perf_counter() - began < 0.1 else b"x")
            time.sleep(0.05)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("sent", [b"\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_the_headers_of_a_later_request_have_no_more_time(client, sent):
    client.sendall(GET)
    answer_of(client)
    client.sendall(sent)
    assert 0.2 < seconds_until_end(client) < 3


def test_a_slow_answer_and_a_slow_body_are_no_slow_headers(client):
    client.sendall(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1")
    time.sleep(0.4)
    client.sendall(b"2")
    assert answer_of(client).endswith(b"2 bytes")
    client.sendall(GET)
    assert answer_of(client).endswith(b"0 bytes")


def test_headers_have_a_size(client):
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000)
    assert until_end(client).startswith(b"HTTP/1.1 400")


def test_many_headers_have_a_size(client):
    with pytest.raises(OSError):
        for _ in range(100_000):
            client.sendall(b"X: y\r\n" if _ else b"GET / HTTP/1.1\r\n")


def test_trailers_have_a_size(client):
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    with pytest.raises(OSError):
        for _ in range(100_000):
            client.sendall(b"X: y\r\n")


@pytest.mark.parametrize("trailer", [b"", b"X-Echo: from a trailer\r\n"])
def test_trailers_are_no_headers(client, trailer):
    client.sendall(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n%s\r\n" % trailer
    )
    assert answer_of(client, b"no echo")
    client.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nX-Echo: 5 bytes\r\n\r\n")
    assert answer_of(client).endswith(b"5 bytes")


def test_a_body_is_not_taken_for_the_next_request(client):
    """A change of protocol ends the request for the parser, and its body would begin the next one."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n")
    assert answer_of(client).startswith(b"HTTP/1.1 200")
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + upgrade + b"Content-Length: %d\r\n\r\n" % len(GET))
    assert answer_of(client, b"}").startswith(b"HTTP/1.1 400")
    with suppress(ConnectionError):
        client.sendall(GET)
    assert received_until_end(client) == 0


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_bodies_may_be_larger_than_headers(client, size):
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    body = chunk * (20_000 // size)
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
    assert answer_of(client).endswith(b"20000 bytes")


def test_an_answer_that_is_not_read_ends(port):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.8)
        assert received_until_end(client) < LARGE


def received_until_end(client: socket.socket) -> int:
    """Number of bytes that come until the server ends or resets the connection."""
    count = 0
    with suppress(ConnectionError):
        while piece := client.recv(65536):
            count += len(piece)
    return count


def test_further_connections_are_refused_and_even_further_ones_ended():
    with listening(app, Few) as port, ExitStack() as opened:

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", port), 5))

        served = [connect() for _ in range(3)]
        for client in served:
            client.sendall(GET)
        assert [answer_of(client)[:12] for client in served] == [b"HTTP/1.1 200"] * 3
        refused = [connect() for _ in range(2)]
        assert received_until_end(connect()) == 0
        refused[0].sendall(GET)
        assert until_end(refused[0]).startswith(b"HTTP/1.1 503")
        for client in (*served, *refused):
            client.close()
        time.sleep(0.05)
        again = connect()
        again.sendall(GET)
        assert answer_of(again).startswith(b"HTTP/1.1 200")
