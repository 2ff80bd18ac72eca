"""Service of several models: from uploaded images to logits, without any HTTP."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loupe.data.pixels.decode import UInt8Array
from loupe.errors import ImageError, unknown_name
from loupe.models.pixel_engine import Array
from loupe.serve.batcher import Batcher
from loupe.serve.body import Upload
from loupe.serve.decoders import Decoders
from loupe.serve.limits import Limits
from loupe.serve.metrics import Metrics
from loupe.serve.refusals import Refusal
from loupe.serve.served import ServedModel

T = TypeVar("T")


@dataclass
class Service:
    """Models that are served, with what decodes images for them.

    Attributes:
        models: by name, in the order in which they were named; the first is the default.
        decoders: decode images.
        ready: false while the server ends.
    """

    models: dict[str, ServedModel]
    decoders: Decoders
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    ready: bool = True
    _batchers: dict[ServedModel, Batcher] = field(default_factory=dict)

    def model(self, name: str | None) -> ServedModel:
        """Model of a name; the first one without.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refusal(404, str(unknown_name("model", name, self.models)))
        return self.models[name]

    async def predict(self, model: ServedModel, uploads: Sequence[Upload], deadline: float) -> list[Array | ImageError]:
        """Logits, float32 [K], of each image, or its damage, in order.

        Args:
            model: one of `models`, or one that was replaced in the meantime.
            uploads: image files.
            deadline: time of the event loop at which the answer is due.

        Raises:
            Refusal: too many images wait, or the time is over.
        """
        batcher = self._batcher(model)

        async def one(upload: Upload) -> Array | ImageError:
            try:
                pixels_HWC = await self.decoders.decode(upload.data, upload.name, model.settings)
            except ImageError as error:
                return error
            return await batcher.logits(pixels_HWC)

        with self._released(model), batcher.admit(len(uploads), deadline):
            answers = await self._in_time([one(upload) for upload in uploads], deadline)
        damaged = sum(isinstance(answer, ImageError) for answer in answers)
        self.metrics.damaged(model.name, damaged)
        self.metrics.answered(model.name, len(answers) - damaged)
        return answers

    async def predict_pixels(self, model: ServedModel, images: Sequence[UInt8Array], deadline: float) -> list[Array]:
        """Logits of decoded images that have the size of the model's input, uint8 [H, W, channels].

        Raises:
            Refusal: as for `predict`.
        """
        batcher = self._batcher(model)
        with self._released(model), batcher.admit(len(images), deadline):
            answers = await self._in_time([batcher.logits(image_HWC) for image_HWC in images], deadline)
        self.metrics.answered(model.name, len(answers))
        return answers

    async def _in_time(self, work: Sequence[Coroutine[Any, Any, T]], deadline: float) -> list[T]:
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise Refusal(504, "the deadline is over. Ask again with a longer one, or with fewer images.") from None
        finally:  # after an error, nobody waits for the others
            for task in tasks:
                task.cancel()

    def replace(self, new: ServedModel) -> None:
        """Serve a model in place of that of the same name, whose requests are still answered."""
        old = self.models[new.name]
        self.models[new.name] = new
        if old in self._batchers and not self._batchers[old].admitted:
            self._batchers.pop(old).close()

    def _batcher(self, model: ServedModel) -> Batcher:
        if model not in self._batchers:
            self._batchers[model] = Batcher(model.engine, model.name, self.limits.queue_images, self.metrics)
        return self._batchers[model]

    @contextmanager
    def _released(self, model: ServedModel) -> Iterator[None]:
        """Context of a request, after the last of which a replaced model is given up."""
        try:
            yield
        finally:
            is_last = model in self._batchers and self._batchers[model].admitted == 0
            if is_last and self.models.get(model.name) is not model:
                self._batchers.pop(model).close()

    async def close(self) -> None:
        """End all threads and processes."""
        for batcher in self._batchers.values():
            batcher.close()
        await self.decoders.close()
