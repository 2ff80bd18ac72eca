"""Description of the server as an OpenAPI 3.1 document, with examples that its first model has answered."""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe import __version__
from loupe.serve.answers import ErrorAnswer, PredictAnswer
from loupe.serve.app import LONGEST_DEADLINE
from loupe.serve.evidence import ExplainAnswer
from loupe.serve.inference_messages import (
    InferenceRequest,
    InferenceResponse,
    Live,
    ModelList,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from loupe.serve.inference_tensors import HEADER_LENGTH, VERSION
from loupe.serve.openapi_examples import Examples, examples
from loupe.serve.service import Service

Plain = dict[str, Any]

ASKED = (InferenceRequest,)
ANSWERED = (
    PredictAnswer,
    ExplainAnswer,
    ErrorAnswer,
    InferenceResponse,
    ServerMetadata,
    Live,
    Ready,
    ModelList,
    ModelMetadata,
    ModelReady,
)
ERRORS = {
    400: "The request is wrong: a parameter, the body, an input or the Host header.",
    401: "The server asks for a token.",
    403: "The Host or the Origin is not allowed.",
    404: "There is no such model, version or class.",
    408: "The body did not arrive in time.",
    413: "The request is too large, or has too many images.",
    415: "The type or the encoding of the body is not read here.",
    422: "The image cannot be read.",
    429: "Too many images wait, or too much is held in memory.",
    503: "The server ends, or replaces the model.",
    504: "The deadline is over.",
}
GUARDED = (400, 401, 403)
OF_IMAGES = (*GUARDED, 404, 408, 413, 415, 429, 504)
BINARY: Plain = {"type": "string", "format": "binary"}


def routes(service: Service) -> list[Route]:
    """Route of the description."""
    return [Route("/openapi.json", Description(service).answer)]


class Description:
    """Endpoint that describes the server, computed again once a model has been replaced."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._described: tuple[Sequence[object], bytes] | None = None

    async def answer(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        service = self._service
        models = list(service.models.values())
        if self._described is None or self._described[0] != models:
            due = asyncio.get_running_loop().time() + service.limits.deadline_seconds
            described = document(list(service.models), await examples(service, due))
            self._described = models, json.dumps(described).encode()
        return Response(self._described[1], media_type="application/json")


def document(models: Sequence[str], shown: Examples) -> Plain:
    """OpenAPI document of a server with these models."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in ASKED] + [(model, "serialization") for model in ANSWERED],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loupe",
            "version": __version__,
            "summary": "Image classifiers over HTTP.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "tags": [
            {"name": "images", "description": "Predictions and explanations of image files."},
            {"name": "inference protocol", "description": "Open Inference Protocol, version 2."},
            {"name": "server", "description": "Page, metrics and this description."},
        ],
        "paths": {**_images(models, shown), **_protocol(models, shown), **_server()},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Where the server was given a token."}
            },
        },
    }


def _images(models: Sequence[str], shown: Examples) -> Plain:
    query = [
        _parameter("model", {"type": "string", "enum": list(models)}, "Model; by default the first."),
        _parameter(
            "deadline",
            {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_DEADLINE},
            "Seconds in which the answer is due.",
        ),
    ]
    top = _parameter("top", {"type": "integer", "minimum": 1}, "Classes to list, best first. Default: 1.")
    threshold = _parameter(
        "threshold",
        {"type": "number", "minimum": 0, "maximum": 1},
        "Probability below which an image is `unclassified`. Default: the model's.",
    )
    target = _parameter("class", {"type": "string"}, "Class to explain; by default the predicted one.")
    predicted = {"intact": {"value": shown.predicted}}
    damaged = {"damaged": {"value": shown.predicted_damaged}}
    return {
        "/predict": {
            "post": {
                **_operation("predict", "images", "Classes and calibrated probabilities of images"),
                "description": "Damaged images have an error in their place, beside the answers for the others.",
                "parameters": [*query, top, threshold],
                "requestBody": _image_body(shown, several=True),
                "responses": {
                    "200": _json("Answers in the order of the images.", "PredictAnswer", predicted),
                    **_errors(*OF_IMAGES),
                    "422": _json("No image of the request can be read.", "PredictAnswer", damaged),
                },
            }
        },
        "/explain": {
            "post": {
                **_operation("explain", "images", "Class activation map of an image"),
                "parameters": [*query, target],
                "requestBody": _image_body(shown, several=False),
                "responses": {
                    "200": _json("The map, or null and the reason why there is none.", "ExplainAnswer"),
                    **_errors(*OF_IMAGES, 422, 503),
                },
            }
        },
    }


def _protocol(models: Sequence[str], shown: Examples) -> Plain:
    tag = "inference protocol"

    def get(name: str, summary: str, schema: str, *statuses: int, **example: Any) -> Plain:
        described = {name: {"value": example["example"]}} if example else None
        answers = {"200": _json(f"{summary}.", schema, described), **_errors(*statuses)}
        return {"get": {**_operation(name, tag, summary), "responses": answers}}

    ready = get("ready", "Readiness of the server", "Ready", 400, 403)
    ready["get"]["responses"]["503"] = _json("The server ends.", "Ready")
    paths = {
        "/v2": get("server", "Name, version and extensions", "ServerMetadata", *GUARDED),
        "/v2/health/live": get("live", "Life of the server", "Live", 400, 403),
        "/v2/health/ready": ready,
        "/v2/models": get("models", "Models that are served", "ModelList", *GUARDED),
    }
    for health in ("/v2/health/live", "/v2/health/ready"):
        paths[health]["get"]["security"] = []
    named = [_parameter("model", {"type": "string", "enum": list(models)}, "Name of the model.", place="path")]
    version = _parameter("version", {"type": "string", "const": VERSION}, "The only version.", place="path")
    for suffix, parameters, mark in (("", named, ""), ("/versions/{version}", [*named, version], "_version")):
        path = "/v2/models/{model}" + suffix
        one = get(f"model{mark}", "Metadata of a model", "ModelMetadata", *GUARDED, 404, example=shown.described)
        one_ready = get(f"model_ready{mark}", "Readiness of a model", "ModelReady", *GUARDED, 404)
        one_ready["get"]["responses"]["503"] = _json("The server ends.", "ModelReady")
        paths[path] = {**one, "parameters": parameters}
        paths[f"{path}/ready"] = {**one_ready, "parameters": parameters}
        paths[f"{path}/infer"] = {"post": _infer(f"infer{mark}", shown), "parameters": parameters}
    return paths


def _infer(name: str, shown: Examples) -> Plain:
    answered = _json("The outputs.", "InferenceResponse", {"digit": {"value": shown.inferred}})
    answered["content"]["application/octet-stream"] = {"schema": BINARY}
    length = {"type": "string", "pattern": "^[0-9]{1,19}$"}
    answered["headers"] = {HEADER_LENGTH: {"schema": length, "description": "Length of the JSON, before tensors."}}
    request = {"schema": _reference("InferenceRequest"), "examples": {"digit": {"value": shown.asked}}}
    return {
        **_operation(name, "inference protocol", "Probabilities and labels of images"),
        "description": "One damaged image refuses the whole request.",
        "parameters": [_parameter(HEADER_LENGTH, length, "Length of the JSON, before binary tensors.", place="header")],
        "requestBody": {
            "required": True,
            "content": {"application/json": request, "application/octet-stream": {"schema": BINARY}},
        },
        "responses": {"200": answered, **_errors(*OF_IMAGES)},
    }


def _server() -> Plain:
    def get(name: str, summary: str, media_type: str, schema: Plain, *statuses: int) -> Plain:
        answer = {"description": f"{summary}.", "content": {media_type: {"schema": schema}}}
        return {"get": {**_operation(name, "server", summary), "responses": {"200": answer, **_errors(*statuses)}}}

    text: Plain = {"type": "string"}
    page = get("page", "Page to try the server", "text/html", text, 400, 403)
    page["get"]["security"] = []
    return {
        "/": page,
        "/metrics": get("metrics", "Metrics for Prometheus", "text/plain", text, *GUARDED),
        "/openapi.json": get("openapi", "This description", "application/json", {"type": "object"}, *GUARDED, 429, 504),
    }


def _operation(name: str, tag: str, summary: str) -> Plain:
    return {"operationId": name, "tags": [tag], "summary": summary}


def _parameter(name: str, schema: Plain, description: str, place: str = "query") -> Plain:
    return {"name": name, "in": place, "schema": schema, "description": description, "required": place == "path"}


def _image_body(shown: Examples, *, several: bool) -> Plain:
    files: Plain = {"type": "array", "items": BINARY, "minItems": 1} if several else BINARY
    address = "data:image/png;base64," + base64.b64encode(shown.image).decode()
    return {
        "required": True,
        "description": "Image files in parts of any name, or one image as the body.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": files}, "required": ["image"]}
            },
            "image/*": {"schema": BINARY, "examples": {"digit": {"externalValue": address}}},
            "application/octet-stream": {"schema": BINARY},
        },
    }


def _json(description: str, schema: str, shown: Mapping[str, Any] | None = None) -> Plain:
    content: Plain = {"schema": _reference(schema), **({"examples": dict(shown)} if shown else {})}
    return {"description": description, "content": {"application/json": content}}


def _errors(*statuses: int) -> Plain:
    answers = {str(status): _json(ERRORS[status], "ErrorAnswer") for status in statuses}
    if "429" in answers:
        wait = {"schema": {"type": "string"}, "description": "Seconds after which to try again."}
        answers["429"]["headers"] = {"Retry-After": wait}
    return answers


def _reference(schema: str) -> Plain:
    return {"$ref": f"#/components/schemas/{schema}"}
