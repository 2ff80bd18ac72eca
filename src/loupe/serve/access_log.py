"""Structured log of the server: one line of JSON for each event, without anything of the images but their number."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.serve.metrics import Metrics

LOGGER = logging.getLogger("loupe.serve")
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


def log_to_stderr(*, requests: bool) -> None:
    """Send the log of the server and of uvicorn to standard error.

    Args:
        requests: also log every request.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("loupe.serve", logging.INFO if requests else logging.WARNING), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


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
        began, status = time.perf_counter(), NO_ANSWER

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, observed)
        except Exception:
            LOGGER.exception("failed", extra={"fields": {"route": _route(scope)}})
        finally:
            seconds = time.perf_counter() - began
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
