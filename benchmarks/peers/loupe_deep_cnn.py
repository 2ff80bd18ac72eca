"""deep-cnn in Loupe: the recipe's own network and stage, trained by Loupe's own loop.

    python benchmarks/peers/loupe_deep_cnn.py PIXELS.npz --mode augmented

What is timed is `Trainer.fit` of `loupe.training.loop`, as `loupe train` calls it, from one batch being asked for to
the next.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.prepare import pixel_statistics
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute, StopSignal, keep_freed_memory
from loupe.models.cnn import cnn
from loupe.models.summary import count_parameters
from loupe.recipes import catalog
from loupe.training.checkpoint import Checkpoints
from loupe.training.loop import Trainer
from loupe.training.precision import resolve
from loupe.training.stage_data import StageData

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NOT_MEASURED = {"val_loss": None, "val_accuracy": None, "val_macro_f1": None}


class TimedFeed(BatchLoader):
    """A feed that marks the clock whenever the loop asks for a batch."""

    clock: measure.Clock | None = None

    def batches(self, order: np.ndarray, batch_size: int, **options: Any) -> Iterator[Batch]:
        for batch in super().batches(order, batch_size, **options):
            if self.clock is not None:
                self.clock.mark()
            yield batch


def main() -> None:
    given = measure.arguments(__doc__, precision=("auto", "fp32", "bf16"))
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every session of Loupe does
    with np.load(given.pixels) as arrays:
        store, labels_N = RawStore(arrays["x"]), arrays["y"]
    recipe = catalog.recipe("deep-cnn")
    stage = recipe.stages[0].model_copy(update={"epochs": 1})
    if given.mode == "plain":
        stage = stage.model_copy(update={"augment": AugmentSpec()})
    mean, std = pixel_statistics(store, np.arange(len(store)), by_channel=False)
    preprocessing = Preprocessing(size_px=32, load_px=32, mean=mean, std=std)
    model = cnn(recipe.model, preprocessing, CLASSES, recipe.seed)
    augmenter = Augmenter(stage.augment, preprocessing, recipe.seed)
    feed = TimedFeed(store, labels_N, torch.device("cpu"))
    train_N = np.arange((given.warmup + given.steps + 1) * stage.batch_size)
    precision, reason = resolve(
        given.precision, model, network="deep-cnn", stage=stage, loader=feed, train_N=train_N, class_weights_K=None
    )
    feed.clock = clock = measure.Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model,
            stages=[stage],
            prepare=lambda stage, first_epoch, last: StageData(feed, feed, augmenter),
            train_N=train_N,
            validate=lambda network, work: NOT_MEASURED,
            checkpoints=Checkpoints(Path(folder)),
            on_epoch=lambda history: None,
            compute=Compute(feed.device, precision),
            class_weights_K=None,
            monitor=recipe.monitor,
            keep_best=False,
            stop=StopSignal(),
        ).fit()
    measure.report(
        parameters=count_parameters(model)["total"],
        precision=precision,
        reason=reason,
        versions={"torch": torch.__version__, "numpy": np.__version__},
        **clock.speeds(given.warmup),
    )


if __name__ == "__main__":
    main()
