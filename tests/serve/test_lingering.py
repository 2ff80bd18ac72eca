"""Answers before the end of a body: they are whole for the client, and the rest of the body is received for a while."""

import socket
import time

import pytest
from raw_requests import ask, listening, until_end
from starlette.requests import Request
from starlette.responses import JSONResponse

from loupe.serve import lingering
from loupe.serve.limits import MIB
from loupe.serve.lingering import Exchange, has_body

CHUNKED = [("Transfer-Encoding", "chunked")]


def exchanging(app):
    async def exchange(scope, receive, send):
        channels = Exchange(scope, receive, send)
        await app(scope, channels.receive, channels.send)

    return exchange


refused = JSONResponse({"error": "no"}, 413, {"Connection": "keep-alive"})


async def reading(scope, receive, send):
    body = await Request(scope, receive).body()
    await JSONResponse({"bytes": len(body)})(scope, receive, send)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"Content-Length", b"5")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_headers_announce_a_body(headers, expected):
    assert has_body({"headers": headers}) is expected


def test_an_answer_after_the_body_is_left_as_it_is():
    answer = ask(exchanging(reading), "POST", headers=CHUNKED, pieces=[b"abc", b"de"])
    assert answer.body == b'{"bytes":5}'
    assert "connection" not in answer.headers
    assert len(answer.messages) == 2
    assert ask(exchanging(refused)).headers["connection"] == "keep-alive"


def test_an_early_answer_is_whole_before_the_rest_is_dropped():
    pieces = [b"x" * 10] * 5
    answer = ask(exchanging(refused), "POST", headers=CHUNKED, pieces=pieces)
    assert answer.headers["connection"] == "close"
    assert answer.messages[1]["body"] == b'{"error":"no"}'
    assert answer.messages[1]["more_body"] is True
    assert answer.messages[2] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_a_streamed_answer_ends_as_well():
    async def streamed(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    answer = ask(exchanging(streamed), "POST", headers=CHUNKED, pieces=[b"x", b"y", None])
    assert answer.body == b"ab"
    assert [message.get("more_body") for message in answer.messages[1:]] == [True, True, False]


def test_dropping_ends_with_the_bytes(monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_BYTES", 25)
    pieces = [b"x" * 10] * 10
    ask(exchanging(refused), "POST", headers=CHUNKED, pieces=(left := iter(pieces)))
    assert not list(left)


def test_dropping_ends_with_the_seconds(monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.02)
    began = time.perf_counter()
    assert ask(exchanging(refused), "POST", headers=CHUNKED, pieces=[b"x", 5.0, b"x"]).status == 413
    assert time.perf_counter() - began < 1


def test_a_client_that_sends_first_and_reads_later_gets_the_answer():
    """The kernel alone would reset the connection: far more is sent than it buffers."""
    with listening(exchanging(refused)) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))
        for _ in range(16):
            client.sendall(b"x" * MIB)
        head, _, body = until_end(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head
    assert body == b'{"error":"no"}'


def test_a_client_that_waits_for_100_continue_gets_the_answer_instead():
    with listening(exchanging(refused)) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
