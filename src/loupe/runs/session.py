"""Training of one run in each of its processes: from the last checkpoint on, then evaluation, results and report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe.cache import cache_folder
from loupe.devices import StopSignal, give_back_memory
from loupe.errors import InterruptedRunError, StoppedError, memory_remedy
from loupe.evaluate import inference
from loupe.log import logger
from loupe.models.classifier import Classifier
from loupe.ranks import LostRankError, current
from loupe.rundir import RunDirectory
from loupe.runs.check_split import strength_folds
from loupe.runs.finalize import RunFinalizer
from loupe.runs.folds import evaluate_by_folds
from loupe.runs.order import epoch_order
from loupe.runs.setup import TrainingSetup, less_memory
from loupe.training.blend_pass import member_keys
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder


@dataclass
class Session:
    """Training of one run in one process, from the setup to the report.

    Attributes:
        track: function called with the history after each epoch, for a tracker.
    """

    directory: RunDirectory
    setup: TrainingSetup
    began: float
    open_test: bool = True
    track: Callable[[Sequence[Mapping[str, Any]]], None] | None = None

    def run(self) -> None:
        """Train from the last checkpoint on, evaluate, and write the results.

        Raises:
            InterruptedRunError: stopped on request; the run is saved.
            NotEnoughMemoryError: too little memory; checkpoints stay.
            DivergedError: the loss is no longer finite; checkpoints stay.
            LostRankError: another rank has ended; checkpoints stay.
        """
        remedy = (
            f"{less_memory(self.setup.recipe)}. If other programs use the memory, end them and resume with: "
            f"{self.directory.resume_command}"
        )
        with memory_remedy(remedy):
            try:
                self._run()
            except LostRankError as error:
                raise LostRankError(f"{error} Resume with: {self.directory.resume_command}") from error
            finally:
                give_back_memory()

    def _run(self) -> None:
        setup, recipe, split = self.setup, self.setup.recipe, self.setup.split
        load_seconds = time.perf_counter() - self.began
        with StopSignal() as stop:
            preparation = StageDataBuilder(
                model=setup.model,
                network=trunk_key(recipe.model),
                members=member_keys(recipe.model),
                loader=setup.loader,
                content=setup.images.content,
                train_N=split.train,
                test_N=split.test,
                unused_N=self._unused(),
                seed=recipe.seed,
                folder=cache_folder() / "frozen",
                compute=setup.compute,
                frozen_compute=setup.frozen_compute,
                stop=stop,
                engines=setup.engines,
            )
            try:
                state = Trainer(
                    setup.model,
                    stages=recipe.stages,
                    prepare=preparation.of,
                    train_N=split.train,
                    validate=self._validate,
                    checkpoints=Checkpoints(self.directory.checkpoints),
                    on_epoch=self._log,
                    compute=setup.compute,
                    class_weights_K=setup.class_weights_K,
                    monitor=recipe.monitor,
                    keep_best=recipe.keeps != "last",
                    stop=stop,
                    judged_images=len(split.val) if recipe.keeps == "last-unless-beaten" else None,
                    order=epoch_order(setup.images.table, recipe.shuffle_window),
                    fold_N=strength_folds(recipe, setup.images, split),
                    ranks=current(),
                    log_prior_K=setup.log_prior_K,
                    teaching=setup.teaching,
                ).fit()
                if state.stage < len(recipe.stages):
                    raise self._interrupted(stop)
                folds = evaluate_by_folds(setup, preparation, state, stop)
            except StoppedError:
                raise self._interrupted(stop) from None
        finalizer = RunFinalizer(self.directory, recipe, setup.images, split, self.open_test, current())
        finalizer.write(setup.model, preparation, state, load_seconds, folds)

    def _unused(self) -> np.ndarray:
        """Rows that `split.train` leaves out."""
        split, images = self.setup.split, len(self.setup.images.table)
        if self.setup.recipe.split.train is None:
            return np.empty(0, np.int64)
        return np.setdiff1d(np.arange(images), np.concatenate([split.train, split.val, split.test]))

    def _interrupted(self, stop: StopSignal) -> InterruptedRunError:
        """Error of all ranks, once each has stopped and rank 0 has saved."""
        numbers = current().gather(stop.number if stop.is_asked else None)
        number = next((number for number in numbers if number is not None), stop.number)
        return InterruptedRunError(f"stopped and saved. Resume with: {self.directory.resume_command}", number)

    def _validate(self, network: Classifier, stage_data: StageData) -> dict[str, Any]:
        rows_N = self.setup.split.val
        ranks, loader, first = current(), stage_data.validation, stage_data.validation_first
        logits_NK = inference.logits(network, loader, rows_N, self.setup.compute, first, ranks=ranks)
        return ranks.from_main(lambda: inference.scores(logits_NK, self.setup.images.table.labels[rows_N]))

    def _log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the learning curves. The checkpoint has them too, so a failure here loses nothing."""
        try:
            self.directory.write_metrics(history)
        except OSError as error:
            logger.warning(f"metrics.csv cannot be written now: {error.strerror or error}. Is it open elsewhere?")
        if self.track:
            self.track(history)
