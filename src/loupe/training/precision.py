"""What a training step takes on this machine, timed over a few of them, and which precision is the fastest.

Where only the head learns, nearly all of the work is the pass through what is frozen, and that is timed in its place.
"""

import copy
import itertools
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.data.batches import Batch, Feed
from loupe.models.classifier import Classifier
from loupe.recipe import Precision, Stage
from loupe.runtime import Arithmetic, Resolved, fastest_precision, precisions
from loupe.training.feeds import AsStored
from loupe.training.frozen import PASS_BATCH
from loupe.training.learner import Learner

TIMED_STEPS = 3
TIMED_PIXELS = 2**19


def resolve(
    wanted: Precision,
    model: Classifier,
    *,
    stage: Stage,
    augmenter: Augmenter,
    feed: Feed,
    train_N: np.ndarray,
    class_weights_K: Tensor | None,
) -> tuple[Resolved, str]:
    """The precision to train in, and the reason.

    `auto` is timed on copies of the model: what learns in this stage, on what the frozen blocks make of some images.
    """
    if wanted != "auto":
        return wanted, f"precision {wanted}, as asked for"
    if stage.part == "head" and feed.device.type == "cpu":
        return "fp32", "precision fp32: only the head learns"
    if stage.part == "head":
        frozen = TimedPass(model, feed=feed, train_N=train_N)
        return fastest_precision(precisions(feed.device), frozen.seconds, f"{frozen.images} images' frozen pass")
    steps = TimedSteps(model, stage=stage, augmenter=augmenter, feed=feed, train_N=train_N, weights_K=class_weights_K)
    return fastest_precision(precisions(feed.device), steps.seconds)


class TimedPass:
    """The blocks before the head on images as evaluation sees them, to be timed.

    Attributes:
        images: in a pass.
    """

    def __init__(self, model: Classifier, *, feed: Feed, train_N: np.ndarray) -> None:
        self._device = feed.device
        self._blocks = copy.deepcopy(model.trunk[: model.blocks_before("head")]).eval()
        batch = next(feed.batches(train_N[:PASS_BATCH], PASS_BATCH))
        self._x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
        self.images = len(batch)

    @torch.inference_mode()
    def seconds(self, precision: Resolved) -> float:
        """What one pass takes in that precision."""
        arithmetic = Arithmetic(self._device, precision)
        began = 0.0
        for number in range(1 + TIMED_STEPS):
            if number == 1:  # the first compiles kernels and fills caches
                arithmetic.synchronize()
                began = time.perf_counter()
            with arithmetic.autocast():
                self._blocks(self._x_BCHW)
        arithmetic.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS


class TimedSteps:
    """Training steps of a stage, to be timed on copies of its model.

    Attributes:
        images: in a step; by default few where they are large, as timing them must not cost an epoch.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        stage: Stage,
        augmenter: Augmenter,
        feed: Feed,
        train_N: np.ndarray,
        weights_K: Tensor | None,
        images: int | None = None,
    ) -> None:
        self._stage, self._device, self._weights_K = stage, feed.device, weights_K
        self._model = copy.deepcopy(model)
        self._model.learn(stage.part, batch_statistics=stage.batch_statistics)
        most = min(stage.batch_size, max(8, TIMED_PIXELS // model.preprocessing.size_px**2))
        self.images = images or min(most, len(train_N))
        rows_N = train_N[: self.images * (1 + TIMED_STEPS)]
        self._batches = [_past_frozen(self._model, batch) for batch in feed.batches(rows_N, self.images)]
        self._views = AsStored(augmenter.seed) if self._model.frozen else augmenter

    def seconds(self, precision: Resolved) -> float:
        """What one step takes in that precision."""
        learner = self.one(precision)  # the first step compiles kernels and fills caches
        whole = [batch for batch in self._batches[1:] if len(batch) >= self.images]  # the last may be of fewer
        began, batches = time.perf_counter(), itertools.cycle(whole or self._batches[:1])
        for step in range(1, 1 + TIMED_STEPS):
            self._step(learner, next(batches), step)
        learner.arithmetic.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS

    def one(self, precision: Resolved) -> Learner:
        """Takes one step, and gives what took it."""
        arithmetic = Arithmetic(self._device, precision)
        model = copy.deepcopy(self._model)
        learner = Learner(model, self._stage, self._views, arithmetic, self._weights_K, model.frozen)
        self._step(learner, self._batches[0], 0)
        arithmetic.synchronize()
        return learner

    def _step(self, learner: Learner, batch: Batch, step: int) -> None:
        learner.train_step(batch, None, epoch=0, step=step, steps=step, lr=self._stage.lr)


@torch.no_grad()
def _past_frozen(model: Classifier, batch: Batch) -> Batch:
    """The batch with activations in the place of images, where blocks are frozen."""
    if not model.frozen:
        return batch
    x_BCHW, blocks = evaluation_view(batch.x_BCHW, model.preprocessing), model.trunk[: model.frozen].eval()
    parts = [x_BCHW[first : first + PASS_BATCH] for first in range(0, len(x_BCHW), PASS_BATCH)]
    return replace(batch, x_BCHW=torch.cat([blocks(part) for part in parts]))
