"""Answers that come before the body of a request has arrived, and that reach a client that is still sending.

A connection that is closed with unread bytes is reset, and a client that is reset while it sends may never read the
answer. So the whole answer is sent, the rest of the body is received and dropped for a while, and only then does the
connection end ("lingering close").
"""

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from loupe.serve.limits import MIB

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * MIB


def has_body(scope: Scope) -> bool:
    """True if the headers of a request announce a body."""
    headers = {name.lower(): value.strip() for name, value in scope["headers"]}
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


class Exchange:
    """Request and its answer: `receive` and `send` stand for those of the server.

    An answer that starts before the last byte of the body was received ends the connection, after at most
    `LINGER_SECONDS` or `LINGER_BYTES` of the rest.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_pending = has_body(scope)
        self._is_early = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_pending = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_pending:
            self._is_early = True
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"connection"]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (is_last and self._is_early):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})  # with its Content-Length the answer is whole for the client
        await self._drop_rest()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop_rest(self) -> None:
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._is_pending and dropped < LINGER_BYTES:
                    dropped += len((await self.receive()).get("body", b""))
