"""Inputs of a stage: images, or the outputs of frozen blocks, which are computed once."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import AugmentSpec
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.batches import BatchLoader
from loupe.devices import Compute, StopSignal
from loupe.log import logger
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, digest_of
from loupe.training.activation_loader import ActivationLoader, CyclicAugment, IdentityAugment
from loupe.training.frozen import FrozenPass


@dataclass(frozen=True)
class StageData:
    """Training and validation inputs of one stage: images, or outputs of the frozen blocks.

    Attributes:
        first: block that receives the training inputs; above 0, these are outputs of the block before.
        validation_first: the same for the validation inputs.
        views: views of each training image that are used in turn.
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
        network: its name and settings, without its weights.
        loader: the images; content: their hashes, in the order of the table.
        train_N: rows to train on; test_N: those that are looked at when training has come to its end.
        folder: where activations are kept; frozen_arithmetic: what they are computed with.
        seconds: spent so far on computing what is frozen, or on finding it.
        alone_seconds: what this takes where nothing of it is found; None where that is not known.
    """

    model: Classifier
    network: str
    loader: BatchLoader
    content: tuple[str, ...]
    train_N: np.ndarray
    test_N: np.ndarray
    seed: int
    folder: Path
    arithmetic: Compute
    frozen_arithmetic: Compute
    stop: StopSignal
    engines: Engines
    seconds: float = 0.0
    alone_seconds: float | None = 0.0
    _kept: tuple[str, StageData] | None = None

    def of(self, stage: ResolvedStage, first_epoch: int, last: bool) -> StageData:
        """Build the inputs of a stage that begins with the present weights of the model.

        Args:
            first_epoch: of the stage, over all stages; last: whether it is the last of them.

        Raises:
            StoppedError: asked to stop during the pass through the frozen blocks.
        """
        self.model.learn(stage.part, batch_statistics=stage.batch_statistics)
        self._kept = None
        augmenter = Augmenter(stage.augment, self.model.preprocessing, self.seed)
        stage_data = None
        if self.model.frozen:
            began, frozen = time.perf_counter(), self._frozen_pass()
            stage_data = self._on_activations(frozen, stage, augmenter, first_epoch, last)
            taken = time.perf_counter() - began
            self.seconds += taken
            if self.alone_seconds is not None:
                self.alone_seconds = None if frozen.spent is None else self.alone_seconds + max(taken, frozen.spent)
        return stage_data or StageData(self.loader, self.loader, augmenter, views=views_of(stage))

    def _frozen_pass(self) -> FrozenPass:
        return FrozenPass(
            self.model,
            self.network,
            self.loader,
            self.content,
            self.folder,
            self.frozen_arithmetic,
            self.stop,
            self.engines,
        )

    def _on_activations(
        self, frozen: FrozenPass, stage: ResolvedStage, augmenter: Augmenter, first_epoch: int, last: bool
    ) -> StageData | None:
        """Inputs from cached outputs; None if none can be cached. Uncached ones are computed in every epoch."""
        rows_N, views, number = np.arange(len(self.loader.labels_N)), views_of(stage), self.model.frozen
        if stage.augment != AugmentSpec():  # then nobody looks at training images as evaluation sees them
            rows_N = np.setdiff1d(rows_N, self.train_N)
        if not last:
            rows_N = np.setdiff1d(rows_N, self.test_N)
        kept = frozen.evaluation(rows_N)
        in_turn = CyclicAugment(augmenter, first_epoch, views)
        if kept is None:
            return None if stage.augment.mixes else StageData(self.loader, self.loader, in_turn, views=views)
        if stage.augment == AugmentSpec():
            stage_data = StageData(kept, kept, IdentityAugment(self.seed), first=number, validation_first=number)
        elif reason := _why_not_kept(stage):
            logger.info(f"{reason}: the frozen blocks run in every epoch.")
            stage_data = StageData(self.loader, kept, augmenter, validation_first=number, views=views)
        elif loader := frozen.augmented(augmenter, range(first_epoch, first_epoch + views), self.train_N):
            stage_data = StageData(
                loader, kept, IdentityAugment(self.seed), first=number, validation_first=number, views=views
            )
        else:
            stage_data = StageData(self.loader, kept, in_turn, validation_first=number, views=views)
        self._kept = (frozen.digest, stage_data)
        return stage_data

    def evaluation(self) -> tuple[BatchLoader | ActivationLoader, int]:
        """Inputs to evaluate the model on, and the block that receives them.

        Activations only while they are those of the model's own frozen blocks: the best weights may be of a stage
        before.
        """
        if self._kept and self._kept[0] == digest_of(self.model.trunk[: self.model.frozen]):
            return self._kept[1].validation, self._kept[1].validation_first
        return self.loader, 0


def _why_not_kept(stage: ResolvedStage) -> str | None:
    if stage.augment.mixes:
        return "inputs mixed by mixup or cutmix cannot be cached"
    return "views are fresh, as set" if stage.views == "fresh" else None


def views_of(stage: ResolvedStage) -> int:
    """Number of views of each training image in a stage."""
    return stage.epochs if stage.views == "fresh" else min(stage.views, stage.epochs)
