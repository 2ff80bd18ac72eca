"""The frozen pass by itself: images per second of Loupe's engine and of PyTorch, and whether they predict the same.

    python benchmarks/engines.py $LOUPE_DATA --images 320 --rounds 5

tf_efficientnet_lite0 at 224 px on real photographs, batch 32; the contenders take turns, and medians count. `PyTorch
fp32`, in channels-last, is what the others are measured against. The agreement is that of the pooled features
(the lowest cosine of any image) and of a linear head fitted on the fp32 features (top-1).
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import open_dataset
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import load_images
from loupe.devices import Compute, keep_freed_memory
from loupe.models.engine import Engine, OpenVinoEngine, TorchEngine
from loupe.models.timm import backbones

BATCH = 32
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cats_vs_dogs and weights")
    parser.add_argument("--images", type=int, default=320, help="photographs that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compared", type=int, default=1000, help="photographs on which predictions are compared")
    given = parser.parse_args()
    keep_freed_memory()  # as Loupe does: PyTorch gains most from it
    spec = BackboneSpec(
        backbone="tf_efficientnet_lite0",
        weights=str(given.data / "weights" / "tf_efficientnet_lite0.in1k.safetensors"),
    )
    sizes = backbones.preprocessing(spec)
    blocks = backbones.backbone(spec, sizes, ("cat", "dog"), 0).eval().trunk
    contenders: dict[str, Engine] = {
        "PyTorch fp32": TorchEngine(blocks, Compute(CPU, "fp32")),
        "PyTorch bf16": TorchEngine(blocks, Compute(CPU, "bf16")),
        "OpenVINO fp32": OpenVinoEngine(blocks, Compute(CPU, "fp32"), sizes.size),
        "OpenVINO bf16": OpenVinoEngine(blocks, Compute(CPU, "bf16"), sizes.size),
    }
    feed, rows_N = photographs(given.data / "cats_vs_dogs", sizes)
    chosen = np.random.default_rng(0).permutation(rows_N)
    timed, learned = chosen[: given.images], chosen[-given.compared :]
    inputs = list(views(feed, timed, sizes))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(given.rounds + 1):
        for name, engine in contenders.items():
            began = time.perf_counter()
            for _ in engine.run(iter(inputs)):
                pass
            if number:  # the first round fills caches
                seconds[name].append(time.perf_counter() - began)
    compare(contenders, seconds, feed, learned, sizes, given.images)


def compare(
    contenders: dict[str, Engine],
    seconds: dict[str, list[float]],
    feed: BatchLoader,
    rows_N: np.ndarray,
    sizes: Preprocessing,
    images: int,
) -> None:
    """Prints the table: the head learns on the first half of the rows, and predicts the second."""
    reference = np.concatenate(list(contenders["PyTorch fp32"].run(views(feed, rows_N, sizes))))
    label_N, half = feed.labels_N[torch.from_numpy(rows_N)].numpy(), len(rows_N) // 2
    head = LogisticRegression(max_iter=1000).fit(reference[:half], label_N[:half])
    print(f"{torch.get_num_threads()} threads, {images} images, medians of {len(seconds['PyTorch fp32'])} rounds\n")
    print("| | images/s | times fp32 (range over rounds) | lowest cosine | other top-1 |\n|---|---|---|---|---|")
    for name, engine in contenders.items():
        made = np.concatenate(list(engine.run(views(feed, rows_N, sizes))))
        norms = np.linalg.norm(made, axis=1) * np.linalg.norm(reference, axis=1)
        cosine = ((made * reference).sum(axis=1) / norms).min()
        other = int((head.predict(made[half:]) != head.predict(reference[half:])).sum())
        ratios = [base / mine for base, mine in zip(seconds["PyTorch fp32"], seconds[name], strict=True)]
        print(
            f"| {name} | {images / statistics.median(seconds[name]):.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {cosine:.5f} | {other} of {len(made) - half} |"
        )


def photographs(folder: Path, sizes: Preprocessing) -> tuple[BatchLoader, np.ndarray]:
    images = load_images(open_dataset(folder), sizes, cache=cache_folder())
    return BatchLoader(images.store, images.table.labels, CPU), np.arange(len(images.table))


def views(feed: BatchLoader, rows_N: np.ndarray, sizes: Preprocessing) -> Iterator[Tensor]:
    return (evaluation_view(batch.x_BCHW, sizes) for batch in feed.batches(rows_N, BATCH))


if __name__ == "__main__":
    main()
