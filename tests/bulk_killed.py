"""Child process of the tests of kills: predicts in bulk, notes each decoding, and ends itself by SIGKILL on the way.

python tests/bulk_killed.py SOURCE OUT NOTES STAGE NUMBER
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loupe.bulk.decoding import Decoded, decode_images
from loupe.bulk.models import Batch
from loupe.bulk.opening import source_of
from loupe.bulk.output import Output
from loupe.bulk.paths import PathSource
from loupe.bulk.plan import Settings, asked_of
from loupe.bulk.predict import predict_bulk
from loupe.config.recipe import Preprocessing
from loupe.data.pixels import decoding
from loupe.data.pixels.decode import settings_of
from loupe.data.pixels.stream import in_batches
from loupe.data.sources.read_options import ReadOptions

STAGES = ("listing", "decoding", "syncing", "renaming", "renamed", "removing")
UNIT, BATCH = 16, 8


class MeanModel:
    """Classifier by the mean of each channel, which needs no library."""

    hash = "mean"
    classes = ("red", "green", "blue")
    temperature = 1.0
    chunk_images = 6

    def load(self) -> None:
        """Nothing to load."""

    @property
    def decode(self) -> Callable[..., Decoded[Any]]:
        return partial(decode_images, **settings_of(Preprocessing(size_px=8, load_px=8)))

    def batches(self, chunks: Iterable[Decoded[Any]]) -> Iterator[Batch]:
        for batch in in_batches((chunk.images for chunk in chunks if len(chunk.images)), BATCH):
            yield Batch(batch.row_B, batch.pixels)

    def run(self, pixels: Iterator[Any]) -> Iterator[Any]:
        return (x_BHWC.mean(axis=(1, 2), dtype=np.float64).astype(np.float32) / 16 for x_BHWC in pixels)


def predict(source: str, out: Path) -> None:
    """Predict a folder to a file, or to a folder where the name has no suffix."""
    options = ReadOptions.of()
    opened = source_of([source], None, options)
    settings = Settings(model="mean", classes=MeanModel.classes, temperature=1, threshold=0, top=2, tta=None)
    output = Output(out, is_folder=not out.suffix)
    predict_bulk(output, opened, asked_of(opened, options, settings), MeanModel(), unit_images=UNIT)


class Killer:
    """End of this process at the given event of a stage."""

    def __init__(self, stage: str, number: int) -> None:
        self.stage, self.left = stage, number

    def event(self, stage: str) -> None:
        if stage == self.stage:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def before(self, stage: str, function: Callable[..., Any], after: str = "") -> Callable[..., Any]:
        """The function, with an event before it, and one after it."""

        def called(*arguments: Any, **options: Any) -> Any:
            self.event(stage)
            result = function(*arguments, **options)
            self.event(after)
            return result

        return called


def main() -> None:
    source, out, notes, stage, number = sys.argv[1:]
    killer, load, rows = Killer(stage, int(number)), decoding.load, PathSource.rows
    log = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noted(data: bytes, path: str, **how: Any) -> Any:
        os.write(log, f"{path}\n".encode())
        return load(data, path, **how)

    def listing(self: PathSource, spill: Path) -> Iterator[Any]:
        for row in rows(self, spill):
            killer.event("listing")
            yield row

    decoding.load = killer.before("decoding", noted)
    PathSource.rows = listing
    os.fsync = killer.before("syncing", os.fsync)
    Path.replace = killer.before("renaming", Path.replace, after="renamed")
    Path.unlink = killer.before("removing", Path.unlink)
    predict(source, Path(out))


if __name__ == "__main__":
    main()
