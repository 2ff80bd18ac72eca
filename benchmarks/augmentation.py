"""Images per second of the augmentation's paths, alternating, medians over rounds.

    python benchmarks/augmentation.py [--side 32] [--batch 128] [--threads 2] [--rounds 100] [--device cpu]

A round runs every path once, so that whatever else the machine does falls on all of them. The best round stands
beside the median: on a machine that is shared the two lie far apart, with several threads most of all.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.recipe import AugmentSpec, Preprocessing

PATHS = {
    "nothing": AugmentSpec(),
    "affine (deep-cnn)": AugmentSpec(rotation_degrees=15, width_shift=0.1, height_shift=0.1, horizontal_flip=True),
    "flip + crop": AugmentSpec(horizontal_flip=True, crop_padding_px=4),
    "flip + crop + cutout": AugmentSpec(horizontal_flip=True, crop_padding_px=4, cutout_px=8),
    "random-resized-crop": AugmentSpec(random_resized_crop=(0.3, 1.0), horizontal_flip=True),
    "mixup": AugmentSpec(mixup_alpha=0.2),
    "cutmix": AugmentSpec(cutmix_alpha=1.0),
}


def paths(side_px: int, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """What is timed: `train` for each specification, `mix` for those that mix, and the view of evaluation."""
    sizes = Preprocessing(size_px=side_px, load_px=side_px, mean=(0.47, 0.47, 0.47), std=(0.25, 0.25, 0.25))
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side_px, side_px, 3), np.uint8)
    x_BCHW = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    index_B = np.arange(batch)
    view_BCHW = evaluation_view(x_BCHW, sizes)

    def timed(spec: AugmentSpec) -> Callable[[], object]:
        augmenter = Augmenter(spec, sizes, seed=0)
        if spec.mixes:
            return lambda: augmenter.mix(view_BCHW, view_BCHW, index_B, 0)
        return lambda: augmenter.train(x_BCHW, index_B, 0)

    return {name: timed(spec) for name, spec in PATHS.items()} | {"evaluation": lambda: evaluation_view(x_BCHW, sizes)}


def seconds(path: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    path()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    timed = paths(given.side, given.batch, device)
    rounds = [{name: seconds(path, device) for name, path in timed.items()} for _ in range(given.rounds + 5)][5:]
    print(f"batch {given.batch}, {given.side} px, {given.threads} threads, {device}, torch {torch.__version__}")
    print(f"{'path':<24}{'median ms':>12}{'images/s':>12}{'best':>12}")
    for name in timed:
        times = [one[name] for one in rounds]
        median = statistics.median(times)
        print(f"{name:<24}{median * 1e3:>12.2f}{given.batch / median:>12,.0f}{given.batch / min(times):>12,.0f}")


if __name__ == "__main__":
    main()
