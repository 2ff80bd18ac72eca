"""Choice of the fastest precision on this machine, from a few timed training steps, once for each kind of network.

If only the head is trained, nearly all work is the pass through the frozen blocks, which is timed in place of steps.
Frozen blocks can have a precision of their own, because their rounding errors do not accumulate over training.
"""

import copy
import hashlib
import itertools
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from loupe import ranks
from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.recipe import AugmentSpec, Precision, Stage
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.devices import Compute, Resolved, fastest_precision, has_bf16_matrix_units, precisions
from loupe.errors import counted
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, Engines, OpenVinoEngine, TorchEngine, engine_gains_from_bf16
from loupe.settled import settled
from loupe.training.activation_loader import IdentityAugment
from loupe.training.frozen import PASS_BATCH
from loupe.training.train_step import TrainStep

TIMED_STEPS = 3
TIMED_PIXELS = 2**19
AGREEMENT = 0.999  # mean cosine between features in bf16 and in fp32 from which on heads predict the same


def resolve(
    wanted: Precision,
    model: Classifier,
    *,
    network: str,
    stage: Stage,
    loader: BatchLoader,
    train_N: np.ndarray,
    class_weights_K: Tensor | None,
) -> tuple[Resolved, str]:
    """Precision to train in, and the reason.

    For `auto`, steps of this stage are timed on copies of the model, without augmentation, from outputs of its frozen
    blocks; once for a machine and a kind of network (`loupe.settled`).

    Args:
        network: name of the network, for people.
    """
    if wanted != "auto":
        return wanted, f"precision {wanted}, as asked for"
    device, in_cpu = loader.device, loader.device.type == "cpu"
    if stage.part == "head" and in_cpu:
        return "fp32", "precision fp32: only the head is trained"

    def measure() -> tuple[Resolved, str]:
        if stage.part == "head":
            frozen = TimedPass(model, loader=loader, train_N=train_N)
            timed = f"a pass of {counted(frozen.images, 'image')} through the frozen blocks"
            return fastest_precision(precisions(device), frozen.seconds, timed)
        plain = Augmenter(AugmentSpec(), model.preprocessing, 0)
        steps = TimedSteps(
            model, stage=stage, augmenter=plain, loader=loader, train_N=train_N, weights_K=class_weights_K
        )
        return fastest_precision(precisions(device), steps.seconds)

    chosen, reason = settled(_kind_of_work(model, network, stage, len(train_N)), measure, device)
    return next(precision for precision in precisions(device) if precision == chosen), reason


def _kind_of_work(model: Classifier, network: str, stage: Stage, images: int) -> dict[str, str]:
    """Settings on which the speed of a step depends most; neither the weights nor the classes are among them."""
    return {
        "choice": "precision",
        "network": network,
        "layers": hashlib.sha256(repr(model.trunk).encode()).hexdigest()[:16],
        "size": str(model.preprocessing.size),
        "part": stage.part,
        "batch": str(min(stage.batch_size, images)),
        "batch statistics": str(stage.batch_statistics),
    }


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
    """Precision of the frozen blocks, and the reason, or an empty string.

    On a GPU, `auto` is the precision of the run. On a CPU it is bf16 if the engine is faster in it on this processor
    and the features of some images agree with those in fp32, else fp32. It depends neither on the stage nor on timings,
    so that other recipes can use the same cached features. Of several ranks, the first one compares for all.

    Args:
        asked: the run's precision in the recipe; unless it is `auto`, it applies here too.
        run: the run's precision as resolved.
        rows_N: rows of images; a few, evenly spread, are compared.
    """
    if wanted != "auto":
        return wanted, ""
    if asked != "auto" or loader.device.type != "cpu":
        return run, ""
    return ranks.current().from_main(lambda: _compared(model, loader, rows_N, engines))


def _compared(model: Classifier, loader: BatchLoader, rows_N: np.ndarray, engines: Engines) -> tuple[Resolved, str]:
    """Precision of the frozen blocks on a CPU, and the reason."""
    if not engine_gains_from_bf16(loader.device):
        return "fp32", ""
    if not has_bf16_matrix_units(loader.device):
        engine, _ = _engine_of_trunk(model, Compute(loader.device, "bf16"), engines)
        if not isinstance(engine, OpenVinoEngine):  # it cannot run these blocks, and PyTorch is slower in bf16
            return "fp32", ""
    cosine = agreement(model, "bf16", loader=loader, rows_N=rows_N, engines=engines)
    if cosine < AGREEMENT:
        return "fp32", (
            "frozen blocks run in fp32: features in bf16, which is faster, agree with those in fp32 only to a cosine "
            f"of {cosine:.4f}."
        )
    return "bf16", (
        "frozen blocks run in bf16, in which this processor is faster: features agree with those in fp32 to a cosine "
        f"of {cosine:.4f}."
    )


def _engine_of_trunk(model: Classifier, compute: Compute, engines: Engines) -> tuple[Engine, str]:
    blocks = copy.deepcopy(model.trunk).eval()
    return engines.of(blocks, compute, model.preprocessing.size, model.preprocessing.channels)


def agreement(
    model: Classifier, precision: Resolved, *, loader: BatchLoader, rows_N: np.ndarray, engines: Engines
) -> float:
    """Mean cosine, over some images, between features in that precision and in fp32; maps are averaged."""
    spread = np.unique(np.linspace(0, len(rows_N) - 1, min(PASS_BATCH, len(rows_N)), dtype=np.int64))
    batch = next(loader.batches(rows_N[spread], PASS_BATCH))
    x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
    reduced, _ = _engine_of_trunk(model, Compute(loader.device, precision), engines)
    full = TorchEngine(copy.deepcopy(model.trunk).eval(), Compute(loader.device, "fp32"))
    reduced_BC, full_BC = (_unit(next(engine.run(iter([x_BCHW])))) for engine in (reduced, full))
    return float((reduced_BC * full_BC).sum(axis=1).mean())


def _unit(features: np.ndarray) -> np.ndarray:
    """Unit vectors [B, C]: maps [B, H, W, C] and tokens [B, N, C] are averaged over their positions."""
    pooled_BC = features.reshape(len(features), -1, features.shape[-1]).mean(axis=1, dtype=np.float64)
    norm_B1: np.ndarray = np.linalg.norm(pooled_BC, axis=1, keepdims=True)
    unit_BC: np.ndarray = pooled_BC / np.maximum(norm_B1, np.finfo(np.float64).tiny)
    return unit_BC


class TimedPass:
    """Pass of some images through the trunk, to be timed.

    Attributes:
        images: number of images in a pass.
    """

    def __init__(self, model: Classifier, *, loader: BatchLoader, train_N: np.ndarray) -> None:
        self._device = loader.device
        self._blocks = copy.deepcopy(model.trunk[: model.blocks_before("head")]).eval()
        batch = next(loader.batches(train_N[:PASS_BATCH], PASS_BATCH))
        self._x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
        self.images = len(batch)

    @torch.inference_mode()
    def seconds(self, precision: Resolved) -> float:
        """Mean time of a pass in that precision."""
        compute = Compute(self._device, precision)
        began = 0.0
        for number in range(1 + TIMED_STEPS):
            if number == 1:  # the first compiles kernels and fills caches
                compute.synchronize()
                began = time.perf_counter()
            with compute.autocast():
                self._blocks(self._x_BCHW)
        compute.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS


class TimedSteps:
    """Training steps of a stage, to be timed on copies of its model.

    Attributes:
        images: number of images in a step. By default fewer if they are large, so that timing takes little; a whole
            batch of activations, which are small, since bf16 gains nothing on a few of them.
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
        few = max(8, TIMED_PIXELS // model.preprocessing.size.area_px)
        most = stage.batch_size if self._model.frozen else min(stage.batch_size, few)
        self.images = images or min(most, len(train_N))
        batches = 2 if self._model.frozen else 1 + TIMED_STEPS  # the frozen blocks have to compute them first
        rows_N = train_N[: self.images * batches]
        self._batches = [_activations_of(self._model, batch) for batch in loader.batches(rows_N, self.images)]
        self._views = IdentityAugment(augmenter.seed) if self._model.frozen else augmenter

    def seconds(self, precision: Resolved) -> float:
        """Mean time of a step in that precision."""
        train_step = self.first_step(precision)  # the first step compiles kernels and fills caches
        full = [batch for batch in self._batches[1:] if len(batch) >= self.images]  # the last one may be smaller
        began, batches = time.perf_counter(), itertools.cycle(full or self._batches[:1])
        for step in range(1, 1 + TIMED_STEPS):
            self._step(train_step, next(batches), step)
        train_step.compute.synchronize()
        return (time.perf_counter() - began) / TIMED_STEPS

    def first_step(self, precision: Resolved) -> TrainStep:
        """Take one step on a copy of the model; return what took it, for further steps."""
        compute = Compute(self._device, precision)
        model = copy.deepcopy(self._model)
        train_step = TrainStep(model, self._stage, self._views, compute, self._weights_K, model.frozen)
        self._step(train_step, self._batches[0], 0)
        compute.synchronize()
        return train_step

    def _step(self, train_step: TrainStep, batch: Batch, step: int) -> None:
        train_step.step(batch, None, epoch=0, step=step, steps=step, lr=self._stage.lr)


@torch.no_grad()
def _activations_of(model: Classifier, batch: Batch) -> Batch:
    """Batch of activations in place of images, if blocks are frozen; else the batch itself."""
    if not model.frozen:
        return batch
    x_BCHW, blocks = evaluation_view(batch.x_BCHW, model.preprocessing), model.trunk[: model.frozen].eval()
    parts = [x_BCHW[first : first + PASS_BATCH] for first in range(0, len(x_BCHW), PASS_BATCH)]
    return replace(batch, x_BCHW=torch.cat([blocks(part) for part in parts]))
