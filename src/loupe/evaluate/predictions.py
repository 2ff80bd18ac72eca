"""Predictions of a network for a list of images, and their CSV file.

All metrics, figures and tests of a run are computed from `Predictions`. The file keeps the logits exactly, so that
values computed from the file equal those computed directly.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from loupe import csv_files
from loupe.data.splits.split import digest
from loupe.errors import DataError, DivergedError, RunStateError, counted, enumerated

FOLD = "fold"  # name of out-of-fold predictions in the column `split`, of images that are train or val otherwise
UNKNOWN = -1  # label of an unlabelled image
COLUMNS = ("split", "path", "content", "label", "predicted", "probability")
LOGIT = "logit:"  # prefix of the column of a class
CHUNK_ROWS = 16_384  # rows converted to text at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of N images over K classes, with the identity and the label of each image.

    Attributes:
        path: display names [N].
        content: hex digests of the bytes of the image files [N].
        label: int64 [N], index into `classes`; -1 where unknown.
        logits_NK: float32.
        classes: class names [K], in the stored order of the model.
        temperature: divisor of the logits for probabilities; 1 leaves them uncalibrated, as metrics use them.

    Raises:
        DataError: lengths or types do not match, a class name repeats, or a label is out of range.
        DivergedError: a logit is not finite.
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
                f"predictions of {counted(images, 'image')} over {counted(classes, 'class')} need one digest and one "
                f"label for each image and {images} x {classes} logits. Got {counted(shapes[0], 'digest')}, labels of "
                f"shape {shapes[1]} and logits of shape {shapes[2]}."
            )
        if self.label.dtype != np.int64 or self.logits_NK.dtype != np.float32:
            raise DataError(
                f"predictions need int64 labels and float32 logits; got {self.label.dtype} and {self.logits_NK.dtype}."
            )
        repeated = [name for name, count in Counter(self.classes).items() if count > 1]
        if not classes or repeated:
            raise DataError(f"predictions need unique class names, at least one; repeated: {repeated}.")
        if images and not (self.label.min() >= UNKNOWN and self.label.max() < classes):
            low, high = self.label.min(), self.label.max()
            raise DataError(f"labels must be 0 to {classes - 1}, or -1 where unknown; got {low} to {high}.")
        self._check_finite()

    def _check_finite(self) -> None:
        rows = np.flatnonzero(~np.isfinite(self.logits_NK).all(axis=1))
        if rows.size:
            raise DivergedError(
                f"the network's output is not finite for {rows.size:,} of {counted(len(self), 'image')} (the first: "
                f"{self.path[rows[0]]}). The weights have diverged, or the precision is too low. Use --precision fp32, "
                "or train again with a lower learning rate."
            )

    def __len__(self) -> int:
        return len(self.path)

    @cached_property
    def log_probabilities_NK(self) -> npt.NDArray[np.float64]:  # noqa: N802
        """Log-softmax of the logits divided by the temperature, in float64 against rounding to 0 or 1."""
        from scipy.special import log_softmax  # takes 0.2 s to import, which reading results need not wait for

        result: npt.NDArray[np.float64] = log_softmax(self.logits_NK.astype(np.float64) / self.temperature, axis=1)
        return result

    @property
    def probabilities_NK(self) -> npt.NDArray[np.float64]:  # noqa: N802
        """Softmax of the logits divided by the temperature."""
        return np.exp(self.log_probabilities_NK)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Class of the largest logit, int64 [N]; the first of equal ones."""
        return np.asarray(self.logits_NK.argmax(axis=1), np.int64)

    def calibrated(self, temperature: float) -> "Predictions":
        """Same predictions with probabilities at that temperature, as shown to users."""
        return replace(self, temperature=temperature)

    def select(self, indices: npt.NDArray[Any]) -> "Predictions":
        """Predictions of some images, given by positions or by a mask."""
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
        """Write the CSV file of one split, as `write_splits` does."""
        write_splits(path, {split: self})

    @classmethod
    def read(cls, path: Path, split: str) -> "Predictions":
        """Read the predictions of one split from a CSV file.

        Raises:
            RunStateError: the file cannot be read, or does not have the split.
        """
        by_split = read_splits(path)
        if split not in by_split:
            known = enumerated([*by_split]) or "none"
            raise RunStateError(f"{path}: it has no predictions of the split {split!r}. Its splits: {known}.")
        return by_split[split]


def join(several: Sequence[Predictions]) -> Predictions:
    """Concatenate predictions over the same classes.

    Raises:
        DataError: classes or temperatures differ.
    """
    if len({(one.classes, one.temperature) for one in several}) != 1:
        raise DataError("predictions with different classes or temperatures cannot be joined.")
    return Predictions(
        path=tuple(path for one in several for path in one.path),
        content=tuple(content for one in several for content in one.content),
        label=np.concatenate([one.label for one in several]),
        logits_NK=np.concatenate([one.logits_NK for one in several]),
        classes=several[0].classes,
        temperature=several[0].temperature,
    )


def collect(parts: Iterable[Predictions], images: int, classes: tuple[str, ...]) -> Predictions:
    """Collect at most `images` uncalibrated predictions from parts as they come.

    No part is kept: small arrays of many parts would hold the memory of the batches between them.
    """
    path: list[str] = []
    content: list[str] = []
    label_N, logits_NK = np.empty(images, np.int64), np.empty((images, len(classes)), np.float32)
    for part in parts:
        start, stop = len(path), len(path) + len(part)
        path += part.path
        content += part.content
        label_N[start:stop], logits_NK[start:stop] = part.label, part.logits_NK
    return Predictions(tuple(path), tuple(content), label_N[: len(path)], logits_NK[: len(path)], classes)


def write_splits(path: Path, by_split: Mapping[str, Predictions]) -> None:
    """Write predictions of several splits of one model to one CSV file, atomically.

    Columns: split, path, content, label (empty where unknown), predicted, probability (of the predicted class, at the
    temperature of the predictions), then `logit:<class>` for each class, in the order of the classes. Logits have the
    digits that restore the same float32. The temperature is stored with the model and not in this file.

    Raises:
        RunStateError: there is no split, or the classes differ between splits.
    """
    if not by_split or len({one.classes for one in by_split.values()}) != 1:
        raise RunStateError(
            f"{path}: a file of predictions needs at least one split, and the same classes in every split."
        )
    csv_files.write_arrow(path, (_to_table(split, chunk) for split, one in by_split.items() for chunk in _chunks(one)))


def read_splits(path: Path) -> dict[str, Predictions]:
    """Read the predictions of every split in a CSV file, in the order of their first rows.

    Raises:
        RunStateError: the file cannot be read, or is not a file of predictions.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        if tuple(header[: len(COLUMNS)]) != COLUMNS or not all(
            name.startswith(LOGIT) for name in header[len(COLUMNS) :]
        ):
            raise RunStateError(
                f"{path}: not a file of predictions. Its columns must be {', '.join(COLUMNS)}, {LOGIT}<class>, ..."
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
    table = csv_files.restored_table(table)
    classes = tuple(name.removeprefix(LOGIT) for name in header[len(COLUMNS) :])
    splits = pc.unique(table["split"]).to_pylist()
    return {split: _from_table(table.filter(pc.equal(table["split"], split)), classes, path) for split in splits}


def _chunks(predictions: Predictions) -> Iterator[Predictions]:
    """Chunks of rows, so that the text of all need not fit in memory; one empty chunk if there are no rows."""
    for start in range(0, max(1, len(predictions)), CHUNK_ROWS):
        yield predictions.select(np.arange(start, min(start + CHUNK_ROWS, len(predictions))))


def _to_table(split: str, chunk: Predictions) -> pa.Table:
    names = pa.array(chunk.classes, pa.string())
    label = pa.array(chunk.label, mask=chunk.label == UNKNOWN)
    probability = np.take_along_axis(chunk.probabilities_NK, chunk.predicted[:, None], axis=1)[:, 0]
    columns = {
        "split": pa.array([split] * len(chunk), pa.string()),
        "path": pa.array(chunk.path, pa.string()),
        "content": pa.array(chunk.content, pa.string()),
        "label": names.take(label),
        "predicted": names.take(pa.array(chunk.predicted)),
        "probability": pa.array(probability.astype(np.float32)),
    }
    logits_KN = np.ascontiguousarray(chunk.logits_NK.T)
    columns |= {LOGIT + name: pa.array(logits) for name, logits in zip(chunk.classes, logits_KN, strict=True)}
    return pa.table(columns)


def _from_table(table: pa.Table, classes: tuple[str, ...], path: Path) -> Predictions:
    label = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))
    unknown = table["label"].filter(pc.and_(label.is_null(), table["label"].is_valid()))
    if len(unknown):
        raise RunStateError(f"{path}: the label {unknown[0].as_py()!r} is not one of the classes with logits.")
    logits_KN = [table[LOGIT + name].to_numpy() for name in classes]
    return Predictions(
        path=tuple(table["path"].to_pylist()),
        content=tuple(table["content"].to_pylist()),
        label=pc.fill_null(label, UNKNOWN).to_numpy().astype(np.int64),
        logits_NK=np.stack(logits_KN, axis=1),
        classes=classes,
    )


def split_hash(predictions: Predictions) -> str:
    """Hash of the labelled images and their classes, independent of the run and of the order."""
    pairs = zip(predictions.content, predictions.label, strict=True)
    return digest((content, predictions.classes[label]) for content, label in pairs if label >= 0)
