"""Prediction from raw images by a stored classifier, with the decoder and the preprocessing stored with it.

PyTorch is loaded only where it computes something: a bundle may hold its network for another engine.
"""

import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe.cache import cache_folder
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels.decoding import Damage, EncodedImages, damaged_images
from loupe.data.pixels.prepare import Images, all_damaged, encoded, load_images
from loupe.data.pixels.shared_stream import shared_stream
from loupe.data.pixels.stream import DecodedImages, in_batches, stream
from loupe.data.sources.inference_inputs import Pictures, table_of
from loupe.data.sources.read_options import ColumnNames
from loupe.data.table import ImageTable
from loupe.errors import counted, memory_remedy
from loupe.evaluate.engine_predictions import Answers, check_same_engine, predict_round, predict_rows
from loupe.evaluate.predictions import Predictions, collect
from loupe.log import logger, progress_bar, terminal
from loupe.models.bundle_config import CONFIG, BundleConfig
from loupe.models.pixel_engine import PixelEngine, images_per_second
from loupe.models.test_time import averaged, check_name
from loupe.ranks import Ranks, current

if TYPE_CHECKING:
    from loupe.models.classifier import Classifier
    from loupe.models.torch_network import EngineBuilder, TorchNetwork

MEMORY_REMEDY = "End other programs that use it, or choose another --device."
GPU_DRIVERS = ("nvidiactl", "nvidia0", "nvgpu", "nvhost-gpu", "kfd", "dxg")  # under /dev on Linux


class Predictor:
    """Stored classifier that predicts from raw images; loaded on first use.

    Args:
        folder: model bundle.
        device, quiet: as for `loupe.train`.
        engine: builder of what computes the logits, from the network in evaluation mode and its precision. Default:
            the engine that was settled when the model was saved, where it can be used, else PyTorch.
        tta: name of a test-time augmentation (`models.test_time`), for everything that is predicted.

    Raises:
        ConfigError: the device or the augmentation is unknown, or the device is not available.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        quiet: bool = True,
        engine: "EngineBuilder | None" = None,
        tta: str | None = None,
    ) -> None:
        self.tta = tta
        self.quiet = quiet
        self._folder = folder
        self._device = "cpu" if device == "auto" and not may_have_gpu() else device
        self._build_engine = engine
        check_name(tta)
        if self._device not in {"auto", "cpu"}:
            from loupe.devices import choose_device

            choose_device(device)

    @cached_property
    def config(self) -> BundleConfig:
        """Content of the bundle but the weights."""
        return BundleConfig.read(self._folder / CONFIG)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.config.preprocessing

    @property
    def temperature(self) -> float:
        """Divisor of the logits for calibrated probabilities; 1 if none was fitted."""
        return self.config.temperature

    @cached_property
    def _in_torch(self) -> "tuple[Classifier, TorchNetwork]":
        from loupe.devices import choose_device  # imported lazily, as all of PyTorch is
        from loupe.models.torch_network import open_network

        return open_network(self._folder, choose_device(self._device), self._build_engine)

    @property
    def model(self) -> "Classifier":
        """Network in evaluation mode on its device, in PyTorch."""
        return self._in_torch[0]

    @cached_property
    def engine(self) -> PixelEngine:
        """Engine that computes the logits of decoded images."""
        return self._averaged(self._stored_engine() or self._in_torch[1])

    def _averaged(self, engine: PixelEngine) -> PixelEngine:
        return averaged(engine, self.tta, self.preprocessing)

    def _stored_engine(self) -> PixelEngine | None:
        """Engine that the bundle names, or None for PyTorch; logged where it cannot be used here."""
        if self.config.engine is None or self._build_engine or not self._on_cpu():
            return None
        from loupe.models.openvino_network import open_stored

        network, reason = open_stored(self._folder, self.config)
        if network is None:
            with terminal(quiet=self.quiet):
                logger.info(f"predicting in PyTorch: {reason}.")
        return network

    def _on_cpu(self) -> bool:
        if self._device == "cpu":
            return True
        from loupe.devices import choose_device

        return choose_device(self._device).type == "cpu"

    def predict(
        self,
        images: Pictures,
        *,
        columns: ColumnNames | None = None,
        folder: str | Path | None = None,
        follow_links: bool = False,
    ) -> list[str]:
        """Predict the class of each image.

        Args:
            images: paths (files, folders, globs), `file:` URLs, arrays or tensors [H, W], [H, W, C] or [N, H, W, C]
                with 1, 3 or 4 channels, PIL images, bytes of image files, binary files, or a list of these. Or the
                path of a list of images: CSV, TSV, JSONL or Parquet.
            columns: columns of a list by role, as for `loupe.train`.
            folder: folder of the images that a list names.
            follow_links: also read files outside a folder, or outside that of a list, to which links, `..` or absolute
                paths lead.

        Raises:
            DamagedImages: images that cannot be decoded.
            DataError: a path that matches nothing, channels that come first, or something that is not an image.
        """
        table = table_of(images, columns, folder, follow_links=follow_links)
        return [self.classes[index] for part in self.stream(table) for index in part.predicted]

    def predict_proba(
        self,
        images: Pictures,
        *,
        columns: ColumnNames | None = None,
        folder: str | Path | None = None,
        follow_links: bool = False,
    ) -> np.ndarray:
        """Predict calibrated probabilities, float64 [N, classes], columns in the order of `classes`.

        They are the softmax of the logits divided by `temperature`.
        """
        table = table_of(images, columns, folder, follow_links=follow_links)
        return self.predictions(table).calibrated(self.temperature).probabilities_NK

    def predictions(self, table: ImageTable, *, skip_damaged: bool = False) -> Predictions:
        """Predict the uncalibrated logits of every image of a table, in its order.

        Args, Raises: as for `stream`.
        """
        return collect(self.stream(table, skip_damaged=skip_damaged), len(table), self.classes)

    def stream(self, table: ImageTable, *, skip_damaged: bool = False) -> Iterator[Predictions]:
        """Predict the uncalibrated logits of every image of a table, in its order and in batches, in constant memory.

        Images are decoded while the network predicts those before.

        Args:
            table: images; labels are optional.
            skip_damaged: leave damaged images out, instead of stopping.

        Raises:
            DamagedImages: images that cannot be decoded, with all of them.
            DataError: no image is left.
        """
        damaged: list[Damage] = []
        predicted = 0
        with terminal(quiet=self.quiet), memory_remedy(MEMORY_REMEDY):
            for warning in table.warnings:
                logger.warning(warning)
            ranks, images = current(), encoded(table, self.preprocessing)
            alone = partial(self._alone, table, images, damaged, skip_damaged=skip_damaged)
            shared = partial(self._shared, table, images, damaged, ranks, skip_damaged=skip_damaged)
            with closing(alone() if ranks.alone else shared()) as answers:
                for answer in answers:
                    predicted += len(answer.row_B)
                    yield self._predictions(table, answer)
            if damaged and predicted:
                logger.warning(f"{counted(len(damaged), 'damaged image')} left out.")
        if damaged and not predicted:
            raise all_damaged(table)

    def _alone(
        self, table: ImageTable, images: EncodedImages, damaged: list[Damage], *, skip_damaged: bool
    ) -> Generator[Answers, None, None]:
        """Answers for all intact images, in batches; damaged ones are added to `damaged`."""
        asked: deque[DecodedImages] = deque()

        def pixels(batches: Iterable[DecodedImages]) -> Iterator[np.ndarray]:
            for batch in batches:
                asked.append(batch)
                yield batch.pixels

        engine = self.engine
        with closing(stream(images, "predicting")) as chunks:
            intact = _intact(table, chunks, damaged, skip_damaged=skip_damaged)
            for logits_BK in engine.run(pixels(in_batches(intact, engine.batch_images))):
                batch = asked.popleft()
                yield Answers(batch.row_B, batch.content, logits_BK)

    def _shared(
        self, table: ImageTable, images: EncodedImages, damaged: list[Damage], ranks: Ranks, *, skip_damaged: bool
    ) -> Generator[Answers, None, None]:
        """Same as `_alone`, with images and batches shared out over the ranks."""
        engine = self.engine
        check_same_engine(engine, ranks)
        with closing(shared_stream(images, engine.batch_images, ranks, "predicting")) as rounds:
            for batches in rounds:
                damaged += batches.damaged
                if skip_damaged or not damaged:
                    yield from predict_round(engine, batches, len(self.classes), ranks)
        if damaged and not skip_damaged:
            raise damaged_images(table, damaged)

    def _predictions(self, table: ImageTable, answer: Answers) -> Predictions:
        return Predictions(
            path=tuple(table.paths[row] for row in answer.row_B),
            content=answer.content,
            label=table.labels[answer.row_B],
            logits_NK=answer.logits_BK,
            classes=self.classes,
        )

    def images_per_second(self) -> float:
        """Inference speed on this machine, from decoded pixels."""
        return images_per_second(self.engine, self.preprocessing)

    def _open(
        self, dataset: Dataset, skip_damaged: bool, *, keep: bool = True, preprocessing: Preprocessing | None = None
    ) -> Images:
        cache = cache_folder() if keep else None
        with terminal(quiet=self.quiet):
            return load_images(dataset, preprocessing or self.preprocessing, cache=cache, skip_damaged=skip_damaged)

    def _predict(
        self, images: Images, row_N: np.ndarray, label_N: np.ndarray, *, in_torch: bool = False
    ) -> Predictions:
        """Predictions for some rows of opened images."""
        with terminal(quiet=self.quiet), memory_remedy(MEMORY_REMEDY), progress_bar() as progress:
            engine = self._averaged(self._in_torch[1]) if in_torch else self.engine
            bar = progress.add_task("predicting", total=len(row_N), note="")
            return predict_rows(
                engine,
                images,
                row_N,
                label_N,
                self.classes,
                lambda images: progress.advance(bar, images),
                ranks=current(),
            )


def _intact(
    table: ImageTable, chunks: Iterable[DecodedImages], damaged: list[Damage], *, skip_damaged: bool
) -> Iterator[DecodedImages]:
    """The chunks, with their damaged images added to `damaged`; after damage that stops, only damage is looked for."""
    for chunk in chunks:
        damaged += chunk.damaged
        if len(chunk) and (skip_damaged or not damaged):
            yield chunk
    if damaged and not skip_damaged:
        raise damaged_images(table, damaged)


def may_have_gpu() -> bool:
    """False where PyTorch can find no GPU, and need not be imported to be asked."""
    if "torch" in sys.modules or sys.platform != "linux":
        return True
    return any(Path("/dev", name).exists() for name in GPU_DRIVERS)
