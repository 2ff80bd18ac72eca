"""Class activation maps over HTTP. PyTorch is imported with the first explanation of a run, and for exports never."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe.config.recipe import Preprocessing, Resize
from loupe.config.size import Size
from loupe.data.pixels.decode import UInt8Array, in_colour
from loupe.errors import ConfigError, ImageError, LoupeError, RunStateError, unknown_name
from loupe.export.runners import OnnxRuntime
from loupe.serve.answers import probabilities
from loupe.serve.app import check_names, deadline_of
from loupe.serve.body import Upload, read_images
from loupe.serve.disconnects import unless_gone
from loupe.serve.refusals import Refusal
from loupe.serve.served import ExportEngine, ServedModel
from loupe.serve.service import Service

PARAMETERS = ("model", "class", "deadline")
MOST_WAITING = 16  # explanations at a time, of which one is computed
Grid = npt.NDArray[np.float32]
MapOf = Callable[[UInt8Array, int], Grid]
"""Function from the pixels of an image [H, W, C] and a class to the rectified map [h, w] of that class."""


class Sides(BaseModel):
    """Width and height in pixels."""

    width: int
    height: int


class View(BaseModel):
    """Part of an image that the network sees: it is resized to `load`, and of that the centre of `size` is cut."""

    resize: Resize
    load: Sides
    size: Sides


class ExplainAnswer(BaseModel):
    """Answer to `POST /explain`.

    Attributes:
        class_: explained class.
        probability: its calibrated probability.
        map: evidence for the class in a grid over the part of the image that the network sees, in rows from the top,
            divided by its maximum: 0 to 1. Null for a model without maps.
        why: reason for a map that is null.
        preprocessing: tells which part of the image the network sees.
    """

    model: str
    weights: str
    class_: str = Field(alias="class", serialization_alias="class")
    probability: float = Field(ge=0, le=1)
    map: list[list[float]] | None
    why: str | None
    preprocessing: View


def routes() -> list[Route]:
    """Routes of explanations."""
    return [Route("/explain", Explainer().explain, methods=["POST"])]


class Explainer:
    """Explanations, one after the other in a thread, with the networks that they need."""

    def __init__(self) -> None:
        self._maps: dict[str, tuple[ServedModel, MapOf]] = {}
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def explain(self, request: Request) -> Response:
        """`POST /explain?model=&class=`: evidence for a class in one image, by default for the predicted class."""
        service: Service = request.app.state.service
        deadline = deadline_of(request, service.limits.deadline_seconds)
        check_names(request, PARAMETERS)
        model = service.model(request.query_params.get("model"))
        request.state.model = model.name
        target = _target(model, request.query_params.get("class"))
        with request.app.state.held.share() as share:
            upload = _only(await read_images(request, service.limits, share))
            request.state.images = 1
            answer = await unless_gone(request, self._in_time(service, model, upload, target, deadline))
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")

    async def _in_time(
        self, service: Service, model: ServedModel, upload: Upload, target: int | None, deadline: float
    ) -> ExplainAnswer:
        with self._admitted():
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._answer(service, model, upload, target, deadline)
            except TimeoutError:
                raise Refusal(504, "the deadline is over. Ask again with a longer one.") from None

    async def _answer(
        self, service: Service, model: ServedModel, upload: Upload, target: int | None, deadline: float
    ) -> ExplainAnswer:
        try:
            pixels_HWC = await service.decoders.decode(upload.data, upload.name, model.settings)
        except ImageError as error:
            raise Refusal(422, error.reason) from None
        [logits_K] = await service.predict_pixels(model, [pixels_HWC], deadline)
        chosen = int(logits_K.argmax()) if target is None else target
        grid, why = None, None
        try:
            grid = await self._in_turn(partial(self._map, model, pixels_HWC, chosen))
        except RunStateError:  # its words name folders of the server
            why = "the files of this model cannot be read any more."
        except LoupeError as error:
            why = str(error)
        return ExplainAnswer.model_validate(
            {
                "model": model.name,
                "weights": model.weights,
                "class": model.classes[chosen],
                "probability": float(probabilities(logits_K, model.temperature)[chosen]),
                "map": None if grid is None else _scaled(grid),
                "why": why,
                "preprocessing": _view(model.preprocessing),
            }
        )

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._waiting >= MOST_WAITING:
            raise Refusal(429, f"{MOST_WAITING} explanations wait already. Ask again later.", {"Retry-After": "1"})
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _in_turn(self, work: Callable[[], Grid]) -> Grid:
        """Result of work in a thread, after all before it; work that is given up keeps its turn until it is done."""
        await self._turn.acquire()
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(task)

    def _map(self, model: ServedModel, pixels_HWC: UInt8Array, target: int) -> Grid:
        kept = self._maps.get(model.name)
        if kept is None or kept[0] is not model:
            kept = self._maps[model.name] = model, _map_of(model)
        return kept[1](pixels_HWC, target)


def _map_of(model: ServedModel) -> MapOf:
    """Function that computes the maps of a model.

    Raises:
        LoupeError: it has none.
    """
    if not isinstance(model.engine, ExportEngine):
        return _of_network(model)
    runner = model.engine.runner
    if not isinstance(runner, OnnxRuntime) or not runner.has_maps:
        raise ConfigError("this export has no class activation maps. Serve the run, or its export to `web`.")
    return partial(_of_export, runner)


def _of_export(runner: OnnxRuntime, pixels_HWC: UInt8Array, target: int) -> Grid:
    grid: Grid = np.maximum(runner.maps(in_colour(pixels_HWC[None]))[0, target], 0)
    return grid


def _of_network(model: ServedModel) -> MapOf:
    """Function that computes the maps of a run, in PyTorch on the CPU."""
    try:
        import torch  # imported lazily: what serves a run may need no PyTorch
    except ImportError:
        raise LoupeError("evidence needs PyTorch, which is not installed here.") from None

    from loupe.augment.pipeline import evaluation_view
    from loupe.explain.cam import coarse_maps
    from loupe.explain.feature_maps import choose_layer
    from loupe.runs.predictor import Predictor

    opened = Predictor(model.folder, device="cpu")
    if opened.config.weights_blake2b != model.weights:
        raise Refusal(503, "the model is being replaced. Ask again.", {"Retry-After": "2"})
    network = opened.model
    layer = choose_layer(network)

    def of(pixels_HWC: UInt8Array, target: int) -> Grid:
        x_1CHW = evaluation_view(torch.from_numpy(pixels_HWC[None].copy()).permute(0, 3, 1, 2), network.preprocessing)
        grid: Grid = coarse_maps(network, x_1CHW, torch.tensor([target]), layer)[0].numpy()
        return grid

    return of


def _scaled(grid: Grid) -> list[list[float]]:
    peak = float(grid.max())
    scaled: list[list[float]] = np.round(grid.astype(np.float64) / (peak if peak > 0 else 1.0), 4).tolist()
    return scaled


def _target(model: ServedModel, name: str | None) -> int | None:
    if name is None:
        return None
    if name not in model.classes:
        raise Refusal(404, str(unknown_name("class", name, model.classes)))
    return model.classes.index(name)


def _only(uploads: Sequence[Upload]) -> Upload:
    if len(uploads) != 1:
        raise Refusal(400, f"{len(uploads)} images were sent. Send one to explain.")
    return uploads[0]


def _view(preprocessing: Preprocessing) -> View:
    return View(resize=preprocessing.resize, load=_sides(preprocessing.load_size), size=_sides(preprocessing.size))


def _sides(size: Size) -> Sides:
    return Sides(width=size.width_px, height=size.height_px)
