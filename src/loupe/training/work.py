"""What a stage learns from: images, or the activations of the blocks before it, which are computed once."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.augment.pipeline import Augmenter
from loupe.console import Console
from loupe.data.batches import Feed
from loupe.models.classifier import Classifier
from loupe.recipe import AugmentSpec, Stage
from loupe.runtime import Arithmetic, StopSignal
from loupe.training.frozen import AsStored, FrozenFeed, FrozenPass, digest_of

AUTOMATIC_VIEWS = 4


@dataclass(frozen=True)
class Work:
    """What one stage learns from and is validated on: images, or what the blocks before number `first` make of them.

    `views`: how many of each training image take turns over the epochs.
    """

    feed: Feed | FrozenFeed
    validation: Feed | FrozenFeed
    augmenter: Augmenter | AsStored
    first: int = 0
    views: int = 1


@dataclass
class Preparation:
    """Prepares the work of each stage of a run.

    Attributes:
        feed: the images; content: their hashes, in the order of the table; train_N: rows to train on.
        folder: where activations are kept.
        seconds: spent so far on computing what is frozen.
    """

    model: Classifier
    feed: Feed
    content: tuple[str, ...]
    train_N: np.ndarray
    seed: int
    folder: Path
    arithmetic: Arithmetic
    console: Console
    stop: StopSignal
    seconds: float = 0.0
    _kept: tuple[str, Work] | None = None

    def of(self, stage: Stage, first_epoch: int) -> Work:
        """The work of a stage that begins with the weights that the model has now.

        Args:
            first_epoch: of the stage, over all stages.

        Raises:
            StoppedError: asked to stop while what is frozen was computed.
        """
        self.model.learn(stage.part)
        self._kept = None
        augmenter = Augmenter(stage.augment, self.model.preprocessing, self.seed)
        began = time.perf_counter()
        work = self._on_activations(stage, augmenter, first_epoch) if self.model.frozen else None
        self.seconds += time.perf_counter() - began
        return work or Work(self.feed, self.feed, augmenter, views=views_of(stage))

    def _on_activations(self, stage: Stage, augmenter: Augmenter, first_epoch: int) -> Work | None:
        """None where every epoch has to compute what is frozen anew, which is said."""
        if stage.augment.mixes:
            self.console.say("mixing images makes each input another one: what is frozen is computed in every epoch.")
            return None
        plain = stage.augment == AugmentSpec()
        if stage.views == "fresh" and not plain:
            self.console.say("fresh views: what is frozen is computed anew in every epoch, as asked for.")
            return None
        frozen = FrozenPass(self.model, self.feed, self.content, self.folder, self.arithmetic, self.console, self.stop)
        everything = frozen.evaluation(np.arange(len(self.feed.labels_N)))
        if everything is None:
            return None
        feed: FrozenFeed | None = everything
        if not plain:
            epochs = range(first_epoch, first_epoch + views_of(stage))
            feed = frozen.augmented(augmenter, epochs, self.train_N)
        if feed is None:
            return None
        work = Work(feed, everything, AsStored(self.seed), first=self.model.frozen, views=views_of(stage))
        self._kept = (frozen.digest, work)
        return work

    def evaluation(self) -> tuple[Feed | FrozenFeed, int]:
        """What the model can be evaluated on now, and the block at which that enters.

        Activations only while they are those of the model's own frozen blocks: the best weights may be of a stage
        before.
        """
        if self._kept and self._kept[0] == digest_of(self.model):
            return self._kept[1].validation, self._kept[1].first
        return self.feed, 0


def views_of(stage: Stage) -> int:
    """How many views of each training image a stage has."""
    if stage.augment == AugmentSpec():
        return 1
    if stage.views == "fresh":
        return stage.epochs
    return min(AUTOMATIC_VIEWS if stage.views == "auto" else stage.views, stage.epochs)
