"""HTTP application: routes from requests to the service, and errors as JSON."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from loupe.errors import ImageError, unknown_name
from loupe.serve.access_log import Observed
from loupe.serve.answers import answer, check_threshold, check_top
from loupe.serve.body import read_images
from loupe.serve.disconnects import unless_gone
from loupe.serve.guard import Access, Guard
from loupe.serve.held import Held
from loupe.serve.refusals import Refusal
from loupe.serve.service import Service

N = TypeVar("N", int, float)

PARAMETERS = ("model", "top", "threshold", "deadline")
LONGEST_DEADLINE = 600.0  # seconds that a request may ask for
GONE = 499  # status of a request whose client went away, as proxies log it


def create_app(service: Service, access: Access, *, more: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Application that serves models.

    Args:
        service: the models.
        access: who may ask.
        more: further routes.
    """
    routes = [Route("/predict", predict, methods=["POST"]), Route("/metrics", metrics), *more]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _wrong_route,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )
    app.state.service = service
    app.state.held = Held(service.limits.held_bytes)
    return Observed(Guard(app, access, partial(service.metrics.refused, "")), service.metrics)


async def predict(request: Request) -> Response:
    """`POST /predict`: classes and calibrated probabilities of the images of a request."""
    service: Service = request.app.state.service
    deadline = deadline_of(request, service.limits.deadline_seconds)
    query = request.query_params
    check_names(request, PARAMETERS)
    model = service.model(query.get("model"))
    request.state.model = model.name
    top = check_top(_number(query.get("top", "1"), "top", int), model)
    threshold = check_threshold(_number(query.get("threshold", str(model.threshold)), "threshold", float), model)
    with request.app.state.held.share() as share:
        uploads = await read_images(request, service.limits, share)
        request.state.images = len(uploads)
        found = await unless_gone(request, service.predict(model, uploads, deadline))
    told = answer(model, [upload.name for upload in uploads], found, top=top, threshold=threshold)
    all_damaged = all(isinstance(one, ImageError) for one in found)
    return Response(told.model_dump_json(by_alias=True), 422 if all_damaged else 200, media_type="application/json")


async def metrics(request: Request) -> Response:
    """`GET /metrics`: counters for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=service.metrics.content_type)


def deadline_of(request: Request, default_seconds: float) -> float:
    """Time of the event loop at which the answer to a request is due.

    Raises:
        Refusal: the request asks for a deadline that is not allowed.
    """
    seconds = _number(request.query_params.get("deadline", str(default_seconds)), "deadline", float)
    return asyncio.get_running_loop().time() + check_deadline(seconds)


def check_deadline(seconds: float) -> float:
    """The seconds in which an answer is due.

    Raises:
        Refusal: they are not allowed.
    """
    if not 0 < seconds <= LONGEST_DEADLINE:
        raise Refusal(400, f"deadline={seconds:g}: give seconds, above 0 and at most {LONGEST_DEADLINE:g}.")
    return seconds


def check_names(request: Request, known: Sequence[str]) -> None:
    """Check the names of the parameters in the address.

    Raises:
        Refusal: one is unknown; a misspelt one would be ignored.
    """
    if unknown := sorted(set(request.query_params) - set(known)):
        raise Refusal(400, str(unknown_name("parameter", unknown[0][:50], known)))


def _number(text: str, name: str, kind: type[N]) -> N:
    try:
        return kind(text)
    except ValueError:
        word = "whole number" if kind is int else "number"
        raise Refusal(400, f"{name}={text[:50]!r} is not a {word}.") from None


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.service.metrics.refused(getattr(request.state, "model", ""), error.reason)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _wrong_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    remedy = f"send {headers['Allow']}" if "Allow" in headers else "the addresses are listed in /openapi.json"
    message = f"{request.method} {request.url.path}: {error.detail.lower()}; {remedy}."
    return JSONResponse({"error": message}, error.status_code, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed. The reason is in its log."}, 500)
