"""Requests to an ASGI application message by message, with headers as they are, and uvicorn in a thread."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from loupe.serve.connections import Connections


@dataclass
class Raw:
    """Messages that an application sent, and the answer in them."""

    messages: list[dict[str, Any]]

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.decode().lower(), value.decode()) for name, value in self.messages[0]["headers"]]
        assert len(dict(pairs)) == len(pairs), f"a header twice in {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


def ask(
    app: Any,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    pieces: Iterable[bytes | float | None] = (b"",),
) -> Raw:
    """Answer of an application to a request whose body comes in pieces.

    A number waits so many seconds, None goes away, and after the last piece nothing more comes.
    """
    return asyncio.run(asked(app, method, path, headers, pieces))


async def asked(
    app: Any,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    pieces: Iterable[bytes | float | None] = (b"",),
) -> Raw:
    left, sent = list(pieces), []

    async def receive() -> dict[str, Any]:
        while left and isinstance(left[0], float | int):
            await asyncio.sleep(left.pop(0))
        if not left or left[0] is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    await app(scope, receive, send)
    return Raw(sent)


@contextmanager
def listening(app: Any, protocol: type[Connections] = Connections) -> Iterator[int]:
    """Context with the port of uvicorn that serves an application in a thread."""
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until_end(connection: socket.socket) -> bytes:
    """Everything that comes until the server ends the connection."""
    received = bytearray()
    while piece := connection.recv(65536):
        received += piece
    return bytes(received)
