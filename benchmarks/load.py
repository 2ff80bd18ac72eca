"""Load on a server over HTTP/1.1, by kept-alive connections of one process: closed loop, and open loop at a rate.

Requests are bytes that were made before. In a closed loop each connection asks again once it has its answer. In an open
loop requests have planned times, whatever the server does, and latency counts from the planned time: a request that had
to wait for a connection, or was sent late, has waited. The processor time of this process is measured with each load.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httptools
import numpy as np

HOST = "127.0.0.1"
BOUNDARY = "loupe-serving-benchmark"
NO_ANSWER = 0
SETTLE_SECONDS = 60.0  # to wait for the last answers of a load
OPENED = 32  # connections that are opened ahead of a load


@dataclass(frozen=True)
class Answer:
    """Answer to one request; times in seconds since the load began.

    Attributes:
        planned: time at which the request was due.
        sent: time at which its first byte was written.
        done: time at which its answer was whole.
        status: HTTP status, or 0 for a connection that ended without an answer.
        body: content of the answer.
    """

    planned: float
    sent: float
    done: float
    status: int
    body: bytes = field(repr=False)

    @property
    def latency(self) -> float:
        return self.done - self.planned

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Load:
    """Answers of one load, in the order of their completion, its duration and the processor time of its sender."""

    answers: list[Answer]
    seconds: float
    sender_processor_seconds: float

    def of_status(self, *status: int) -> list[Answer]:
        return [answer for answer in self.answers if answer.status in status]

    @property
    def refused(self) -> list[Answer]:
        return self.of_status(429, 503)

    @property
    def per_second(self) -> float:
        """Answers of status 200 per second of the load."""
        return len(self.of_status(200)) / self.seconds

    def latency_ms(self, percent: float, status: int = 200) -> float:
        """Percentile of the latency of the answers of a status, in milliseconds; NaN for none."""
        return percentile_ms(self.of_status(status), percent)

    @property
    def sender_share(self) -> float:
        """Share of one core that the sender took."""
        return self.sender_processor_seconds / self.seconds


def percentile_ms(answers: Sequence[Answer], percent: float) -> float:
    """Percentile of the latency in milliseconds, by the nearest rank above; NaN for no answers."""
    if not answers:
        return float("nan")
    return 1e3 * float(np.percentile([answer.latency for answer in answers], percent, method="higher"))


class Connection(asyncio.Protocol):
    """Kept-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 where the connection ended before it was whole."""
        if self._transport is None or self._transport.is_closing():
            return NO_ANSWER, b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(NO_ANSWER)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue comes before the answer
            return
        keep = self._parser.should_keep_alive()
        self._finish(status)
        if not keep:
            self.close()

    def _finish(self, status: int) -> None:
        body, self._body = b"".join(self._body), []
        if self._answer and not self._answer.done():
            self._answer.set_result((status, body))


class Connections:
    """Bounded number of connections to a port of this machine, opened as they are needed."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._free = asyncio.Semaphore(most)
        self._idle: list[Connection] = []

    async def ask(self, request: bytes, planned: float, began: float) -> Answer:
        """Answer by the next free connection."""
        now = asyncio.get_running_loop().time
        async with self._free:
            connection = await self._take()
            sent = now() - began
            status, body = await connection.ask(request) if connection else (NO_ANSWER, b"")
            done = now() - began
            if connection and connection.is_open:
                self._idle.append(connection)
        return Answer(planned, sent, done, status, body)

    async def open(self, number: int) -> None:
        """Open so many connections ahead of their use."""
        opened = await asyncio.gather(*(self._opened() for _ in range(number)))
        self._idle += [connection for connection in opened if connection]

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _take(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return await self._opened()

    async def _opened(self) -> Connection | None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, self._port)
        except OSError:
            return None
        return connection


def closed_loop(port: int, requests: Iterable[bytes], connections: int, seconds: float | None = None) -> Load:
    """Each of so many connections asks its next request once it has an answer, until all requests or the time are over.

    A load of a limited time begins no request after it, and waits for the answers to those that began.
    """

    async def ask_all(pool: Connections, began: float) -> list[Answer]:
        left, now = iter(requests), asyncio.get_running_loop().time
        answers: list[Answer] = []

        async def ask_next() -> None:
            for request in left:
                planned = now() - began
                if seconds is not None and planned >= seconds:
                    return
                answers.append(await pool.ask(request, planned, began))

        await asyncio.gather(*(ask_next() for _ in range(connections)))
        return answers

    return asyncio.run(_measured(port, connections, ask_all))


def open_loop(port: int, requests: Iterable[bytes], times: Sequence[float], connections: int) -> Load:
    """One request at each planned time, in seconds from the start, by at most so many connections."""

    async def ask_all(pool: Connections, began: float) -> list[Answer]:
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Task[Answer]] = []
        for planned, request in zip(times, requests, strict=False):
            if (wait := began + planned - loop.time()) > 0:
                await asyncio.sleep(wait)
            asked.append(loop.create_task(pool.ask(request, planned, began)))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), SETTLE_SECONDS)
        ended = loop.time() - began
        return [
            task.result() if not task.cancelled() else Answer(planned, ended, ended, NO_ANSWER, b"")
            for task, planned in zip(asked, times, strict=False)
        ]

    return asyncio.run(_measured(port, connections, ask_all))


async def _measured(
    port: int, connections: int, ask_all: Callable[[Connections, float], Awaitable[list[Answer]]]
) -> Load:
    pool = Connections(port, connections)
    await pool.open(min(connections, OPENED))
    processor, began = time.process_time(), asyncio.get_running_loop().time()
    answers = await ask_all(pool, began)
    seconds = asyncio.get_running_loop().time() - began
    used = time.process_time() - processor
    pool.close()
    await asyncio.sleep(0)  # connections end in the next turn of the loop
    return Load(answers, seconds, used)


def constant(per_second: float, seconds: float, start: float = 0.0) -> list[float]:
    """Planned times at equal distances."""
    return (start + np.arange(max(1, round(per_second * seconds))) / per_second).tolist()


def poisson(per_second: float, seconds: float, seed: int = 0) -> list[float]:
    """Planned times of a Poisson process: independent arrivals, as those of many users."""
    random = np.random.default_rng(seed)
    distances = random.exponential(1 / per_second, max(1, round(per_second * seconds)))
    return np.cumsum(distances).tolist()


def upload(data: bytes, name: str, target: str, field_name: str = "file", headers: Sequence[str] = ()) -> bytes:
    """Request that uploads one image as multipart form data."""
    disposition = f'Content-Disposition: form-data; name="{field_name}"; filename="{name}"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    body = head + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = [
        f"POST {target} HTTP/1.1",
        f"Host: {HOST}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
