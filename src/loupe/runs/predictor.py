"""Prediction from raw images by a stored classifier, with the decoder and the preprocessing stored with it."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from loupe.cache import cache_folder
from loupe.data.dataset import Dataset
from loupe.data.pixels.batches import BatchLoader, ProgressLoader
from loupe.data.pixels.prepare import Images, all_damaged, load_images
from loupe.data.pixels.store import StreamedStore
from loupe.data.sources.inference_inputs import Pictures, table_of
from loupe.data.sources.read_options import ColumnNames
from loupe.data.table import ImageTable
from loupe.devices import Compute, choose_device, keep_freed_memory
from loupe.errors import counted, memory_remedy
from loupe.evaluate import calibration, inference
from loupe.evaluate.predictions import Predictions
from loupe.log import logger, progress_bar, terminal
from loupe.models import bundle, test_time
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, TorchEngine

EngineBuilder = Callable[[Classifier, Compute], Engine]
MEMORY_REMEDY = "End other programs that use it, or choose another --device."


class Predictor:
    """Stored classifier that predicts from raw images; loaded on first use.

    Args:
        folder: model bundle.
        device, quiet: as for `loupe.train`.
        engine: builder of what computes the logits, from the network in evaluation mode and its precision: PyTorch by
            default.
        tta: name of a test-time augmentation (`models.test_time`), for everything that is predicted.

    Raises:
        ConfigError: the device or the augmentation is unknown.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        quiet: bool = True,
        engine: EngineBuilder = TorchEngine,
        tta: str | None = None,
    ) -> None:
        test_time.check_name(tta)
        self.tta = tta
        self.quiet = quiet
        self._folder = folder
        self._device = choose_device(device)
        self._build_engine = engine

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @cached_property
    def _loaded(self) -> tuple[Classifier, Compute]:
        keep_freed_memory()
        model, precision = bundle.load(self._folder, self._device)
        return model, Compute(self._device, precision)

    @cached_property
    def engine(self) -> Engine:
        """Engine that computes the logits of preprocessed images."""
        return test_time.averaged(self._build_engine(*self._loaded), self.tta)

    @property
    def model(self) -> Classifier:
        """Network in evaluation mode on its device."""
        return self._loaded[0]

    @property
    def temperature(self) -> float:
        """Divisor of the logits for calibrated probabilities; 1 if none was fitted."""
        return self.model.temperature

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
        return [self.classes[index] for index in self.predictions(table).predicted]

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
        return calibration.probabilities(self.predictions(table), self.temperature)

    def predictions(self, table: ImageTable, *, skip_damaged: bool = False) -> Predictions:
        """Predict the uncalibrated logits of every image of a table, in its order.

        Images that do not fit the memory budget are decoded batch by batch.

        Args:
            table: images; labels are optional.
            skip_damaged: leave damaged images out, instead of stopping.

        Raises:
            DamagedImages: images that cannot be decoded; with decoding batch by batch, those found so far.
        """
        with terminal(quiet=self.quiet):
            for warning in table.warnings:
                logger.warning(warning)
        images = self._open(Dataset(None, table), skip_damaged, keep=False, once=True)
        predictions = self._predict(images, np.arange(len(images.table)), images.table.labels)
        store = images.store
        if isinstance(store, StreamedStore) and store.damaged:
            return self._undamaged(predictions, store)
        return predictions

    def _undamaged(self, predictions: Predictions, store: StreamedStore) -> Predictions:
        """Predictions without those of damaged images, which the store replaces by black images."""
        kept_N = np.setdiff1d(np.arange(len(predictions)), [damage.index for damage in store.damaged])
        if not len(kept_N):
            raise all_damaged(store.images.table)
        with terminal(quiet=self.quiet):
            logger.warning(f"{counted(len(store.damaged), 'damaged image')} left out.")
        return predictions.select(kept_N)

    def images_per_second(self) -> float:
        """Inference speed on this machine, from decoded pixels."""
        return inference.images_per_second(self.engine, self.model.preprocessing, self._device)

    def _open(self, dataset: Dataset, skip_damaged: bool, *, keep: bool = True, once: bool = False) -> Images:
        cache = cache_folder() if keep else None
        with terminal(quiet=self.quiet):
            return load_images(dataset, self.model.preprocessing, cache=cache, skip_damaged=skip_damaged, once=once)

    def _predict(self, images: Images, rows_N: np.ndarray, label_N: np.ndarray) -> Predictions:
        model, compute = self._loaded
        with terminal(quiet=self.quiet), memory_remedy(MEMORY_REMEDY), progress_bar() as progress:
            loader = BatchLoader(images.store, label_N, compute.device)
            bar = progress.add_task("predicting", total=len(rows_N), note="")
            watched = ProgressLoader(loader, lambda images: progress.advance(bar, images))
            return inference.engine_predictions(
                self.engine, model.preprocessing, model.classes, watched, images, rows_N
            )
