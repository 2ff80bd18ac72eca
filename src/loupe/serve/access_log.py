"""Structured log of the server: one line of JSON for each event, without anything of the images but their number."""

import asyncio
import json
import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.serve.metrics import Metrics

LOGGER = logging.getLogger("loupe.serve")
MOST_WAITING = 10_000  # lines that wait to be written; others are lost
END_SECONDS = 1.0  # in which the last lines are written
NO_ANSWER = 499  # the client went away before there was one


class JsonLines(logging.Formatter):
    """Records as lines of JSON: time, level, event, and the fields in `record.fields`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Waiting(logging.handlers.QueueHandler):
    """Handler that formats records and leaves writing to a thread: a log that nobody reads must not stop the server."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


@contextmanager
def log_to_stderr(*, requests: bool) -> Iterator[None]:
    """Context in which the log of the server and errors of uvicorn go to standard error.

    Args:
        requests: also log every request.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
    writer = logging.handlers.QueueListener(lines, logging.StreamHandler(sys.stderr))
    handler = _Waiting(lines)
    handler.setFormatter(JsonLines())
    for name, level in (("loupe.serve", logging.INFO if requests else logging.WARNING), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    writer.start()
    try:
        yield
    finally:
        ended = time.monotonic() + END_SECONDS
        while not lines.empty() and time.monotonic() < ended:
            time.sleep(0.01)
        if lines.empty():
            writer.stop()


def log(level: int, event: str, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields})


class Observed:
    """Outermost layer of the application: counts, times and logs every request.

    The path is logged as the route, since paths hold whatever a client sends.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, answered = time.perf_counter(), NO_ANSWER, 0.0

        async def observed(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.perf_counter()
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:  # by the end of the server
            if status != NO_ANSWER:
                raise
            await JSONResponse({"error": "the server ends. Send the request again."}, 503)(scope, receive, observed)
        except Exception:
            LOGGER.exception("failed", extra={"fields": {"route": _route(scope)}})
        finally:
            seconds = (answered or time.perf_counter()) - began
            model, route = state.get("model", ""), _route(scope)
            self._metrics.request(model, route, status, seconds)
            log(
                logging.INFO,
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1000 * seconds, 1),
                **({"model": model} if model else {}),
                **({"images": state["images"]} if "images" in state else {}),
                client=(scope.get("client") or ("",))[0],
            )


def _route(scope: Scope) -> str:
    """Pattern of the route that a request took."""
    route = scope.get("route")
    return getattr(route, "path", "") or "other"
