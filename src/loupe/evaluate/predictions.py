"""What a network said about a list of images, and the CSV file it is kept in.

Every metric, figure and test of a run is computed from `Predictions`; the file keeps the logits exactly, so that what
is computed from it later is what would have been computed at once.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from scipy.special import log_softmax

from loupe import files
from loupe.data.splits import split as splits
from loupe.errors import DataError, DivergedError, RunStateError

UNKNOWN = -1  # the label of an image that has none
COLUMNS = ("split", "path", "content", "label", "predicted", "probability")
LOGIT = "logit:"
ROWS_AT_ONCE = 16_384  # are written


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of N images over K classes, with what identifies each image and its label where it has one.

    path: display names. content: hex digests of the image files' bytes. label: int64 [N], an index into `classes`, -1
    where unknown. logits_NK: float32. classes: in the stored order of the model. temperature: what logits are divided
    by for probabilities; at 1 these are as the network gives them, and as metrics have them. LoupeError where the parts
    do not fit together, or where a logit is not finite: no class follows from such logits.
    """

    path: tuple[str, ...]
    content: tuple[str, ...]
    label: npt.NDArray[np.int64]
    logits_NK: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        images, classes = len(self.path), len(self.classes)
        shapes = (len(self.content), self.label.shape, self.logits_NK.shape)
        if shapes != (images, (images,), (images, classes)):
            raise DataError(
                f"predictions of {images} images over {classes} classes need as many contents and labels and "
                f"{images} x {classes} logits; got {shapes[0]} contents, labels of shape {shapes[1]}, logits of "
                f"shape {shapes[2]}."
            )
        if self.label.dtype != np.int64 or self.logits_NK.dtype != np.float32:
            raise DataError(
                f"predictions need int64 labels and float32 logits; got {self.label.dtype} and {self.logits_NK.dtype}."
            )
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if not classes or twice:
            raise DataError(f"predictions need class names, each once; given twice: {twice}.")
        if images and not (self.label.min() >= UNKNOWN and self.label.max() < classes):
            low, high = self.label.min(), self.label.max()
            raise DataError(f"labels are 0 to {classes - 1}, or -1 where unknown; got {low} to {high}.")
        self._check_finite()

    def _check_finite(self) -> None:
        broken = np.flatnonzero(~np.isfinite(self.logits_NK).all(axis=1))
        if broken.size:
            raise DivergedError(
                f"the network's output is not finite for {broken.size:,} of {len(self):,} images (the first: "
                f"{self.path[broken[0]]}). The weights have diverged, or the precision is too low for them: try "
                "--precision fp32, or train again with a lower learning rate."
            )

    def __len__(self) -> int:
        return len(self.path)

    @cached_property
    def log_probabilities_NK(self) -> npt.NDArray[np.float64]:  # noqa: N802
        """Logarithm of the softmax, in float64, so that no probability that matters is rounded to 0 or 1."""
        result: npt.NDArray[np.float64] = log_softmax(self.logits_NK.astype(np.float64) / self.temperature, axis=1)
        return result

    @property
    def probabilities_NK(self) -> npt.NDArray[np.float64]:  # noqa: N802
        """Softmax of the logits, divided by the temperature."""
        return np.exp(self.log_probabilities_NK)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The class of the largest logit; of equal ones, the first."""
        return np.asarray(self.logits_NK.argmax(axis=1), np.int64)

    def calibrated(self, temperature: float) -> "Predictions":
        """The same logits and classes, with the probabilities of that temperature: those that a person is shown."""
        return replace(self, temperature=temperature)

    def select(self, indices: npt.NDArray[Any]) -> "Predictions":
        """The predictions of some images: `indices` are positions, or a mask."""
        rows = np.arange(len(self))[indices]
        return Predictions(
            path=tuple(self.path[row] for row in rows),
            content=tuple(self.content[row] for row in rows),
            label=self.label[rows],
            logits_NK=self.logits_NK[rows],
            classes=self.classes,
            temperature=self.temperature,
        )

    def write(self, path: Path, split: str) -> None:
        """Write the CSV file of one split; see `write_splits`."""
        write_splits(path, {split: self})

    @classmethod
    def read(cls, path: Path, split: str) -> "Predictions":
        """The predictions of one split of a CSV file; LoupeError where the file has none of it."""
        parts = read_splits(path)
        if split not in parts:
            have = ", ".join(parts) or "none"
            raise RunStateError(f"{path}: holds no predictions of the split {split!r}; it has: {have}.")
        return parts[split]


def join(parts: Sequence[Predictions]) -> Predictions:
    """The images of several predictions by the same classes, one after the other."""
    if len({(part.classes, part.temperature) for part in parts}) != 1:
        raise DataError("predictions of different classes or temperatures cannot be joined.")
    return Predictions(
        path=tuple(path for part in parts for path in part.path),
        content=tuple(content for part in parts for content in part.content),
        label=np.concatenate([part.label for part in parts]),
        logits_NK=np.concatenate([part.logits_NK for part in parts]),
        classes=parts[0].classes,
        temperature=parts[0].temperature,
    )


def write_splits(path: Path, parts: Mapping[str, Predictions]) -> None:
    """Write predictions of several splits of one model to one CSV file, whole or not at all.

    Columns: split, path, content, label, predicted, probability (of the predicted class, at the temperature of the
    predictions), then a `logit:<class>` for each class, in the order of the classes. `label` is empty where unknown.
    Logits are written with the digits that give the same float32 back; the temperature is the model's, and is not.
    """
    if not parts or len({part.classes for part in parts.values()}) != 1:
        raise RunStateError(
            f"{path}: one file of predictions holds splits of one model; the classes differ, or there is no split."
        )
    tables = (_to_table(split, some) for split, part in parts.items() for some in _in_turn(part))
    first = next(tables)
    with files.replacing(path) as file, pacsv.CSVWriter(file, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def read_splits(path: Path) -> dict[str, Predictions]:
    """The predictions of every split in a CSV file, in the order of their first rows; LoupeError where it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        if tuple(header[: len(COLUMNS)]) != COLUMNS or not all(
            name.startswith(LOGIT) for name in header[len(COLUMNS) :]
        ):
            raise RunStateError(
                f"{path}: not a file of predictions; its columns are {', '.join(COLUMNS)}, {LOGIT}<class>..."
            )
        types = {name: pa.string() for name in COLUMNS[:5]} | {name: pa.float32() for name in header[5:]}
        table = pacsv.read_csv(
            path,
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise RunStateError(f"{path}: cannot be read as predictions: {error}") from None
    classes = tuple(name.removeprefix(LOGIT) for name in header[len(COLUMNS) :])
    splits = pc.unique(table["split"]).to_pylist()
    return {split: _from_table(table.filter(pc.equal(table["split"], split)), classes, path) for split in splits}


def _in_turn(part: Predictions) -> Iterator[Predictions]:
    """So few at a time that the text of all need not fit in memory; of no predictions, one empty part."""
    for start in range(0, max(1, len(part)), ROWS_AT_ONCE):
        yield part.select(np.arange(start, min(start + ROWS_AT_ONCE, len(part))))


def _to_table(split: str, part: Predictions) -> pa.Table:
    names = pa.array(part.classes, pa.string())
    label = pa.array(part.label, mask=part.label == UNKNOWN)
    probability = np.take_along_axis(part.probabilities_NK, part.predicted[:, None], axis=1)[:, 0]
    columns = {
        "split": pa.array([split] * len(part), pa.string()),
        "path": pa.array(part.path, pa.string()),
        "content": pa.array(part.content, pa.string()),
        "label": names.take(label),
        "predicted": names.take(pa.array(part.predicted)),
        "probability": pa.array(probability.astype(np.float32)),
    }
    logits_KN = np.ascontiguousarray(part.logits_NK.T)
    columns |= {LOGIT + name: pa.array(logits) for name, logits in zip(part.classes, logits_KN, strict=True)}
    return pa.table(columns)


def _from_table(table: pa.Table, classes: tuple[str, ...], path: Path) -> Predictions:
    label = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))
    strange = table["label"].filter(pc.and_(label.is_null(), table["label"].is_valid()))
    if len(strange):
        raise RunStateError(f"{path}: the label {strange[0].as_py()!r} is not one of the classes that have logits.")
    logits_KN = [table[LOGIT + name].to_numpy() for name in classes]
    return Predictions(
        path=tuple(table["path"].to_pylist()),
        content=tuple(table["content"].to_pylist()),
        label=pc.fill_null(label, UNKNOWN).to_numpy().astype(np.int64),
        logits_NK=np.stack(logits_KN, axis=1),
        classes=classes,
    )


def split_hash(predictions: Predictions) -> str:
    """Identifies the labelled images among these, whatever run they are in."""
    pairs = zip(predictions.content, predictions.label, strict=True)
    return splits.digest((content, predictions.classes[label]) for content, label in pairs if label >= 0)
