"""Why a network says what it says of some images: predictions with the class activation maps behind them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from loupe.augment.pipeline import evaluation_view
from loupe.augment.pixels import centre_crop
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images
from loupe.evaluate.predictions import Predictions
from loupe.explain.cam import Evidence, Method, class_maps, evidence
from loupe.explain.feature_maps import MapLayer
from loupe.models.classifier import Classifier

TOGETHER = 16  # images whose gradients are held at a time


@dataclass(frozen=True)
class Explanation:
    """One image, what the network says of it, and where the evidence lies.

    pixels: uint8 [H, W, 3], the image as the network sees it. probability: of the predicted class, at the temperature
    of the predictions. label: None where unknown. maps: for each class that is explained, float32 [H, W] from 0 to
    1, as `activation_maps.class_maps` makes.
    """

    path: str
    predicted: str
    probability: float
    label: str | None
    pixels: np.ndarray
    maps: dict[str, np.ndarray]

    @property
    def missed(self) -> bool:
        return self.label is not None and self.label != self.predicted

    @cached_property
    def evidence(self) -> dict[str, Evidence | None]:
        """Where the evidence for each explained class lies; None where nothing speaks for it."""
        return {name: evidence(map_HW) for name, map_HW in self.maps.items()}


def telling(predictions: Predictions, count: int) -> np.ndarray:
    """The positions of `count` images worth explaining: missed ones first, the most confident first, then right ones.

    Each kind gets half where there are enough of both. Of the right ones, each class gives its surest in turn.
    """
    sure_N = predictions.probabilities_NK.max(axis=1)
    falling_N = np.argsort(-sure_N, kind="stable")
    wrong_N = (predictions.predicted != predictions.label) & (predictions.label >= 0)
    missed, right = falling_N[wrong_N[falling_N]], falling_N[~wrong_N[falling_N]]
    turn_R = np.empty(len(right), np.int64)
    for label in np.unique(predictions.predicted[right]):
        mine = np.flatnonzero(predictions.predicted[right] == label)
        turn_R[mine] = np.arange(len(mine))
    right = right[np.argsort(turn_R, kind="stable")]
    some = max((count + 1) // 2, count - len(right))
    missed = missed[:some]
    return np.concatenate([missed, right[: count - len(missed)]])


def explain(
    model: Classifier, images: Images, said: Predictions, layer: MapLayer, method: Method, target: int | None = None
) -> Iterator[Explanation]:
    """Explains the prediction of each image, and where it was missed the true class too; or `target` alone.

    `said` are the predictions of these images, in their order; `layer` is one of the model's `layouts.map_layers`.

    Raises:
        LoupeError: captum is not installed.
    """
    feed = BatchLoader(images.store, said.label, next(model.parameters()).device)
    for batch in feed.batches(np.arange(len(said)), TOGETHER):
        wanted = [(place, k) for place, row in enumerate(batch.index_B) for k in _classes(said, row, target)]
        place_M, class_M = torch.tensor(wanted, device=batch.x_BCHW.device).T
        x_BCHW = evaluation_view(batch.x_BCHW, model.preprocessing)
        maps_MHW = class_maps(model, x_BCHW[place_M], class_M, layer, method).cpu().numpy()
        seen_BHWC = centre_crop(batch.x_BCHW, model.preprocessing.size_px).permute(0, 2, 3, 1).cpu().numpy()
        for place, row in enumerate(batch.index_B):
            mine = {said.classes[k]: maps_MHW[m] for m, (at, k) in enumerate(wanted) if at == place}
            yield _explanation(said, int(row), seen_BHWC[place], mine)


def _classes(said: Predictions, row: int, target: int | None) -> list[int]:
    """The predicted class, then the true one where it is known and another; or the target."""
    if target is not None:
        return [target]
    predicted, label = int(said.predicted[row]), int(said.label[row])
    return [predicted] if label in (-1, predicted) else [predicted, label]


def _explanation(said: Predictions, row: int, pixels: np.ndarray, maps: dict[str, np.ndarray]) -> Explanation:
    predicted, label = int(said.predicted[row]), int(said.label[row])
    return Explanation(
        path=said.path[row],
        predicted=said.classes[predicted],
        probability=float(np.exp(said.log_probabilities_NK[row, predicted])),
        label=said.classes[label] if label >= 0 else None,
        pixels=pixels,
        maps=maps,
    )
