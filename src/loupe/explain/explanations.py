"""Explanations: predictions with their class activation maps."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from loupe.augment.pipeline import evaluation_view
from loupe.augment.pixels import centre_crop
from loupe.data.keyed_order import turns
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.decode import in_colour
from loupe.data.pixels.prepare import Images
from loupe.evaluate.predictions import Predictions
from loupe.explain.cam import Evidence, Method, class_maps, evidence
from loupe.explain.feature_maps import MapLayer
from loupe.models.classifier import Classifier

BATCH_IMAGES = 16  # images with gradients in memory at a time


@dataclass(frozen=True)
class Explanation:
    """Prediction for one image and the class activation maps.

    Attributes:
        path: display name of the image.
        predicted: predicted class.
        probability: probability of the predicted class, at the temperature of the predictions.
        label: true class; None where unknown.
        pixels: uint8 [H, W, 3], image after resizing and centre crop.
        maps: float32 [H, W] from 0 to 1 for each explained class, as from `cam.class_maps`.
    """

    path: str
    predicted: str
    probability: float
    label: str | None
    pixels: np.ndarray
    maps: dict[str, np.ndarray]

    @property
    def missed(self) -> bool:
        """True for a labelled image that is misclassified."""
        return self.label is not None and self.label != self.predicted

    @cached_property
    def evidence(self) -> dict[str, Evidence | None]:
        """Evidence for each explained class; None without any."""
        return {name: evidence(map_HW) for name, map_HW in self.maps.items()}


def representative(predictions: Predictions, count: int, seed: int = 0) -> np.ndarray:
    """Positions of `count` images to explain: misclassified images first, then correct ones.

    Each of the two kinds gets half if there are enough of both. Misclassified images are ordered by confidence, highest
    first. Correct images are taken from the classes in turn, the most confident of each class first. Of equal
    confidence, as that of a perfect classifier, the seed decides.
    """
    confidence_N = predictions.probabilities_NK.max(axis=1)
    falling_N = np.lexsort((turns(f"explain {seed}", predictions.content), -confidence_N))
    wrong_N = (predictions.predicted != predictions.label) & (predictions.label >= 0)
    missed, correct = falling_N[wrong_N[falling_N]], falling_N[~wrong_N[falling_N]]
    rank_in_class = np.empty(len(correct), np.int64)
    for label in np.unique(predictions.predicted[correct]):
        members = np.flatnonzero(predictions.predicted[correct] == label)
        rank_in_class[members] = np.arange(len(members))
    correct = correct[np.argsort(rank_in_class, kind="stable")]
    missed = missed[: max((count + 1) // 2, count - len(correct))]
    return np.concatenate([missed, correct[: count - len(missed)]])


def explain(
    model: Classifier,
    images: Images,
    predictions: Predictions,
    layer: MapLayer,
    method: Method,
    target: int | None = None,
) -> Iterator[Explanation]:
    """Explain the prediction for each image.

    Args:
        model: network.
        images: decoded images.
        predictions: predictions for these images, in their order.
        layer: one of `feature_maps.map_layers(model)`.
        method: weighting of the channels.
        target: class to explain; by default the predicted class, and the true class of a misclassified image.

    Raises:
        LoupeError: captum is not installed.
    """
    loader = BatchLoader(images.store, predictions.label, next(model.parameters()).device)
    for batch in loader.batches(np.arange(len(predictions)), BATCH_IMAGES):
        pairs = [(b, k) for b, row in enumerate(batch.index_B) for k in _classes(predictions, row, target)]
        image_M, class_M = torch.tensor(pairs, device=batch.x_BCHW.device).T
        x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
        maps_MHW = class_maps(model, x_BCHW[image_M], class_M, layer, method).cpu().numpy()
        pixels_BHWC = centre_crop(batch.x_BCHW, model.preprocessing.size).permute(0, 2, 3, 1).cpu().numpy()
        for b, row in enumerate(batch.index_B):
            maps = {predictions.classes[k]: maps_MHW[m] for m, (image, k) in enumerate(pairs) if image == b}
            yield _explanation(predictions, int(row), in_colour(pixels_BHWC[b]), maps)


def _classes(predictions: Predictions, row: int, target: int | None) -> list[int]:
    """Target class if given; else the predicted class, followed by a known true class that differs."""
    if target is not None:
        return [target]
    predicted, label = int(predictions.predicted[row]), int(predictions.label[row])
    return [predicted] if label in (-1, predicted) else [predicted, label]


def _explanation(predictions: Predictions, row: int, pixels: np.ndarray, maps: dict[str, np.ndarray]) -> Explanation:
    predicted, label = int(predictions.predicted[row]), int(predictions.label[row])
    return Explanation(
        path=predictions.path[row],
        predicted=predictions.classes[predicted],
        probability=float(np.exp(predictions.log_probabilities_NK[row, predicted])),
        label=predictions.classes[label] if label >= 0 else None,
        pixels=pixels,
        maps=maps,
    )
