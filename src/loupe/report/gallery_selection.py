"""Selection of the images of a report: samples, one image under augmentation, images of each confusion cell."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from loupe.augment import random
from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.data.keyed_order import turns
from loupe.data.pixels.decode import in_colour
from loupe.data.pixels.prepare import Images
from loupe.evaluate.groups import losses, ranked
from loupe.evaluate.predictions import Predictions
from loupe.report.gallery import Exhibit
from loupe.report.sampling import in_turn

SAMPLES = 40
VIEWS = 11
HARDEST = 200  # misclassified images with the highest loss, which come first
HITS = 24  # of each class: the least and the most confident
TOP = 3  # classes named with their probabilities
CHUNK_IMAGES = 64


def exhibits(
    images: Images, train_N: np.ndarray, augmenter: Augmenter, predictions: Predictions, split: str
) -> Iterator[Exhibit]:
    """Gallery of a run, most important images first; `predictions` are those of `split`, whose cells are shown.

    Probabilities and losses are at the temperature of the predictions.
    """
    yield from _samples(images, train_N, augmenter)
    yield from _views(images, train_N, augmenter)
    yield from confusion_cells(images, predictions, split, augmenter.preprocessing, augmenter.seed)


def _samples(images: Images, train_N: np.ndarray, augmenter: Augmenter) -> Iterator[Exhibit]:
    """Training images, alternating between the classes; with more classes than samples, drawn with the seed."""
    chosen = train_N[in_turn(images.table.labels[train_N], images.table.classes, augmenter.seed, SAMPLES)]
    for row, pixels in zip(chosen, evaluation_pixels(images.store.read(chosen), augmenter.preprocessing), strict=True):
        label = images.table.classes[images.table.labels[row]]
        yield Exhibit(pixels, "sample", images.table.paths[row], split="train", label=label)


def _views(images: Images, train_N: np.ndarray, augmenter: Augmenter) -> Iterator[Exhibit]:
    """One training image and its augmented views of the first epochs; nothing without augmentation."""
    if augmenter.spec == AugmentSpec():
        return
    row_B = random.permutation(augmenter.seed, 0, train_N)[:1]
    pixels_BHWC = images.store.read(row_B)
    path, label = images.table.paths[row_B[0]], images.table.classes[images.table.labels[row_B[0]]]
    yield Exhibit(
        evaluation_pixels(pixels_BHWC, augmenter.preprocessing)[0], "original", path, split="train", label=label
    )
    for view in augmented_views(pixels_BHWC, row_B, augmenter, VIEWS):
        yield Exhibit(view, "augmented", path, split="train", label=label)


def augmented_views(
    pixels_BHWC: np.ndarray, row_B: np.ndarray, augmenter: Augmenter, views: int
) -> Iterator[np.ndarray]:
    """Views of one image in the first epochs, uint8 [H, W, 3].

    Args:
        pixels_BHWC: the image, uint8 [1, H, W, channels] of `load_px`.
        row_B: its row in the table, on which the draws depend, [1].
        views: number of epochs.
    """
    x_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2)
    channels = augmenter.preprocessing.channels
    mean_C, std_C = (
        torch.tensor(values[:channels]) for values in (augmenter.preprocessing.mean, augmenter.preprocessing.std)
    )
    for epoch in range(views):
        normal_HWC = augmenter.train(x_BCHW, row_B, epoch)[0].permute(1, 2, 0)
        view_HWC = ((normal_HWC * std_C + mean_C) * 255).round().clamp(0, 255).to(torch.uint8)
        yield in_colour(view_HWC.numpy())


def confusion_cells(
    images: Images, predictions: Predictions, split: str, preprocessing: Preprocessing, seed: int = 0
) -> Iterator[Exhibit]:
    """Images of every cell of the confusion matrix, read lazily: the caller may stop early."""
    order_M = by_interest(predictions, seed)
    probability_NK, loss_N = predictions.probabilities_NK, losses(predictions)
    where = {path: row for row, path in enumerate(images.table.paths)}
    for start in range(0, len(order_M), CHUNK_IMAGES):
        chunk = order_M[start : start + CHUNK_IMAGES]
        rows_B = np.array([where[predictions.path[i]] for i in chunk], np.int64)
        for i, pixels in zip(chunk, evaluation_pixels(images.store.read(rows_B), preprocessing), strict=True):
            truth, guess = int(predictions.label[i]), int(predictions.predicted[i])
            yield Exhibit(
                pixels,
                "hit" if truth == guess else "missed",
                predictions.path[i],
                split=split,
                label=predictions.classes[truth],
                predicted=predictions.classes[guess],
                probability=float(probability_NK[i, guess]),
                loss=float(loss_N[i]),
                top=top_classes(probability_NK[i], truth, predictions.classes),
            )


def by_interest(predictions: Predictions, seed: int = 0) -> np.ndarray:
    """Positions of the images to show, the most interesting first.

    First the `HARDEST` misclassified images with the highest loss. Then the cells of the confusion matrix in turn:
    each gives its next error by descending loss, or, of its correct images, alternately the least and the most
    confident, up to `HITS`. The seed orders images of equal loss.
    """
    rows_M = np.flatnonzero(predictions.label >= 0)
    truth_M, guess_M = predictions.label[rows_M], predictions.predicted[rows_M]
    loss_M = losses(predictions)[rows_M]
    cell_M = truth_M * len(predictions.classes) + guess_M
    tie_M = turns(f"gallery {seed}", [predictions.content[row] for row in rows_M])
    by_cell_M = np.lexsort((tie_M, -loss_M, cell_M))
    first_M, end_M = (np.searchsorted(cell_M[by_cell_M], cell_M[by_cell_M], side) for side in ("left", "right"))
    turn_M = np.empty(len(rows_M), np.int64)
    turn_M[by_cell_M] = np.arange(len(rows_M)) - first_M
    from_end_M = np.empty_like(turn_M)
    from_end_M[by_cell_M] = end_M - 1 - np.arange(len(rows_M))
    hit_M = truth_M == guess_M
    turn_M[hit_M] = np.minimum(2 * turn_M, 2 * from_end_M + 1)[hit_M]
    turn_M[np.isin(rows_M, ranked(predictions, seed)[:HARDEST])] = -1
    order_M = np.lexsort((tie_M, -loss_M, turn_M))
    chosen: np.ndarray = rows_M[order_M[~hit_M[order_M] | (turn_M[order_M] < HITS)]]
    return chosen


def top_classes(probability_K: np.ndarray, truth: int, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Most probable classes, and the true one if it is not among them."""
    order_K = np.argsort(-probability_K, kind="stable")
    named = [*order_K[:TOP], *(index for index in order_K[TOP:] if index == truth)]
    return [(classes[index], float(probability_K[index])) for index in named]


def evaluation_pixels(pixels_BHWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Crop of the stored pixels that evaluation uses."""
    rows, columns = preprocessing.size.centred_in(preprocessing.load_size)
    return in_colour(pixels_BHWC[:, rows, columns])
