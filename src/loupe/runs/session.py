"""One process's work on one run: recipe and images become objects, and objects are trained."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loupe import provenance
from loupe.augment.pipeline import Augmenter
from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec, Network
from loupe.config.optimizer import Logistic
from loupe.config.recipe import Precision, Preprocessing, Recipe
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images, pixel_statistics
from loupe.data.splits.split import Split
from loupe.devices import Compute, StopSignal, give_back_memory, keep_freed_memory
from loupe.errors import ConfigError, InterruptedRunError, StoppedError, enough_memory
from loupe.evaluate import inference
from loupe.log import logger
from loupe.models.build import build
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines
from loupe.recipes.resolve import preprocessing_of
from loupe.rundir import RunDirectory
from loupe.runs.finalize import RunFinalizer
from loupe.training.checkpoint import Checkpoints
from loupe.training.loop import Trainer
from loupe.training.precision import resolve as resolve_precision
from loupe.training.precision import resolve_frozen
from loupe.training.stage_data import StageData, StageDataBuilder


def _weights_file(network: Network) -> Path | None:
    """The file of pretrained weights that a network was built from; None where there is none."""
    if not isinstance(network, BackboneSpec):
        return None
    from loupe.models.timm import backbones  # imported lazily: timm imports slowly

    return backbones.weights_file(network)


def _without_weights(network: Network) -> Network:
    return network.model_copy(update={"weights": "none"}) if isinstance(network, BackboneSpec) else network


@dataclass
class Session:
    """One process's work on one run: everything from images that can be read to the report."""

    directory: RunDirectory
    recipe: Recipe
    images: Images
    split: Split
    device: torch.device
    began: float
    open_test: bool = True

    def run(self) -> None:
        """Trains, from the last checkpoint on, evaluates, and writes the outcome.

        Raises:
            InterruptedRunError: asked to stop; LoupeError: there is not enough memory, or the loss diverged. What was
                saved stays.
        """
        with enough_memory(self._with_less_memory()):
            try:
                self._run()
            finally:
                give_back_memory()

    def _with_less_memory(self) -> str:
        """What to do where the memory does not suffice."""
        sizes = [stage.batch_size for stage in self.recipe.stages if not isinstance(stage.optimizer, Logistic)]
        less = f"--batch-size {max(sizes) // 2}" if sizes and max(sizes) > 1 else "a smaller input.size_px"
        return (
            f"Train again with {less}, or on another --device; or, where other programs hold the memory, end them and "
            f"go on with: {self.directory.resume_command}"
        )

    def _run(self) -> None:
        keep_freed_memory()
        recipe, labels_N = self.recipe, self.images.table.labels
        preprocessing = self._preprocessing()
        checkpoints = Checkpoints(self.directory.checkpoints)
        network = _without_weights(recipe.model) if checkpoints.begun else recipe.model  # a checkpoint has them all
        model = build(network, preprocessing, self.images.table.classes, recipe.seed).to(self.device)
        if not checkpoints.begun:
            provenance.record_weights(self.directory, _weights_file(recipe.model))
        feed = BatchLoader(self.images.store, labels_N, self.device)
        class_weights_K = self._class_weights()
        asked = self.recipe.precision
        arithmetic = self._arithmetic(model, feed, class_weights_K)
        engines = Engines()
        frozen_arithmetic = self._frozen_arithmetic(asked, arithmetic, model, feed, engines)
        load_seconds = time.perf_counter() - self.began

        def validate(network: Classifier, work: StageData) -> dict[str, Any]:
            logits_NK = inference.logits(network, work.validation, self.split.val, arithmetic, work.validation_first)
            return inference.scores(logits_NK, labels_N[self.split.val])

        with StopSignal() as stop:
            preparation = StageDataBuilder(
                model=model,
                network=recipe.model.model_dump_json(exclude={"weights", "hidden"}),
                feed=feed,
                content=self.images.content,
                train_N=self.split.train,
                test_N=self.split.test,
                seed=recipe.seed,
                folder=cache_folder() / "frozen",
                arithmetic=arithmetic,
                frozen_arithmetic=frozen_arithmetic,
                stop=stop,
                engines=engines,
            )
            try:
                position = Trainer(
                    model,
                    stages=recipe.stages,
                    prepare=preparation.of,
                    train_N=self.split.train,
                    validate=validate,
                    checkpoints=checkpoints,
                    on_epoch=self._log,
                    arithmetic=arithmetic,
                    class_weights_K=class_weights_K,
                    monitor=recipe.monitor,
                    keep_best=recipe.keep == "best",
                    stop=stop,
                ).fit()
            except StoppedError:
                raise self._interrupted() from None
        if position.stage < len(recipe.stages):
            raise self._interrupted()
        outcome = RunFinalizer(self.directory, self.recipe, self.images, self.split, self.open_test)
        outcome.write(model, preparation, position, load_seconds)

    def _interrupted(self) -> InterruptedRunError:
        return InterruptedRunError(f"stopped and saved. Go on with: {self.directory.resume_command}")

    def _preprocessing(self) -> Preprocessing:
        """The preprocessing with the statistics of the training pixels, which are computed once and recorded."""
        preprocessing, given = preprocessing_of(self.recipe), self.recipe.input
        if given.normalise == "unit":
            return preprocessing
        mean, std = given.mean, given.std
        if given.normalise == "given" and (mean is None or std is None):
            raise ConfigError("input.normalise is given: set input.mean and input.std too, three numbers each.")
        if mean is None or std is None:
            by_channel = given.normalise == "channels"
            mean, std = pixel_statistics(self.images.store, self.split.train, by_channel=by_channel)
            self._record({"input": given.model_copy(update={"mean": mean, "std": std})})
        return preprocessing.model_copy(update={"mean": mean, "std": std})

    def _record(self, resolved: dict[str, Any]) -> None:
        """Writes into the run's recipe what was settled just now: a resumed or repeated run takes it from there."""
        self.recipe = self.recipe.model_copy(update=resolved)
        self.directory.write_recipe(self.recipe)

    def _log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """The learning curves as they grow. The checkpoint has them too, so that failing here loses nothing."""
        try:
            self.directory.write_metrics(history)
        except OSError as error:
            logger.warning(f"metrics.csv cannot be written now: {error.strerror or error}. Is it open elsewhere?")

    def _class_weights(self) -> torch.Tensor | None:
        """For `balanced`, N / (K · N_k) over the K classes that training has: each weighs the same in all."""
        if self.recipe.class_weights == "none":
            return None
        counts_K = np.bincount(self.images.table.labels[self.split.train], minlength=len(self.images.table.classes))
        weights_K = np.where(counts_K > 0, counts_K.sum() / ((counts_K > 0).sum() * np.maximum(counts_K, 1)), 0.0)
        return torch.tensor(weights_K, dtype=torch.float32, device=self.device)

    def _arithmetic(self, model: Classifier, feed: BatchLoader, class_weights_K: torch.Tensor | None) -> Compute:
        """Settles the precision, and records it: a resumed or repeated run computes as this one does."""
        stage = self.recipe.stages[-1]
        precision, reason = resolve_precision(
            self.recipe.precision,
            model,
            stage=stage,
            augmenter=Augmenter(stage.augment, model.preprocessing, self.recipe.seed),
            feed=feed,
            train_N=self.split.train,
            class_weights_K=class_weights_K,
        )
        if self.recipe.precision == "auto":
            logger.info(reason)
            self._record({"precision": precision})
        return Compute(self.device, precision)

    def _frozen_arithmetic(
        self, asked: Precision, run: Compute, model: Classifier, feed: BatchLoader, engines: Engines
    ) -> Compute:
        """The same for what is frozen; where nothing is, it goes without saying."""
        precision = run.precision
        if any(model.blocks_before(stage.part) for stage in self.recipe.stages):
            precision, reason = resolve_frozen(
                self.recipe.frozen_precision,
                asked=asked,
                run=run.precision,
                model=model,
                feed=feed,
                rows_N=self.split.train,
                engines=engines,
            )
            if reason:
                logger.info(reason)
        if self.recipe.frozen_precision == "auto":
            self._record({"frozen_precision": precision})
        return Compute(self.device, precision)
