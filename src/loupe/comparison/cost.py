"""Expected time and disk space of a training, estimated from a few timed batches of each stage."""

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import numpy as np
import torch

from loupe.augment.pipeline import Augmenter
from loupe.cache import cache_folder
from loupe.config.network import weights_of
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.dataset import Dataset
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images, load_images
from loupe.data.pixels.read_ahead import steps_in
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.devices import Compute, StopSignal, has_bf16_matrix_units, precisions
from loupe.evaluate.comparison_results import Cost
from loupe.log import terminal
from loupe.models.build import build, skeleton
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines
from loupe.training.frozen import FrozenPass, trunk_key
from loupe.training.precision import TimedSteps, resolve_frozen
from loupe.training.solver import solving_seconds
from loupe.training.stage_data import views_of

SAMPLED_IMAGES = 128
FORWARD_SHARE = 1 / 3  # of a training step, which goes forward once and backward at twice that cost


@dataclass
class Planner:
    """Estimates the cost of runs on the same images, in the order of the runs.

    Attributes:
        processes: number of processes that share the images of each step, as fast as this one together. The time in
            which they exchange gradients is left out.
        kept: keys of the cache entries that earlier runs leave for later ones.
    """

    table: ImageTable
    split: Split
    device: torch.device
    processes: int = 1
    kept: set[tuple[object, ...]] = field(default_factory=set)

    def cost(self, recipe: ResolvedRecipe) -> Cost:
        """Expected cost of a training.

        Raises:
            DataError: the sampled images cannot be decoded.
            ConfigError: the network cannot be built.
        """
        began = time.perf_counter()
        images = self._sample(recipe)
        decoding = (time.perf_counter() - began) / len(images.table) * self._images / self.processes
        seconds = decoding if self._is_new(_pixels(recipe.preprocessing)) else 0.0
        model = build(recipe.model, recipe.preprocessing, self.table.classes, recipe.seed).to(self.device)
        loader, engines = BatchLoader(images.store, images.table.labels, self.device), Engines()
        disk_bytes = 0
        for stage in recipe.stages:
            model.learn(stage.part, batch_statistics=stage.batch_statistics)
            if model.frozen:
                spent, size = self._frozen(recipe, stage, model, images, loader, engines)
                seconds, disk_bytes = seconds + spent, disk_bytes + size
            if stage.is_solved:
                seconds += solving_seconds(model, stage, len(self.split.train))
            else:
                seconds += self._training(recipe, stage, model, loader)
        return Cost(seconds, disk_bytes, peak_memory_bytes(self.device))

    @property
    def _images(self) -> int:
        return sum(len(self.split.rows(name)) for name in ("train", "val", "test"))

    def _is_new(self, key: tuple[object, ...]) -> bool:
        """True if no earlier run has left this cache entry; from now on it is there."""
        new = key not in self.kept
        self.kept.add(key)
        return new

    def add_finished(self, recipe: ResolvedRecipe) -> None:
        """Record the cache entries of a finished run of this recipe."""
        self._is_new(_pixels(recipe.preprocessing))
        model = skeleton(recipe.model, recipe.preprocessing, self.table.classes)
        for stage in recipe.stages:
            if frozen := model.blocks_before(stage.part):
                self._new_views(recipe, stage, frozen)

    def _sample(self, recipe: ResolvedRecipe) -> Images:
        """A few training images, evenly spread."""
        train_N = self.split.train
        rows = np.unique(np.linspace(0, len(train_N) - 1, min(SAMPLED_IMAGES, len(train_N)), dtype=np.int64))
        chosen = self.table.select(train_N[rows])
        with terminal(quiet=True):
            return load_images(Dataset(None, chosen), recipe.preprocessing, cache=None, skip_damaged=True)

    def _frozen(
        self,
        recipe: ResolvedRecipe,
        stage: ResolvedStage,
        model: Classifier,
        images: Images,
        loader: BatchLoader,
        engines: Engines,
    ) -> tuple[float, int]:
        """Seconds and bytes for the frozen blocks of a stage: once for each image and each augmented view."""
        asked = recipe.precision
        precision, _ = resolve_frozen(
            recipe.frozen_precision,
            asked=asked,
            run="fp32" if asked == "auto" else asked,
            model=model,
            loader=loader,
            rows_N=_every(loader),
            engines=engines,
        )
        augmenter = Augmenter(stage.augment, model.preprocessing, recipe.seed)
        frozen = FrozenPass(
            model,
            trunk_key(recipe.model),
            loader,
            images.content,
            cache_folder() / "frozen",
            Compute(self.device, precision),
            StopSignal(),  # not entered: Ctrl-C ends the plan at once
            engines,
        )
        each = frozen.estimate(_every(loader), lambda batch: augmenter.train(batch.x_BCHW, batch.index_B, 0))
        new = self._new_views(recipe, stage, model.frozen)
        return each.seconds * new / self.processes, each.size_bytes(new)

    def _new_views(self, recipe: ResolvedRecipe, stage: ResolvedStage, frozen: int) -> int:
        """Number of images and views of a stage whose activations after `frozen` blocks no earlier run has left."""
        network = _blocks(recipe, stage)
        plain, last, train = stage.augment == AugmentSpec(), stage is recipe.stages[-1], len(self.split.train)
        evaluated = self._images - (0 if plain else train) - (0 if last else len(self.split.test))
        new = 0
        every = ("evaluation", network, frozen, self._images)  # activations of all images serve any subset
        if every not in self.kept and self._is_new(("evaluation", network, frozen, evaluated)):
            new += evaluated
        if not plain and stage.views != "fresh" and not stage.augment.mixes:
            views = ("augmented", network, frozen, train, stage.augment, recipe.seed)
            new += train * sum(self._is_new((*views, number)) for number in range(views_of(stage)))
        return new

    def _training(self, recipe: ResolvedRecipe, stage: ResolvedStage, model: Classifier, loader: BatchLoader) -> float:
        """Seconds of all epochs of a stage, with their validation."""
        timed = partial(
            TimedSteps,
            model,
            stage=stage,
            augmenter=Augmenter(stage.augment, model.preprocessing, recipe.seed),
            loader=loader,
            weights_K=None,
        )
        steps = timed(train_N=_every(loader))
        either = self.device.type != "cpu" or has_bf16_matrix_units(self.device)
        wanted = precisions(self.device) if either else ("fp32",)
        times = {precision: steps.seconds(precision) for precision in wanted}
        fastest = min(times, key=lambda precision: times[precision])
        step = times[fastest] * stage.batch_size / steps.images / self.processes
        train, evaluated = len(self.split.train), len(self.split.val)
        whole = -(-min(stage.batch_size, train) // self.processes)
        if steps.images < whole:  # to measure the memory of a whole batch, or of a rank's share of it
            timed(train_N=np.resize(_every(loader), whole), images=whole).first_step(fastest)
        epoch = step * (steps_in(train, stage.batch_size) + FORWARD_SHARE * evaluated / stage.batch_size)
        return stage.planned_epochs * epoch


def _pixels(preprocessing: Preprocessing) -> tuple[object, ...]:
    """Key of the pixel cache."""
    return (
        *("pixels", preprocessing.load_px, preprocessing.resize, preprocessing.interpolation),
        preprocessing.range,
        preprocessing.channels,
    )


def _blocks(recipe: ResolvedRecipe, stage: ResolvedStage) -> tuple[object, ...]:
    """Key of what the outputs of frozen blocks depend on: network, weights and pixels.

    Weights that are random or that an earlier stage trains are those of this seed and these stages alone.
    """
    weights = weights_of(recipe.model)
    earlier = tuple(takewhile(lambda other: other is not stage, recipe.stages))
    trained = "none" in weights or any(other.part != "head" for other in earlier)
    return (trunk_key(recipe.model), weights, recipe.preprocessing, (recipe.seed, earlier) if trained else None)


def _every(loader: BatchLoader) -> np.ndarray:
    return np.arange(len(loader.labels_N))


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory of this process: of the GPU if `device` is one, else of the machine; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(ImportError):  # Windows has no such module
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def total(costs: Iterable[Cost]) -> Cost:
    """Cost of all runs of a plan, one after the other."""
    costs = list(costs)
    memory = [cost.memory_bytes for cost in costs if cost.memory_bytes is not None]
    return Cost(
        sum(cost.seconds for cost in costs), sum(cost.disk_bytes for cost in costs), max(memory) if memory else None
    )
