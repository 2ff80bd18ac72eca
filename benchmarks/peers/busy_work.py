"""One kind of work of Loupe, done over and over for as long as it is told to: the part of busy.py that is timed.

    printf '3\n3\n' | python benchmarks/peers/busy_work.py training-fp32 --threads 2

Each line of standard input is a number of seconds; the answer to it, one line of JSON, has the images per second.
`training-fp32` and `training-bf16` take steps of deep-cnn with its augmentation, batch 128; `frozen` is the pass
through tf_efficientnet_lite0 with random weights at 224 px, in the engine that a run would take; `head` passes of the
solver over features of 1,280 numbers; `augmentation` the augmentation of photographs at 224 px.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import loupe  # noqa: F401  # before PyTorch, as on the command line: it sets the waiting of threads

# isort: split
import numpy as np
import torch

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.batches import Batch
from loupe.devices import Compute, Resolved, keep_freed_memory
from loupe.models.build import build
from loupe.models.engine import engine
from loupe.models.timm import backbones
from loupe.recipes import catalog
from loupe.training.logistic import Regression
from loupe.training.train_step import TrainStep

CPU = torch.device("cpu")
CLASSES = tuple("0123456789")
BATCH, PHOTOGRAPHS, FEATURES, COLUMNS = 128, 32, 8192, 1280
Step = Callable[[], object]


def pixels(images: int, side_px: int) -> Batch:
    """Batch of random pixels."""
    random = np.random.default_rng(0)
    x_BHWC = torch.from_numpy(random.integers(0, 256, (images, side_px, side_px, 3), dtype=np.uint8))
    return Batch(x_BHWC.permute(0, 3, 1, 2), torch.arange(images) % len(CLASSES), np.arange(images))


def training(precision: Resolved) -> tuple[Step, int]:
    """Steps of deep-cnn; also their number of images, as of everything below."""
    recipe, preprocessing = catalog.recipe("deep-cnn"), Preprocessing(size_px=32, load_px=32)
    stage, batch = recipe.stages[0], pixels(BATCH, 32)
    model = build(recipe.model, preprocessing, CLASSES, seed=0)
    train_step = TrainStep(model, stage, Augmenter(stage.augment, preprocessing, 0), Compute(CPU, precision), None)
    return lambda: train_step.step(batch, None, epoch=0, step=0, steps=1, lr=1e-4), BATCH


def frozen() -> tuple[Step, int]:
    """Passes through a pretrained network's blocks."""
    spec = BackboneSpec(backbone="tf_efficientnet_lite0", weights="none")
    sizes = backbones.preprocessing(spec)
    blocks = backbones.backbone(spec, sizes, CLASSES, 0).eval().trunk
    built, _ = engine(blocks, Compute(CPU, "fp32"), sizes.size)
    x_BCHW = torch.rand(PHOTOGRAPHS, 3, *sizes.size).to(memory_format=torch.channels_last)
    return lambda: list(built.run(iter([x_BCHW] * 2))), 2 * PHOTOGRAPHS


def head() -> tuple[Step, int]:
    """Passes of the solver of linear heads over features."""
    features_NC = torch.randn(FEATURES, COLUMNS, generator=torch.Generator().manual_seed(0))
    regression = Regression(features_NC, torch.arange(FEATURES) % len(CLASSES), len(CLASSES))
    return regression.pass_over, FEATURES


def augmentation() -> tuple[Step, int]:
    """Augmentation of photographs."""
    recipe, preprocessing = catalog.recipe("photographs"), Preprocessing(size_px=224, load_px=256)
    augmenter, batch = Augmenter(recipe.stages[0].augment, preprocessing, 0), pixels(PHOTOGRAPHS, 256)
    return lambda: augmenter.train(batch.x_BCHW, batch.index_B, 0), PHOTOGRAPHS


WORKS: dict[str, Callable[[], tuple[Step, int]]] = {
    "training-fp32": lambda: training("fp32"),
    "training-bf16": lambda: training("bf16"),
    "frozen": frozen,
    "head": head,
    "augmentation": augmentation,
}


def rate(step: Step, seconds: float) -> float:
    """Steps per second over at least so many seconds, and at least one step."""
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every session of Loupe does
    step, images = WORKS[given.work]()
    rate(step, 0.5)  # compiles kernels and fills caches
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps({"images_per_second": images * rate(step, float(line))}), flush=True)


if __name__ == "__main__":
    main()
