"""Connections of the server: those that send no request, or read no answer, are ended, and their number is limited.

uvicorn's timers begin with the first request of a connection, and it has no limit for the size of headers.
"""

from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, ClassVar, cast

from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loupe.serve.lingering import has_body


class Connections(HttpToolsProtocol):
    """Protocol of uvicorn (`Config(http=Connections)`) whose connections no client can keep without using them.

    Attributes:
        header_seconds: time from the start of the connection, or from the first byte of a later request, in which
            the headers have to arrive; then the connection is closed.
        read_seconds: time for which a client may leave an answer unread; then the connection is aborted.
        header_bytes: size of headers, of trailers and of whatever else is no body; beyond it, the request is refused.
        most: number of connections that are served; requests of further ones are answered 503.
        most_refused: number of connections beyond `most`; further ones are aborted.
    """

    header_seconds: ClassVar[float] = 10.0
    read_seconds: ClassVar[float] = 30.0
    header_bytes: ClassVar[int] = 64 * 1024
    most: ClassVar[int] = 512
    most_refused: ClassVar[int] = 64

    _header_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
    _bytes_outside_body = 0
    _has_headers = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        if len(self.connections) > self.most + self.most_refused:
            self.transport.abort()
            return
        if len(self.connections) > self.most:
            self.app = _refusing(503, f"the server has {self.most} connections already. Try again later.")
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_arrived()
        self._answer_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_outside_body += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        is_waiting = self.cycle is None or self.cycle.response_complete
        if self._bytes_outside_body > self.header_bytes:
            if is_waiting:
                self.send_400_response(f"Headers of more than {self.header_bytes // 1024} KiB.")
            else:
                self.transport.abort()
        elif is_waiting:
            self._await_headers()

    def on_message_begin(self) -> None:
        self._has_headers = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_headers:  # trailers would pass for headers, behind a proxy that has checked those
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_headers = True
        self._headers_arrived()
        self._bytes_outside_body = 0
        served = self.app
        if self.parser.should_upgrade() and has_body({"headers": self.headers}):
            # The parser would take the body for the next request.
            self.app = _refusing(400, "a request with a body cannot change the protocol. Leave out the header Upgrade.")
        super().on_headers_complete()
        self.app = served

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_outside_body = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._answer_read()
        super().resume_writing()

    def _await_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _headers_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _answer_read(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


def _refusing(status: int, message: str) -> Any:
    """ASGI application that answers with an error and ends the connection; typed as uvicorn's or as Starlette's."""
    headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
    return JSONResponse({"error": message}, status, headers)
