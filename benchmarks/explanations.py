"""Whether class activation maps show what a network uses, and a figure of maps and filters.

    python benchmarks/explanations.py RUN... --figure explain.webp

Of up to --images validation images that a run classifies correctly, a fifth of the picture is blurred away, and the
probability of the class falls. It should fall most where a map has its strongest evidence, and more than where the map
of another image has it. (Deletion, after Petsiuk et al. 2018, at one area.) Intervals are bootstrapped over the images.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

import loupe
from loupe.augment.pixels import centre_crop, normalise
from loupe.explain.cam import METHODS, class_maps
from loupe.explain.feature_maps import choose_layer
from loupe.explain.filters import REGULARISATIONS
from loupe.report.explain_page import overlay

AREA = 0.2
BATCH = 16


def deletion(run: loupe.Run, count: int) -> dict[str, np.ndarray]:
    """How much the class's probability falls, [N], for the maps of each method and for those of other images."""
    seen_NCHW, class_N = correct_images(run, count)
    falls: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(class_N) - 1, BATCH):
        part = slice(start, start + BATCH)
        for name, fall_B in _falls(run, seen_NCHW[part], class_N[part]):
            falls.setdefault(name, []).append(fall_B)
    return {name: np.concatenate(parts) for name, parts in falls.items()}


def correct_images(run: loupe.Run, count: int) -> tuple[Tensor, Tensor]:
    """Validation images that the run classifies correctly, drawn by a fixed seed: pixels as seen, and classes."""
    images, split = run.own_images()
    said = run.predictions_for(images, split.val)
    right = np.random.default_rng(0).permutation(np.flatnonzero(said.predicted == said.label))[:count]
    x_NCHW = torch.from_numpy(images.store.read(split.val[right])).permute(0, 3, 1, 2)
    return centre_crop(x_NCHW, run.model.preprocessing.size).float(), torch.from_numpy(said.label[right])


def _falls(run: loupe.Run, seen_BCHW: Tensor, class_B: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    before_B = _probability(run, seen_BCHW, class_B)
    for method in METHODS:
        map_BHW = class_maps(run.model, _normal(run, seen_BCHW), class_B, choose_layer(run.model), method)
        yield method, before_B - _probability(run, _without(seen_BCHW, map_BHW), class_B)
        yield (
            f"{method} of another image",
            before_B - _probability(run, _without(seen_BCHW, map_BHW.roll(1, 0)), class_B),
        )


def _without(seen_BCHW: Tensor, map_BHW: Tensor) -> Tensor:
    """The images, with the part that has the most evidence blurred away."""
    side = seen_BCHW.shape[-1]
    blurred_BCHW = gaussian_blur(seen_BCHW, [2 * (side // 4) + 1] * 2, [side / 8] * 2)
    place_B = map_BHW.flatten(1).argsort(dim=1, descending=True)[:, : round(AREA * side * side)]
    hidden_B1HW = torch.zeros(len(map_BHW), side * side).scatter_(1, place_B, 1.0).view(-1, 1, side, side)
    return torch.where(hidden_B1HW > 0, blurred_BCHW, seen_BCHW)


@torch.inference_mode()
def _probability(run: loupe.Run, seen_BCHW: Tensor, class_B: Tensor) -> np.ndarray:
    probability_BK = run.model(_normal(run, seen_BCHW)).softmax(dim=1)
    return probability_BK.gather(1, class_B[:, None])[:, 0].numpy()


def _normal(run: loupe.Run, seen_BCHW: Tensor) -> Tensor:
    return normalise(seen_BCHW, run.model.preprocessing.mean, run.model.preprocessing.std)


def interval(value_N: np.ndarray) -> str:
    random = np.random.default_rng(0)
    means = [value_N[random.integers(0, len(value_N), len(value_N))].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * value_N.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def figure(run: loupe.Run, layer: str, path: Path) -> None:
    """Above, validation images with their maps; below, filters of a layer with each regularisation."""
    shown = run.explain(count=8)
    responses = run.filters(layer, count=8)
    rows = 2 + len(REGULARISATIONS)
    drawing, axes = plt.subplots(rows, 8, figsize=(8.2, rows * 1.08), layout="constrained")
    for column, (one, response) in enumerate(zip(shown, responses, strict=True)):
        verdict = f"{one.label}\nfor {one.predicted}" if one.missed else f"{one.predicted}\n"
        axes[0, column].set_title(verdict, fontsize=7)
        pictures = [one.pixels, overlay(one.pixels, one.maps[one.predicted]), *response.pixels_RHWC]
        for axis, pixels in zip(axes[:, column], pictures, strict=True):
            axis.imshow(pixels)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[:, 0], ("seen", "evidence", *REGULARISATIONS), strict=True):
        axis.set_ylabel(name, fontsize=7)
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--figure", type=Path, help="where to draw the first run")
    parser.add_argument("--layer", help="whose filters the figure shows")
    options = parser.parse_args()
    for path in options.runs:
        falls = deletion(loupe.load(path), options.images)
        print(f"{path.name}: {len(next(iter(falls.values())))} images")
        for name, fall_N in falls.items():
            print(f"  {name}: {interval(fall_N)}")
        print(f"  hires-cam minus grad-cam: {interval(falls['hires-cam'] - falls['grad-cam'])}")
    if options.figure:
        figure(loupe.load(options.runs[0]), options.layer, options.figure)


if __name__ == "__main__":
    main()
