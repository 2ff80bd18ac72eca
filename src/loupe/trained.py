"""A run that has been trained: it predicts from raw images and evaluates itself on data."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from loupe.console import Console
from loupe.data import split as splits
from loupe.data.batches import Feed
from loupe.data.folders import from_paths
from loupe.data.prepare import Images, load_images
from loupe.data.sources import open_table
from loupe.data.table import ImageTable, make_rows
from loupe.errors import LoupeError
from loupe.evaluate import calibration, metrics, predict, selective
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.ledger import RunDirectory, cache_folder, count_looks, record_look
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.recipe import Recipe
from loupe.runtime import Arithmetic, choose_device

Pictures = str | Path | np.ndarray | Image.Image | Iterable[str | Path | np.ndarray | Image.Image]


class Run:
    """A finished run: its files, its results, and its classifier.

    Attributes:
        directory: the run's files.
        results: the content of results.json.
    """

    def __init__(self, directory: RunDirectory, *, device: str = "auto", quiet: bool = True) -> None:
        results = directory.read_json("results.json")
        if results is None:
            raise LoupeError(f"{directory.path} is not finished. Go on with: loupe train --resume {directory.path}")
        self.directory = directory
        self.results = results
        self.console = Console(quiet=quiet)
        self._device = choose_device(device)

    def __repr__(self) -> str:
        return f"Run({str(self.directory.path)!r})"

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.results["classes"])

    @cached_property
    def recipe(self) -> Recipe:
        return self.directory.read_recipe()

    @cached_property
    def _loaded(self) -> tuple[Classifier, Arithmetic]:
        model, precision = bundle.load(self.directory.model, self._device)
        return model, Arithmetic(self._device, precision)

    @property
    def model(self) -> Classifier:
        """The network, in evaluation mode on its device."""
        return self._loaded[0]

    def predict(self, images: Pictures) -> list[str]:
        """The class of each image.

        Args:
            images: one or many of: paths (files, folders, globs), uint8 arrays [H, W, 3] or [H, W], PIL images.

        Raises:
            DamagedImages: images that cannot be decoded; LoupeError: a path that matches nothing.
        """
        return [self.classes[index] for index in self.predictions(table_of(images)).predicted]

    def predict_proba(self, images: Pictures) -> np.ndarray:
        """The probability of each class, float64 [N, classes], columns in the order of `classes`.

        Calibrated: the softmax of the logits divided by `temperature`.
        """
        return calibration.probabilities(self.predictions(table_of(images)), self.temperature)

    @property
    def temperature(self) -> float:
        """What logits are divided by for calibrated probabilities; 1 where none was fitted."""
        return self.model.temperature

    def threshold_for(self, precision: float) -> selective.Threshold:
        """The lowest calibrated probability from which on predictions can be promised to be right in that share.

        It is chosen by the run's validation images; `selective` says what the promise is.

        Raises:
            LoupeError: there were no validation images, or that precision cannot be promised; it says which can.
        """
        file = self.directory.file("predictions.csv")
        validation = (read_splits(file) if file.is_file() else {}).get("val")
        if validation is None:
            raise LoupeError(
                f"{self.path} has no predictions of validation images to choose a threshold by. Give a --threshold."
            )
        found = selective.threshold_for(validation, precision, self.temperature)
        if found is None:
            highest = selective.highest_precision(validation, self.temperature)
            raise LoupeError(
                f"a precision of {precision:g} cannot be promised: by its {len(validation):,} validation images the "
                f"highest of this run is {highest:g}. Ask for that at most, validate on more images, or give a "
                "--threshold."
            )
        return found

    def predictions(self, table: ImageTable, *, skip_damaged: bool = False) -> Predictions:
        """The logits of every image of a table, in its order; as the network gives them, not calibrated."""
        images = self._open(table, skip_damaged, keep=False)
        return self._predict(images, np.arange(len(images.table)), images.table.labels)

    def evaluate(self, split: str = "val", data: Any = None, *, skip_damaged: bool = False) -> dict[str, Any]:
        """The metrics of one split of the run's data, or of other data, as in results.json.

        They are those of the logits as they are; `calibrated` has log loss and calibration error at the temperature.
        Classes are matched by name. A look at a test split is counted in the runs folder, and the count comes with the
        metrics as `test_looks`.

        Args:
            split: val or test (or train).
            data: other images with labels. Of those that have splits given, `split` is taken; else all.

        Raises:
            LoupeError: there are no such images, or they have a class that the model does not know.
        """
        own = (self.directory.read_json("environment.json") or {}).get("data")
        source = own if data is None else data
        if source is None:
            raise LoupeError("this run was trained on arrays, which are not stored. Give them again as data.")
        table = open_table(source, console=self.console)
        predictions = self._split_of(table, split, skip_damaged, is_own=data is None, may_be_own=own is None)
        if not len(predictions):
            raise LoupeError(f"there are no {split} images to evaluate. Choose another --split, or give --data.")
        block = {**metrics.evaluate(predictions), "calibrated": self._calibrated(predictions)}
        identity = split_hash(predictions)
        if split == "test" or count_looks(self.path.parent, identity):  # a test set under another name is still one
            block["test_looks"] = record_look(self.path.parent, identity, self.directory.name)
        return block

    def _calibrated(self, predictions: Predictions) -> dict[str, Any]:
        compared = calibration.compare(predictions, self.temperature)
        after = {name: compared[name]["after"] if compared else None for name in ("log_loss", "ece")}
        return {"temperature": self.temperature, **after}

    def _split_of(
        self, table: ImageTable, split: str, skip_damaged: bool, *, is_own: bool, may_be_own: bool
    ) -> Predictions:
        """The predictions of a split: by the run's split.csv where these are its images, else by their own splits."""
        images = self._open(table, skip_damaged or (is_own and bool(self.results["damaged"])))
        if is_own or may_be_own:
            try:
                parts = splits.read(self.directory.file("split.csv"), images.table, images.content)
                return self._predict(images, getattr(parts, split), images.table.labels)
            except LoupeError:
                if is_own:
                    raise
        given = np.array([name == split for name in images.table.splits])
        rows_N = np.flatnonzero(given) if any(images.table.splits) else np.arange(len(images.table))
        return self._predict(images, rows_N, match_classes(images.table, self.classes))

    def _open(self, table: ImageTable, skip_damaged: bool, *, keep: bool = True) -> Images:
        preprocessing = self.model.preprocessing
        return load_images(
            table,
            load_px=preprocessing.load_px,
            resize=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            cache=cache_folder() if keep else None,
            console=self.console,
            skip_damaged=skip_damaged,
        )

    def _predict(self, images: Images, rows_N: np.ndarray, label_N: np.ndarray) -> Predictions:
        model, arithmetic = self._loaded
        feed = Feed(images.store, label_N, arithmetic.device)
        return predict.predictions(model, feed, images, rows_N, arithmetic)


def split_hash(predictions: Predictions) -> str:
    """Identifies the labelled images among these, whatever run they are in."""
    pairs = zip(predictions.content, predictions.label, strict=True)
    return splits.digest((content, predictions.classes[label]) for content, label in pairs if label >= 0)


def match_classes(table: ImageTable, classes: Sequence[str]) -> np.ndarray:
    """The table's labels as indices into `classes`, by name; LoupeError where a labelled class is not among them."""
    unknown = sorted({table.classes[label] for label in np.unique(table.labels) if label >= 0} - set(classes))
    if unknown:
        raise LoupeError(
            f"{table.name}: the model does not know the {'class' if len(unknown) == 1 else 'classes'} "
            f"{', '.join(unknown)}. It knows: {', '.join(classes)}. Classes are matched by name."
        )
    lookup = np.array([classes.index(name) if name in classes else -1 for name in table.classes] + [-1])
    return lookup[table.labels].astype(np.int64)


def table_of(images: Pictures) -> ImageTable:
    """Unlabelled images to predict, whatever they were given as, behind the one decoder."""
    if isinstance(images, str | Path):
        return from_paths([images])
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and _is_one(images)):
        images = [images]
    items = list(images)
    paths = [item for item in items if isinstance(item, str | Path)]
    if len(paths) == len(items):
        return from_paths(paths, unique=False)
    data = [_encoded(item) for item in items]
    rows = make_rows(n=len(data), data=data, path=[f"image {number}" for number in range(len(data))], label=None)
    return ImageTable(rows, classes=(), name="images")


def _encoded(item: Any) -> bytes:
    """One picture as the bytes of an image file, so that it passes the one decoder."""
    if isinstance(item, str | Path):
        return Path(item).read_bytes()
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or not _is_one(item):
            raise LoupeError(f"an image is a uint8 array [H, W, 3] or [H, W]; got {item.dtype} {list(item.shape)}.")
        item = Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
    if not isinstance(item, Image.Image):
        raise LoupeError(f"an image is a path, a uint8 array or a PIL image; got {type(item).__name__}.")
    buffer = BytesIO()
    try:
        ImageOps.exif_transpose(item).save(buffer, "TIFF" if item.mode in {"CMYK", "YCbCr"} else "PNG")
    except OSError:
        raise LoupeError(f"a PIL image of mode {item.mode} cannot be classified; convert it to RGB first.") from None
    return buffer.getvalue()


def _is_one(array: np.ndarray) -> bool:
    """Whether an array is one image, [H, W] or [H, W, channels], and not many."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
