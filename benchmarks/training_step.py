"""Time of a training step by kind of work, beside what the processor's arithmetic and memory allow.

    python benchmarks/training_step.py --recipes deep-cnn small-images photographs catsdogs-cnn --precisions fp32 bf16

Pixels are random: the cost of a step does not depend on them. Each row is a kind of work: its time for each image, and
the least time that it can take. For convolutions and dense layers this is their arithmetic at the speed of large matrix
products in the same precision with as many threads; for the other kinds, the bytes of their inputs and outputs at the
speed of a copy in memory. Data that stays in the cache is faster than a copy, so that this limit is a guide.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import loupe  # noqa: F401  # before PyTorch, as on the command line: it sets the waiting of threads

# isort: split
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.batches import Batch
from loupe.devices import Compute, Resolved, keep_freed_memory
from loupe.models.build import build
from loupe.recipes import catalog
from loupe.training.activation_loader import IdentityAugment
from loupe.training.train_step import TrainStep
from setting import commit, machine

CPU = torch.device("cpu")
RECIPES = ("deep-cnn", "small-images", "photographs", "catsdogs-cnn")
CLASSES = tuple("0123456789")
KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": ("convolution",),
    "dense layers": ("mm", "linear"),
    "normalisation": ("batch_norm",),
    "pooling": ("pool",),
    "rectifiers": ("threshold", "clamp", "relu"),
    "dropout": ("random_", "::ge", "bernoulli", "::mul"),
    "optimizer": ("_adam", "_foreach", "sgd"),
}
ARITHMETIC = ("convolutions", "dense layers")
MATRIX_SIDE, COPY_BYTES = 1024, 128 * 2**20
WARM_UP_STEPS = 3  # until memory that is freed and taken again has been touched
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Traffic(TorchDispatchMode):
    """Bytes of the inputs and outputs of all operations, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if not func.is_view:
            self.bytes[kind(str(func).replace("aten.", "aten::"))] += sum(t.numel() * t.itemsize for t in tensors)
        return result


def kind(operation: str) -> str:
    """Kind of work of an operation, by its name in PyTorch."""
    return next((name for name, parts in KINDS.items() if any(part in operation for part in parts)), "other")


@dataclass(frozen=True)
class Speeds:
    """What the machine does at best: floating point operations and copied bytes in a second."""

    flops: float
    bytes: float


def speeds(precision: Resolved) -> Speeds:
    """Speed of large matrix products, and of a copy whose bytes count twice, as read and as written."""
    matrix, source = torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(DTYPES[precision]), torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    multiply, copy = fastest(lambda: matrix @ matrix), fastest(lambda: target.copy_(source))
    return Speeds(2 * MATRIX_SIDE**3 / multiply, 2 * COPY_BYTES / copy)


def fastest(work: Callable[[], object], times: int = 7) -> float:
    """Seconds of the fastest of several calls, after one more."""
    return min(list(timed(work, times))[1:])


def timed(work: Callable[[], object], times: int) -> Iterator[float]:
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        yield time.perf_counter() - began


class Step:
    """Training step of a recipe, whole or without its augmentation."""

    def __init__(self, name: str, precision: Resolved) -> None:
        recipe = catalog.recipe(name)
        side_px = recipe.input.size_px or 32
        load_px = recipe.input.load_px or side_px
        self.preprocessing = Preprocessing(size_px=side_px, load_px=load_px)
        self.stage, self.compute = recipe.stages[0], Compute(CPU, precision)
        self.model = build(recipe.model, self.preprocessing, CLASSES, seed=0)
        self.images = self.stage.batch_size
        self._batch = batch(self.images, load_px)
        self._augmenter = Augmenter(self.stage.augment, self.preprocessing, 0)
        self._augmented = Batch(self.augment(), self._batch.y_B, self._batch.index_B)
        self._whole = TrainStep(self.model, self.stage, self._augmenter, self.compute, None)
        self._bare = TrainStep(self.model, self.stage, IdentityAugment(0), self.compute, None)
        self._bare.sliced = None  # operations of other threads are not counted

    def augment(self) -> torch.Tensor:
        return self._augmenter.train(self._batch.x_BCHW, self._batch.index_B, 0)

    def whole(self) -> object:
        return self._whole.step(self._batch, None, epoch=0, step=0, steps=1, lr=1e-4)

    def bare(self) -> object:
        return self._bare.step(self._augmented, None, epoch=0, step=0, steps=1, lr=1e-4)


def batch(images: int, side_px: int) -> Batch:
    """Batch of random pixels, channels-last in memory as those of a run."""
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (images, side_px, side_px, 3), dtype=np.uint8)
    x_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2)
    return Batch(x_BCHW, torch.arange(images) % len(CLASSES), np.arange(images))


def seconds_by_kind(step: Step, steps: int) -> dict[str, float]:
    """Time of one step without augmentation and not in slices, by kind; the profiler's own cost is in it."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step.bare()
    seconds: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        seconds[kind(event.key)] += event.self_cpu_time_total / 1e6 / steps
    return dict(seconds)


def report(name: str, precision: Resolved, steps: int, best: Speeds) -> None:
    """Print the table of one recipe in one precision."""
    step = Step(name, precision)
    for _ in range(WARM_UP_STEPS):
        step.whole()
        step.bare()
    whole = statistics.median(list(timed(step.whole, steps))[1:])
    augment = statistics.median(list(timed(step.augment, steps))[1:])
    profiled = seconds_by_kind(step, steps)
    with Traffic() as traffic:
        step.bare()
    with FlopCounterMode(display=False) as counter:
        step.bare()
    flops = counter.get_total_flops()
    # The profiler adds to each operation; its shares are laid over the time of a step that it did not watch.
    shares = {key: value / sum(profiled.values()) * (whole - augment) for key, value in profiled.items()}
    limits = {key: traffic.bytes[key] / best.bytes for key in shares if key not in ARITHMETIC}
    arithmetic, per_image = flops / best.flops, 1e6 / step.images
    print(f"\n## {name}, {precision}: {step.preprocessing.size} px, {step.images} images, {step.images / whole:,.0f}/s")
    print(f"\n{flops / step.images / 1e6:,.0f} MFLOP an image: at most {step.images / arithmetic:,.0f} images/s.")
    print("\n| kind | µs an image | share | least, µs |\n|---|---:|---:|---:|")
    together = sum(shares.get(key, 0.0) for key in ARITHMETIC)
    rows = [(" and ".join(ARITHMETIC), together, arithmetic), ("augmentation", augment, None)]
    others = sorted(limits, key=lambda key: -shares[key])
    rows += [(key, shares[key], limits[key]) for key in others]
    for title, seconds, least in rows:
        shown = "" if least is None else f"{least * per_image:,.0f}"
        print(f"| {title} | {seconds * per_image:,.0f} | {seconds / whole:.0%} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    print(commit(), machine(given.threads))
    for precision in given.precisions:
        best = speeds(precision)
        arithmetic, copy = best.flops / 1e9, best.bytes / 1e9
        print(f"\n{precision}: {arithmetic:,.0f} GFLOP/s in matrix products, {copy:,.0f} GB/s in a copy")
        for name in given.recipes:
            report(name, precision, given.steps, best)


if __name__ == "__main__":
    main()
