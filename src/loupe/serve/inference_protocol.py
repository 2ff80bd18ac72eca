"""Open Inference Protocol, version 2, as KServe and Triton speak it: health, metadata and inference over HTTP.

The protocol has no answer for a part of a request: one damaged image refuses all of it, with 400 and its index. `POST
/predict` answers for the others.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import numpy as np
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe import __version__
from loupe.errors import ImageError
from loupe.evaluate.unclassified import UNCLASSIFIED
from loupe.models.pixel_engine import Array
from loupe.serve.answers import check_threshold, probabilities
from loupe.serve.app import check_deadline
from loupe.serve.body import Upload, read_body
from loupe.serve.disconnects import unless_gone
from loupe.serve.inference_messages import (
    Live,
    ModelList,
    ModelMetadata,
    ModelParameters,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from loupe.serve.inference_tensors import (
    DATATYPES,
    HEADER_LENGTH,
    VERSION,
    Inputs,
    check_pixels_allowed,
    prepare,
    read_request,
    write_response,
)
from loupe.serve.refusals import Refusal
from loupe.serve.served import ServedModel
from loupe.serve.service import Service

SMALL_BYTES = 2**16  # of a body that is read at once, without a thread
ANY_SIZE = -1


def routes(service: Service) -> list[Route]:
    """Routes of the protocol, each also for the only version of a model."""
    protocol = InferenceProtocol(service)
    found = [
        Route("/v2", protocol.server),
        Route("/v2/health/live", protocol.live),
        Route("/v2/health/ready", protocol.ready),
        Route("/v2/models", protocol.models),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            Route(model, protocol.model),
            Route(f"{model}/ready", protocol.model_ready),
            Route(f"{model}/infer", protocol.infer, methods=["POST"]),
        ]
    return found


class InferenceProtocol:
    """Endpoints of the protocol for the models of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reading = asyncio.Lock()  # parsing takes memory and holds the interpreter

    async def server(self, request: Request) -> Response:
        """`GET /v2`: name, version and extensions of the server."""
        return _json(ServerMetadata(name="loupe", version=__version__, extensions=["binary_tensor_data"]))

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`: the server answers."""
        return _json(Live(live=True))

    async def ready(self, request: Request) -> Response:
        """`GET /v2/health/ready`: 200 while the server takes requests, 503 while it ends."""
        return _json(Ready(ready=self._service.ready), self._status)

    async def models(self, request: Request) -> Response:
        """`GET /v2/models`: metadata of all models."""
        return _json(ModelList(models=[metadata(model) for model in self._service.models.values()]))

    async def model(self, request: Request) -> Response:
        """`GET /v2/models/M`: metadata of a model."""
        return _json(metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        """`GET /v2/models/M/ready`: 200 while the model takes requests, 503 while the server ends."""
        return _json(ModelReady(name=self._model(request).name, ready=self._service.ready), self._status)

    async def infer(self, request: Request) -> Response:
        """`POST /v2/models/M/infer`: probabilities and labels of the images of a request."""
        began = asyncio.get_running_loop().time()
        service, model = self._service, self._model(request)
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refusal(415, f"Content-Encoding: {encoding[:50]!r} is not read here. Send the body as it is.")
        with request.app.state.held.share() as share:
            # The body is named nowhere here, so that it is given up once the images have been taken from it.
            work = self._answer(request, model, began, await read_body(request, service.limits, share))
            return await unless_gone(request, work)

    async def _answer(self, request: Request, model: ServedModel, began: float, body: bytes) -> Response:
        limits = self._service.limits
        try:
            async with asyncio.timeout_at(began + limits.deadline_seconds):
                inputs = await self._read(body, request.headers.get(HEADER_LENGTH))
        except TimeoutError:
            raise Refusal(504, "the deadline is over before the request was read. Ask again later.") from None
        del body
        deadline = began + check_deadline(inputs.deadline_seconds or limits.deadline_seconds)
        threshold = check_threshold(model.threshold if inputs.threshold is None else inputs.threshold, model)
        logits_NK = await self._logits(request, model, inputs, deadline)
        answer, headers = respond(model, inputs, logits_NK, threshold)
        return Response(answer, headers=headers)

    async def _read(self, body: bytes, header_length: str | None) -> Inputs:
        if len(body) <= SMALL_BYTES:
            return read_request(body, header_length, self._service.limits)
        async with self._reading:
            return await run_in_threadpool(read_request, body, header_length, self._service.limits)

    async def _logits(self, request: Request, model: ServedModel, inputs: Inputs, deadline: float) -> Array:
        if inputs.pixels is not None:
            request.state.images = len(inputs.pixels)
            check_pixels_allowed(model.settings)
            prepared = await run_in_threadpool(prepare, inputs.pixels, model.settings)
            return np.stack(await self._service.predict_pixels(model, prepared, deadline))
        uploads = [Upload(f"image[{index}]", data) for index, data in enumerate(inputs.images or [])]
        request.state.images = len(uploads)
        return np.stack(intact(await self._service.predict(model, uploads, deadline)))

    def _model(self, request: Request) -> ServedModel:
        """Model of a request.

        Raises:
            Refusal: there is none of the name, or not of the version.
        """
        model = self._service.model(request.path_params["model"])
        request.state.model = model.name
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise Refusal(404, f"unknown version {version[:50]!r} of {model.name}. Its only one is {VERSION}.")
        return model

    @property
    def _status(self) -> HTTPStatus:
        return HTTPStatus.OK if self._service.ready else HTTPStatus.SERVICE_UNAVAILABLE


def metadata(model: ServedModel) -> ModelMetadata:
    """Metadata of a model."""
    classes = len(model.classes)
    shapes = {"image": [ANY_SIZE], "probabilities": [ANY_SIZE, classes], "label": [ANY_SIZE]}
    takes_pixels = model.preprocessing.range is None
    if takes_pixels:
        shapes["pixels"] = [ANY_SIZE, ANY_SIZE, ANY_SIZE, 3]
    tensors = {name: TensorMetadata(name=name, datatype=DATATYPES[name], shape=shape) for name, shape in shapes.items()}
    return ModelMetadata(
        name=model.name,
        versions=[VERSION],
        platform="loupe_export" if model.is_export else "loupe_bundle",
        inputs=[tensors[name] for name in ("image", "pixels") if name in tensors],
        outputs=[tensors[name] for name in ("probabilities", "label")],
        parameters=ModelParameters(
            classes=list(model.classes),
            temperature=model.temperature,
            threshold=model.threshold,
            weights=model.weights,
            engine=model.engine.name,
        ),
    )


def intact(found: Sequence[Array | ImageError]) -> list[Array]:
    """Logits of the images of a request.

    Raises:
        Refusal: an image is damaged.
    """
    for one in found:
        if isinstance(one, ImageError):
            raise Refusal(
                400, f"{one}. A request of this protocol is answered as a whole; /predict answers the others."
            )
    return [one for one in found if not isinstance(one, ImageError)]


def respond(model: ServedModel, inputs: Inputs, logits_NK: Array, threshold: float) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer to a request."""
    probability_NK = probabilities(logits_NK, model.temperature)
    labels = [
        model.classes[best] if probability_K[best] >= threshold else UNCLASSIFIED
        for best, probability_K in zip(logits_NK.argmax(axis=1), probability_NK, strict=True)
    ]
    return write_response(model.name, inputs, probability_NK, labels)


def _json(message: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(message.model_dump_json(), status, media_type="application/json")
