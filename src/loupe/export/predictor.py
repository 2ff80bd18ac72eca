"""Prediction with an exported model, from the files of images on: by the exported resizing, network and softmax."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loupe.config.base import Levels
from loupe.data.dataset import open_dataset
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import UInt8Array, decode
from loupe.data.pixels.decoding import Damage, damaged_images, is_permanent
from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.table import ImageTable, match_classes
from loupe.errors import ConfigError, DataError, ImageError, counted
from loupe.evaluate.predictions import Predictions, collect
from loupe.evaluate.results import Evaluation
from loupe.export.folder import open_manifest
from loupe.export.runner_choice import runner_of
from loupe.export.runners import Runner
from loupe.log import logger, terminal
from loupe.ranks import Ranks, current

CHUNK_IMAGES = 4  # of any size, decoded whole
SMALLEST = np.finfo(np.float32).tiny


class ExportedModel:
    """Exported model that predicts from raw images, with ONNX Runtime, PyTorch or OpenVINO.

    Its probabilities are calibrated already: `temperature` is 1.

    Args:
        folder: folder of an export.
        quiet: print warnings only.

    Raises:
        ExportRefusedError: the files were changed after the export.
        ConfigError: no engine here runs them.
    """

    temperature = 1.0

    def __init__(self, folder: Path, *, quiet: bool = True) -> None:
        self.path = folder
        self.quiet = quiet
        self.manifest = open_manifest(folder)
        self.classes = self.manifest.classes

    @cached_property
    def runner(self) -> Runner:
        """Engine of the exported model."""
        assert self.manifest.model is not None  # as open_manifest has checked
        return runner_of(self.path / self.manifest.model)

    def read_options(
        self, columns: ColumnNames | None = None, images: str | Path | None = None, follow_links: bool = False
    ) -> ReadOptions:
        """Options to read images, as for a run; an export has no columns of its own."""
        return ReadOptions.of(columns, images, follow_links)

    def stream(self, table: ImageTable, *, skip_damaged: bool = False) -> Iterator[Predictions]:
        """Logarithms of the calibrated probabilities of every image of a table, in its order.

        Args:
            table: images; labels are optional.
            skip_damaged: leave damaged images out, instead of stopping.

        Raises:
            DamagedImages: images that cannot be decoded, with all of them.
            DataError: no image is left.
        """
        damaged: list[Damage] = []
        predicted, ranks = 0, current()
        with terminal(quiet=self.quiet):
            ranks.same(self.runner.name, "engines of predictions")
            chunks = self._own_chunks(table, ranks)
            for _ in range(0, len(table), CHUNK_IMAGES * ranks.count):
                predict = partial(self._next, table, chunks, skip_damaged or not damaged)
                for part, found in ranks.gather(ranks.together(predict)):
                    damaged += found
                    if part is not None and (skip_damaged or not damaged):
                        predicted += len(part)
                        yield part
            if damaged and not skip_damaged:
                raise damaged_images(table, damaged)
            if not predicted:
                raise DataError(f"{table.name}: all {counted(len(table), 'image')} are damaged.")
            if damaged:
                logger.warning(f"{counted(len(damaged), 'damaged image')} left out.")

    def _own_chunks(self, table: ImageTable, ranks: Ranks) -> "Iterator[WholeImages]":
        """Decoded images of a table in chunks, of which each rank takes every `ranks.count`-th."""
        starts = ranks.share(range(0, len(table), CHUNK_IMAGES))
        rows = [row for start in starts for row in range(start, min(start + CHUNK_IMAGES, len(table)))]
        work = partial(decode_whole, levels=self.manifest.preprocessing.range)
        return in_parallel(table, work, chunk=CHUNK_IMAGES, description="predicting", rows=rows)

    def _next(
        self, table: ImageTable, chunks: "Iterator[WholeImages]", asked: bool
    ) -> tuple[Predictions | None, list[Damage]]:
        """Predictions of the next chunk, if there is one and they are `asked` for, and its damaged images."""
        chunk = next(chunks, None)
        if chunk is None:
            return None, []
        return self._answers(table, chunk) if chunk.images and asked else None, chunk.damaged

    def log_probabilities(self, images: Sequence[UInt8Array]) -> npt.NDArray[np.float32]:
        """Logarithms of the calibrated probabilities of decoded images of any size, float32 [N, K]."""
        probabilities_NK = np.concatenate([self.runner.run(image_HWC[None])[0] for image_HWC in images])
        logits_NK: npt.NDArray[np.float32] = np.log(np.maximum(probabilities_NK, SMALLEST)).astype(np.float32)
        return logits_NK

    def _answers(self, table: ImageTable, chunk: "WholeImages") -> Predictions:
        return Predictions(
            path=tuple(table.paths[row] for row in chunk.rows),
            content=tuple(chunk.content),
            label=table.labels[chunk.rows],
            logits_NK=self.log_probabilities(chunk.images),
            classes=self.classes,
        )

    def evaluate(
        self,
        split: str,
        data: Any,
        *,
        columns: ColumnNames | None = None,
        images: str | Path | None = None,
        follow_links: bool = False,
        skip_damaged: bool = False,
    ) -> Evaluation:
        """Evaluate labelled images. Metrics are those of the calibrated probabilities.

        Args:
            split: split to evaluate, if the data has splits; all of it otherwise.
            data, columns, images, follow_links, skip_damaged: as for a run.

        Raises:
            DataError: there are no such images, or one has a class that the model lacks.
        """
        from loupe.evaluate import metrics

        with terminal(quiet=self.quiet):
            dataset = open_dataset(data, self.read_options(columns, images, follow_links), announce=False)
        table = dataset.table
        if any(table.splits):
            table = table.select(np.flatnonzero(np.array(table.splits) == split))
        if not len(table):
            raise DataError(f"there are no {split} images in {redacted_word(str(data))}. Choose another --split.")
        labelled_N = match_classes(table, self.classes)
        predictions = collect(self.stream(table, skip_damaged=skip_damaged), len(table), self.classes)
        row_of = {path: row for row, path in enumerate(table.paths)}
        label_N = np.array([labelled_N[row_of[path]] for path in predictions.path], np.int64)
        return metrics.evaluate(
            Predictions(predictions.path, predictions.content, label_N, predictions.logits_NK, self.classes)
        )

    def threshold_for(self, precision: float) -> Any:
        """Refused: an export has no validation images.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"--wanted-precision {precision:g} needs the validation images of the run, which an export does not have. "
            "Give --threshold, or the run."
        )


@dataclass(frozen=True)
class WholeImages:
    """Decoded images of some rows, their hashes, and the damaged images between them."""

    rows: list[int]
    images: list[UInt8Array]
    content: list[str]
    damaged: list[Damage]


def decode_whole(files: Sequence[File], levels: Levels | None) -> WholeImages:
    """Decode and hash a chunk of files without resizing. It may run in another process, and raises no error."""
    chunk = WholeImages([], [], [], [])
    for file in files:
        try:
            if isinstance(file.data, ImageError):
                raise file.data
            image_HWC = np.asarray(decode(file.data, file.path, levels=levels))
        except ImageError as error:
            permanent = isinstance(file.data, bytes) and is_permanent(error)
            chunk.damaged.append(Damage(file.index, error, permanent))
            continue
        chunk.rows.append(file.index)
        chunk.images.append(image_HWC)
        chunk.content.append(sha256(file.data).hexdigest())
    return chunk
