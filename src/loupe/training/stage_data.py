"""Inputs of a stage: images, or cached outputs of the frozen blocks."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import AugmentSpec
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.batches import BatchLoader
from loupe.devices import Compute, StopSignal
from loupe.log import logger
from loupe.models.blend import members_of
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, digest_of
from loupe.training.activation_loader import ActivationLoader, CyclicAugment, IdentityAugment
from loupe.training.blend_pass import BlendPass
from loupe.training.frozen import FrozenPass


@dataclass(frozen=True)
class StageData:
    """Training and validation inputs of one stage: images, or outputs of the frozen blocks.

    Attributes:
        first: block that receives the training inputs; above 0, the inputs are outputs of the block before.
        validation_first: block that receives the validation inputs.
        views: number of views of each training image, used in turn.
    """

    loader: BatchLoader | ActivationLoader
    validation: BatchLoader | ActivationLoader
    augmenter: Augmenter | IdentityAugment | CyclicAugment
    first: int = 0
    validation_first: int = 0
    views: int = 1


@dataclass
class StageDataBuilder:
    """Builder of the inputs of each stage of a run.

    Attributes:
        network: `trunk_key` of the network.
        members: the same of each member of a blend of features; empty for all other networks.
        loader: loader of the images.
        content: hashes of the images, in the order of the table.
        train_N: rows to train on.
        test_N: rows that are evaluated after the last stage only.
        unused_N: rows of no split, whose activations are not computed.
        folder: cache of activations.
        compute: device and precision of training.
        frozen_compute: device and precision of the frozen blocks.
        seconds: time spent so far on computing the outputs of frozen blocks, or on loading them.
        alone_seconds: the same without any cached outputs; None if unknown.
        latest: inputs that were built last.
    """

    model: Classifier
    network: str
    loader: BatchLoader
    content: tuple[str, ...]
    train_N: np.ndarray
    test_N: np.ndarray
    seed: int
    folder: Path
    compute: Compute
    frozen_compute: Compute
    stop: StopSignal
    engines: Engines
    unused_N: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    members: tuple[str, ...] = ()
    seconds: float = 0.0
    alone_seconds: float | None = 0.0
    latest: StageData | None = None
    _cached: tuple[str, StageData] | None = None

    def of(self, stage: ResolvedStage, first_epoch: int, last: bool) -> StageData:
        """Build the inputs of a stage that begins with the present weights of the model.

        Args:
            first_epoch: number of the stage's first epoch over all stages, from 0.
            last: True for the last stage.

        Raises:
            StoppedError: asked to stop during the pass through the frozen blocks.
        """
        self.model.learn(stage.part, batch_statistics=stage.batch_statistics)
        self._cached = None
        augmenter = Augmenter(stage.augment, self.model.preprocessing, self.seed)
        stage_data = None
        if self.model.frozen:
            began, frozen = time.perf_counter(), self._frozen_pass()
            stage_data = self._on_activations(frozen, stage, augmenter, first_epoch, last)
            elapsed = time.perf_counter() - began
            self.seconds += elapsed
            computed, alone = frozen.computed_seconds, self.alone_seconds
            self.alone_seconds = None if computed is None or alone is None else alone + max(elapsed, computed)
        self.latest = stage_data or StageData(self.loader, self.loader, augmenter, views=views_of(stage))
        return self.latest

    def _frozen_pass(self) -> FrozenPass | BlendPass:
        if self.members:
            pairs = zip(members_of(self.model), self.members, strict=True)
            return BlendPass(
                self.model, tuple((member, self._pass_of(member.frozen, key, Engines())) for member, key in pairs)
            )
        return self._pass_of(self.model, self.network, self.engines)

    def _pass_of(self, model: Classifier, network: str, engines: Engines) -> FrozenPass:
        return FrozenPass(
            model, network, self.loader, self.content, self.folder, self.frozen_compute, self.stop, engines
        )

    def _on_activations(
        self, frozen: FrozenPass | BlendPass, stage: ResolvedStage, augmenter: Augmenter, first_epoch: int, last: bool
    ) -> StageData | None:
        """Inputs from cached outputs; None if none can be cached. Uncached ones are computed in every epoch."""
        rows_N, views, number = np.arange(len(self.loader.labels_N)), views_of(stage), self.model.frozen
        if len(self.unused_N):
            rows_N = np.setdiff1d(rows_N, self.unused_N)
        if stage.augment != AugmentSpec():  # training images are then not used in the evaluation view
            rows_N = np.setdiff1d(rows_N, self.train_N)
        if not last:
            rows_N = np.setdiff1d(rows_N, self.test_N)
        evaluation = frozen.evaluation(rows_N)
        in_turn = CyclicAugment(augmenter, first_epoch, views)
        if evaluation is None:
            return None if stage.augment.mixes else StageData(self.loader, self.loader, in_turn, views=views)
        if stage.augment == AugmentSpec():
            stage_data = StageData(
                evaluation, evaluation, IdentityAugment(self.seed), first=number, validation_first=number
            )
        elif reason := _why_not_cached(stage):
            logger.info(f"{reason}: the frozen blocks run in every epoch.")
            stage_data = StageData(self.loader, evaluation, augmenter, validation_first=number, views=views)
        elif loader := frozen.augmented(augmenter, range(first_epoch, first_epoch + views), self.train_N):
            stage_data = StageData(
                loader, evaluation, IdentityAugment(self.seed), first=number, validation_first=number, views=views
            )
        else:
            stage_data = StageData(self.loader, evaluation, in_turn, validation_first=number, views=views)
        self._cached = (frozen.digest, stage_data)
        return stage_data

    def evaluation(self) -> tuple[BatchLoader | ActivationLoader, int]:
        """Inputs to evaluate the model on, and the block that receives them.

        They are activations only if the model still has the frozen blocks that computed them: the best weights may be
        those of an earlier stage.
        """
        if self._cached and self._cached[0] == digest_of(self.model.trunk[: self.model.frozen]):
            return self._cached[1].validation, self._cached[1].validation_first
        return self.loader, 0


def _why_not_cached(stage: ResolvedStage) -> str | None:
    """Reason why outputs for training images are not cached; None if they are."""
    if stage.augment.mixes:
        return "inputs mixed by mixup or cutmix cannot be cached"
    return "views are fresh" if stage.views == "fresh" else None


def views_of(stage: ResolvedStage) -> int:
    """Number of views of each training image in a stage."""
    if stage.views == "fresh":
        return stage.planned_epochs
    return stage.views if stage.epochs == "auto" else min(stage.views, stage.epochs)
