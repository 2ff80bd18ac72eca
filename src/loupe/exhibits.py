"""Which images a report shows: samples, one image under augmentation, and the most confident mistakes."""

from collections.abc import Iterator

import numpy as np
import torch

from loupe.augment import random
from loupe.augment.pipeline import Augmenter
from loupe.data.prepare import Images
from loupe.evaluate.predictions import Predictions
from loupe.recipe import AugmentSpec, Preprocessing
from loupe.report.gallery import Exhibit

SAMPLES = 40
VIEWS = 11
MISSES = 200


def exhibits(
    images: Images, train_N: np.ndarray, augmenter: Augmenter, missed_from: Predictions, split: str
) -> Iterator[Exhibit]:
    """The gallery of a run; `missed_from` are the predictions of `split`, whose mistakes are shown."""
    yield from _samples(images, train_N, augmenter)
    yield from _views(images, train_N, augmenter)
    yield from _misses(images, missed_from, split, augmenter.preprocessing)


def _samples(images: Images, train_N: np.ndarray, augmenter: Augmenter) -> Iterator[Exhibit]:
    """Training images, the classes taking turns."""
    label_N = images.table.labels[train_N]
    order_N = random.permutation(augmenter.seed, 0, np.arange(len(train_N)))
    turn_N = np.empty(len(train_N), np.int64)
    for label in np.unique(label_N):
        mine = order_N[label_N[order_N] == label]
        turn_N[mine] = np.arange(len(mine))
    chosen = train_N[np.lexsort((label_N, turn_N))[:SAMPLES]]
    for row, pixels in zip(chosen, _view(images.store.read(chosen), augmenter.preprocessing), strict=True):
        label = images.table.classes[images.table.labels[row]]
        yield Exhibit(pixels, "sample", images.table.paths[row], split="train", label=label)


def _views(images: Images, train_N: np.ndarray, augmenter: Augmenter) -> Iterator[Exhibit]:
    """One training image, and what it looks like in the first epochs; nothing without augmentation."""
    if augmenter.spec == AugmentSpec():
        return
    row_B = random.permutation(augmenter.seed, 0, train_N)[:1]
    pixels_BHWC = images.store.read(row_B)
    path, label = images.table.paths[row_B[0]], images.table.classes[images.table.labels[row_B[0]]]
    yield Exhibit(_view(pixels_BHWC, augmenter.preprocessing)[0], "original", path, split="train", label=label)
    x_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2)
    mean_C, std_C = torch.tensor(augmenter.preprocessing.mean), torch.tensor(augmenter.preprocessing.std)
    for epoch in range(VIEWS):
        normal_HWC = augmenter.train(x_BCHW, row_B, epoch)[0].permute(1, 2, 0)
        view_HWC = ((normal_HWC * std_C + mean_C) * 255).round().clamp(0, 255).to(torch.uint8)
        yield Exhibit(view_HWC.numpy(), "augmented", path, split="train", label=label)


def _misses(images: Images, predictions: Predictions, split: str, preprocessing: Preprocessing) -> Iterator[Exhibit]:
    """Mistakes, the most confident first."""
    wrong_M = np.flatnonzero(predictions.predicted != predictions.label)
    probability_N = predictions.probabilities_NK.max(axis=1)
    wrong_M = wrong_M[np.argsort(-probability_N[wrong_M], kind="stable")][:MISSES]
    where = {path: row for row, path in enumerate(images.table.paths)}
    rows_M = np.array([where[predictions.path[i]] for i in wrong_M], np.int64)
    for i, pixels in zip(wrong_M, _view(images.store.read(rows_M), preprocessing), strict=True):
        yield Exhibit(
            pixels,
            "missed",
            predictions.path[i],
            split=split,
            label=predictions.classes[predictions.label[i]],
            predicted=predictions.classes[predictions.predicted[i]],
            probability=float(probability_N[i]),
        )


def _view(pixels_BHWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The part of stored pixels that evaluation sees."""
    border = (preprocessing.load_px - preprocessing.size_px) // 2
    side = slice(border, border + preprocessing.size_px)
    return pixels_BHWC[:, side, side]
