"""Models that predict in bulk: stored classifiers with their engine, and exported models."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loupe.bulk.decoding import Decoded, decode_images, hashes
from loupe.config.base import Levels
from loupe.data.parallel import File
from loupe.data.pixels.decode import UInt8Array, settings_of
from loupe.data.pixels.decoding import chunk_images
from loupe.data.pixels.stream import DecodedImages, in_batches
from loupe.export.predictor import CHUNK_IMAGES, ExportedModel, WholeImages, decode_whole
from loupe.models.bundle_config import content_digest
from loupe.models.pixel_engine import Array
from loupe.runs.predictor import Predictor


@dataclass(frozen=True)
class Batch:
    """Rows of some images of a unit, int64 [B], and their pixels in the form that the model takes."""

    row_B: npt.NDArray[np.int64]
    pixels: Any


class BulkModel(Protocol):
    """Model for many images.

    Attributes:
        hash: hash of the model and of its preprocessing.
        classes: class names.
        temperature: divisor of the logits.
        chunk_images: number of images that are decoded by one task.
    """

    hash: str
    classes: tuple[str, ...]
    temperature: float
    chunk_images: int

    def load(self) -> None:
        """Load the engine now, and not with the first batch."""

    @property
    def decode(self) -> Callable[[list[File]], Decoded[Any]]:
        """Picklable function that decodes a chunk of files, and does not raise."""

    def batches(self, chunks: Iterable[Decoded[Any]]) -> Iterator[Batch]:
        """Batches of the chunks of one unit."""

    def run(self, pixels: Iterator[Any]) -> Iterator[Array]:
        """Logits, float32 [B, K], of the pixels of each batch, in order."""


class StoredModel:
    """Stored classifier, with the decoder, preprocessing and engine of `loupe predict`."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.hash = content_digest(json.dumps(predictor.config.to_json(), sort_keys=True).encode())
        self.classes = predictor.config.classes
        self.temperature = predictor.temperature
        preprocessing = predictor.preprocessing
        self.chunk_images = chunk_images(prod((*preprocessing.load_size, preprocessing.channels)))

    def load(self) -> None:
        """As for any model."""
        _ = self._predictor.engine

    @property
    def decode(self) -> Callable[[list[File]], Decoded[DecodedImages]]:
        return partial(decode_images, **settings_of(self._predictor.preprocessing))

    def batches(self, chunks: Iterable[Decoded[DecodedImages]]) -> Iterator[Batch]:
        intact = (chunk.images for chunk in chunks if len(chunk.images))
        for batch in in_batches(intact, self._predictor.engine.batch_images):
            yield Batch(batch.row_B, batch.pixels)

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        return self._predictor.engine.run(pixels)


class WholeImageModel:
    """Exported model, which takes decoded images of any size and gives calibrated probabilities."""

    def __init__(self, model: ExportedModel) -> None:
        self._model = model
        self.hash = content_digest(json.dumps(model.manifest.to_json(), sort_keys=True).encode())
        self.classes = model.classes
        self.temperature = model.temperature
        self.chunk_images = CHUNK_IMAGES

    def load(self) -> None:
        """As for any model."""
        _ = self._model.runner

    @property
    def decode(self) -> Callable[[list[File]], Decoded[WholeImages]]:
        return partial(_decode_whole, levels=self._model.manifest.preprocessing.range)

    def batches(self, chunks: Iterable[Decoded[WholeImages]]) -> Iterator[Batch]:
        for chunk in chunks:
            if chunk.images.images:
                yield Batch(np.array(chunk.images.rows, np.int64), chunk.images.images)

    def run(self, pixels: Iterator[list[UInt8Array]]) -> Iterator[Array]:
        return map(self._model.log_probabilities, pixels)


def bulk_model(opened: Predictor | ExportedModel) -> BulkModel:
    """A run or an export as a model for many images."""
    return WholeImageModel(opened) if isinstance(opened, ExportedModel) else StoredModel(opened)


def _decode_whole(files: list[File], levels: Levels | None) -> Decoded[WholeImages]:
    images = decode_whole(files, levels)
    return Decoded(images, hashes(files, images.rows, images.content), images.damaged)
