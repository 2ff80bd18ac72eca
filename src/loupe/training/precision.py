"""What a training step takes on this machine, timed over a few of them, and which precision is the fastest.

Where only the head learns, nearly all of the work is the pass through what is frozen, and that is timed in its place.
What is frozen can have a precision of its own: its rounding errors are made once and are not trained on.
"""

import copy
import itertools
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.recipe import Precision, Stage
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.devices import Compute, Resolved, fastest_precision, multiplies_bf16, precisions
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, TorchEngine
from loupe.training.activation_loader import IdentityAugment
from loupe.training.frozen import PASS_BATCH
from loupe.training.train_step import TrainStep

TIMED_STEPS = 3
TIMED_PIXELS = 2**19
AGREEMENT = 0.999  # the mean cosine between features in bf16 and in fp32, from which heads predict the same


def resolve(
    wanted: Precision,
    model: Classifier,
    *,
    stage: Stage,
    augmenter: Augmenter,
    loader: BatchLoader,
    train_N: np.ndarray,
    class_weights_K: Tensor | None,
) -> tuple[Resolved, str]:
    """The precision to train in, and the reason.

    `auto` is timed on copies of the model: what learns in this stage, on what the frozen blocks make of some images.
    """
    if wanted != "auto":
        return wanted, f"precision {wanted}, as asked for"
    if stage.part == "head" and loader.device.type == "cpu":
        return "fp32", "precision fp32: only the head learns"
    if stage.part == "head":
        frozen = TimedPass(model, loader=loader, train_N=train_N)
        return fastest_precision(precisions(loader.device), frozen.seconds, f"{frozen.images} images' frozen pass")
    steps = TimedSteps(
        model, stage=stage, augmenter=augmenter, loader=loader, train_N=train_N, weights_K=class_weights_K
    )
    return fastest_precision(precisions(loader.device), steps.seconds)


def resolve_frozen(
    wanted: Precision,
    *,
    asked: Precision,
    run: Resolved,
    model: Classifier,
    loader: BatchLoader,
    rows_N: np.ndarray,
    engines: Engines,
) -> tuple[Resolved, str]:
    """The precision in which what is frozen is computed, and the reason, if there is one to tell.

    `auto` is that of the run on a GPU. On a CPU it is fp32, or bf16 where that is several times as fast, on one with
    units for it, and the features of some images agree with those in fp32. It does not hang on what is trained, nor on
    the clock: runs of other recipes then find what is kept.

    Args:
        asked: the run's precision as the recipe has it: where it was named it holds here too. run: as it was resolved.
        rows_N: of the images to compare, a few of them evenly spread.
    """
    if wanted != "auto":
        return wanted, ""
    if asked != "auto" or loader.device.type != "cpu":
        return run, ""
    if not multiplies_bf16(loader.device):
        return "fp32", ""
    cosine = agreement(model, "bf16", loader=loader, rows_N=rows_N, engines=engines)
    if cosine < AGREEMENT:
        return "fp32", (
            "what is frozen is computed in fp32: in bf16, which is faster, its features agree with these to a "
            f"cosine of {cosine:.4f} only."
        )
    return "bf16", (
        "what is frozen is computed in bf16, which this processor has units for: its features agree with those in "
        f"fp32 to a cosine of {cosine:.4f}."
    )


def agreement(
    model: Classifier, precision: Resolved, *, loader: BatchLoader, rows_N: np.ndarray, engines: Engines
) -> float:
    """The mean cosine, over some images, between their features in that precision and in fp32; maps are averaged."""
    spread = np.unique(np.linspace(0, len(rows_N) - 1, min(PASS_BATCH, len(rows_N)), dtype=np.int64))
    batch = next(loader.batches(rows_N[spread], PASS_BATCH))
    x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
    blocks = copy.deepcopy(model.trunk).eval()
    reduced, _ = engines.of(blocks, Compute(loader.device, precision), model.preprocessing.size_px)
    whole = TorchEngine(blocks, Compute(loader.device, "fp32"))
    one_BC, other_BC = (_unit(next(computes.run(iter([x_BCHW])))) for computes in (reduced, whole))
    return float((one_BC * other_BC).sum(axis=1).mean())


def _unit(made: np.ndarray) -> np.ndarray:
    """A vector of length 1 for each image: maps, [B, H, W, C], and tokens, [B, N, C], are averaged over places."""
    pooled_BC = made.reshape(len(made), -1, made.shape[-1]).mean(axis=1, dtype=np.float64)
    norm_B1: np.ndarray = np.linalg.norm(pooled_BC, axis=1, keepdims=True)
    unit_BC: np.ndarray = pooled_BC / np.maximum(norm_B1, np.finfo(np.float64).tiny)
    return unit_BC


class TimedPass:
    """The blocks before the head on images as evaluation sees them, to be timed.

    Attributes:
        images: in a pass.
    """

    def __init__(self, model: Classifier, *, loader: BatchLoader, train_N: np.ndarray) -> None:
        self._device = loader.device
        self._blocks = copy.deepcopy(model.trunk[: model.blocks_before("head")]).eval()
        batch = next(loader.batches(train_N[:PASS_BATCH], PASS_BATCH))
        self._x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
        self.images = len(batch)

    @torch.inference_mode()
    def seconds(self, precision: Resolved) -> float:
        """What one pass takes in that precision."""
        arithmetic = Compute(self._device, precision)
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
        images: in a step; by default few where they are large, as timing them must not cost an epoch. Of activations,
            which are small, a whole batch: on a few images bf16 cannot show what it gains.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        stage: Stage,
        augmenter: Augmenter,
        loader: BatchLoader,
        train_N: np.ndarray,
        weights_K: Tensor | None,
        images: int | None = None,
    ) -> None:
        self._stage, self._device, self._weights_K = stage, loader.device, weights_K
        self._model = copy.deepcopy(model)
        self._model.learn(stage.part, batch_statistics=stage.batch_statistics)
        few = max(8, TIMED_PIXELS // model.preprocessing.size_px**2)
        most = stage.batch_size if self._model.frozen else min(stage.batch_size, few)
        self.images = images or min(most, len(train_N))
        batches = 2 if self._model.frozen else 1 + TIMED_STEPS  # what is frozen has to make them first
        rows_N = train_N[: self.images * batches]
        self._batches = [_past_frozen(self._model, batch) for batch in loader.batches(rows_N, self.images)]
        self._views = IdentityAugment(augmenter.seed) if self._model.frozen else augmenter

    def seconds(self, precision: Resolved) -> float:
        """What one step takes in that precision."""
        learner = self.one(precision)  # the first step compiles kernels and fills caches
        whole = [batch for batch in self._batches[1:] if len(batch) >= self.images]  # the last may be of fewer
        began, batches = time.perf_counter(), itertools.cycle(whole or self._batches[:1])
        for step in range(1, 1 + TIMED_STEPS):
            self._step(learner, next(batches), step)
        learner.arithmetic.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS

    def one(self, precision: Resolved) -> TrainStep:
        """Takes one step, and gives what took it."""
        arithmetic = Compute(self._device, precision)
        model = copy.deepcopy(self._model)
        learner = TrainStep(model, self._stage, self._views, arithmetic, self._weights_K, model.frozen)
        self._step(learner, self._batches[0], 0)
        arithmetic.synchronize()
        return learner

    def _step(self, learner: TrainStep, batch: Batch, step: int) -> None:
        learner.step(batch, None, epoch=0, step=step, steps=step, lr=self._stage.lr)


@torch.no_grad()
def _past_frozen(model: Classifier, batch: Batch) -> Batch:
    """The batch with activations in the place of images, where blocks are frozen."""
    if not model.frozen:
        return batch
    x_BCHW, blocks = evaluation_view(batch.x_BCHW, model.preprocessing), model.trunk[: model.frozen].eval()
    parts = [x_BCHW[first : first + PASS_BATCH] for first in range(0, len(x_BCHW), PASS_BATCH)]
    return replace(batch, x_BCHW=torch.cat([blocks(part) for part in parts]))
