"""Which precision this network trains fastest in, on this machine: a few timed steps of each."""

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
    # Large images are timed in small batches: the comparison is the same, and it must not cost an epoch.
    images = min(stage.batch_size, max(8, TIMED_PIXELS // model.preprocessing.size_px**2))
    model = copy.deepcopy(model)
    model.learn(stage.part)
    timed = [_past_frozen(model, batch) for batch in feed.batches(train_N[: images * (1 + TIMED_STEPS)], images)]
    views = AsStored(augmenter.seed) if model.frozen else augmenter

    def seconds(precision: Resolved) -> float:
        arithmetic = Arithmetic(feed.device, precision)
        learner = Learner(copy.deepcopy(model), stage, views, arithmetic, class_weights_K, model.frozen)
        batches = itertools.cycle(timed)
        began = 0.0
        for step in range(1 + TIMED_STEPS):
            if step == 1:  # the first step compiles kernels and fills caches
                learner.arithmetic.synchronize()
                began = time.perf_counter()
            learner.train_step(next(batches), None, epoch=0, step=step, steps=step, lr=stage.lr)
        learner.arithmetic.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS

    return fastest_precision(precisions(feed.device), seconds)


@torch.no_grad()
def _past_frozen(model: Classifier, batch: Batch) -> Batch:
    """The batch with activations in the place of images, where blocks are frozen."""
    if not model.frozen:
        return batch
    x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
    return replace(batch, x_BCHW=model.trunk[: model.frozen].eval()(x_BCHW))
