"""Jobs of gpu_check.py: images, recipe and network of each, and Loupe's speed at it."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.prepare import load_images
from loupe.devices import Compute, StopSignal
from loupe.models.build import build
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, TorchEngine
from loupe.models.whitening import whiten
from loupe.recipes.resolve import resolve
from loupe.training.activation_loader import ActivationLoader
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import PASS_BATCH, trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder

HERE = Path(__file__).resolve().parent
SMALL = ("deep-cnn", "fast")  # recipes of small networks, on images of 32 px
JOBS = (*SMALL, "features", "last-block", "finetune")
EPOCHS = 10_000  # of a training, which the time of a measurement ends
WHITENING_IMAGES = 1000
NOT_MEASURED = {"val_loss": None, "val_accuracy": None, "val_macro_f1": None}


@dataclass(frozen=True)
class Setting:
    """Size of the measurements.

    Attributes:
        images: number of images of a small network, and of a backbone.
        size_px: side of the images of a backbone.
        seconds: time of one measurement, after `warmup` steps.
        rounds: number of measurements of each contender, taking turns.
    """

    device: torch.device
    precision: str
    backbone: str
    images: tuple[int, int]
    size_px: int
    seconds: float
    warmup: int
    rounds: int

    @property
    def compute(self) -> Compute:
        return Compute(self.device, self.precision)


def pixels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of 32 px with their classes: of CIFAR-10, or scikit-learn's digits in colours that tell them apart."""
    folder = Path(os.environ.get("LOUPE_DATA", HERE.parents[1] / "shared" / "data")) / "cifar10"
    if count > 1000 and folder.is_dir():
        table = open_dataset(folder).table
        rows = np.arange(min(count, len(table)))
        preprocessing = resolved("deep-cnn", Dataset(None, table)).preprocessing
        opened = load_images(Dataset(None, table.select(rows)), preprocessing, cache=None)
        return opened.store.read(rows), table.labels[rows]
    bunch = load_digits()
    rows = np.arange(count) % len(bunch.images)
    grey_NHW = (bunch.images[rows] * 15.9375).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    tint_N113 = np.random.default_rng(0).integers(96, 256, (count, 1, 1, 3))
    return (grey_NHW[..., None] * tint_N113 // 255).astype(np.uint8), bunch.target[rows]


def resolved(name: str, dataset: Dataset, **settings: Any) -> ResolvedRecipe:
    flags = dict.fromkeys(("epochs", "batch_size", "lr", "seed", "precision"))
    return resolve(name, dataset, model=None, flags=flags, extra=settings)


class Stopwatch:
    """Images per second between the end of the warm-up and the end of the measurement, with the device waited for."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.steps = self.images = 0
        self.began = self.seconds = 0.0

    def is_over(self, images: int) -> bool:
        """Count a step of so many images; true once the time is over."""
        if self.steps == self.setting.warmup:
            self.setting.compute.synchronize()
            self.began, self.images = time.perf_counter(), 0
        self.steps += 1
        if self.steps > self.setting.warmup + 1 and time.perf_counter() - self.began >= self.setting.seconds:
            self.setting.compute.synchronize()
            self.seconds = time.perf_counter() - self.began
            return True
        self.images += images
        return False

    @property
    def speed(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class TimedLoader:
    """Loader that asks the training to stop once its time is over."""

    loader: BatchLoader | ActivationLoader
    watch: Stopwatch
    stop: StopSignal

    @property
    def device(self) -> torch.device:
        return self.loader.device

    def at(self, epoch: int) -> "TimedLoader":
        return TimedLoader(self.loader.at(epoch), self.watch, self.stop)

    def batches(self, order: np.ndarray, batch_size: int, **options: Any) -> Iterator[Batch]:
        for batch in self.loader.batches(order, batch_size, **options):
            if self.watch.is_over(len(batch)):
                self.stop.request()
            yield batch


@dataclass
class Job:
    """Images, recipe and network of one job; `measure` trains the last stage of the recipe, or predicts, as Loupe does.

    Attributes:
        folder: cache of activations.
    """

    name: str
    setting: Setting
    folder: Path

    def __post_init__(self) -> None:
        small, setting = self.name in SMALL, self.setting
        x_NHWC, y_N = pixels(setting.images[0] if small else setting.images[1])
        dataset = open_dataset((x_NHWC, y_N), announce=False)
        side = {} if small else {"input.size_px": setting.size_px, "input.load_px": setting.size_px}
        backbone = {} if small else {"model.backbone": setting.backbone, "model.weights": "none"}
        recipe = resolved(self.name, dataset, **backbone, **side)
        if recipe.input.wants_statistics:
            recipe = recipe.normalised((0.5,) * 3, (0.25,) * 3)
        self.recipe, self.stage = recipe, recipe.stages[-1]
        self.images = load_images(dataset, recipe.preprocessing, cache=None)
        self.loader = BatchLoader(self.images.store, self.images.table.labels, setting.device)
        self.rows_N = np.arange(len(self.images.table))
        self.x_NHWC = torch.from_numpy(self.images.store.read(self.rows_N)).to(setting.device)
        self.y_N = torch.tensor(self.images.table.labels, device=setting.device)

    def network(self) -> Classifier:
        model = build(self.recipe.model, self.recipe.preprocessing, self.images.table.classes, 0)
        whiten(model, self.images.store, self.rows_N[:WHITENING_IMAGES])
        return model.to(self.setting.device)

    def measure(self) -> float:
        """Images per second; in a training, those include the checkpoint that ends each epoch."""
        return self._forward() if self.stage.is_solved else self._train(self.stage)

    def _forward(self) -> float:
        blocks, watch = self.network().eval().trunk, Stopwatch(self.setting)

        def views() -> Iterator[Tensor]:
            while True:
                for batch in self.loader.batches(self.rows_N, PASS_BATCH):
                    if watch.is_over(len(batch)):
                        return
                    yield evaluation_view(batch.x_BCHW, self.recipe.preprocessing)

        for _ in TorchEngine(blocks, self.setting.compute).run(views()):
            pass
        return watch.speed

    def _train(self, stage: ResolvedStage) -> float:
        """`Trainer.fit`, as `loupe train` calls it, from the first step of the stage on."""
        model, watch, stop = self.network(), Stopwatch(self.setting), StopSignal()
        compute, views = self.setting.compute, stage.views if stage.views == "fresh" else 1
        builder = StageDataBuilder(
            model=model,
            network=trunk_key(self.recipe.model),
            loader=self.loader,
            content=self.images.content,
            train_N=self.rows_N,
            test_N=self.rows_N[:0],
            seed=0,
            folder=self.folder / "frozen",
            compute=compute,
            frozen_compute=compute,
            stop=stop,
            engines=Engines(),
        )

        def prepared(stage: ResolvedStage, first_epoch: int, last: bool) -> StageData:
            data = builder.of(stage, first_epoch, last)
            return StageData(TimedLoader(data.loader, watch, stop), data.validation, data.augmenter, data.first)

        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model,
                stages=[stage.model_copy(update={"epochs": EPOCHS, "views": views})],
                prepare=prepared,
                train_N=self.rows_N,
                validate=lambda network, data: NOT_MEASURED,
                checkpoints=Checkpoints(Path(folder)),
                on_epoch=lambda history: None,
                compute=compute,
                class_weights_K=None,
                monitor=self.recipe.monitor,
                keep_best=False,
                stop=stop,
            ).fit()
        return watch.speed
