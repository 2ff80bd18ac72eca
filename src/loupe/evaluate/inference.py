"""Inference in batches: logits, predictions and validation scores."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.data.pixels.batches import Batch
from loupe.data.pixels.prepare import Images
from loupe.data.pixels.read_ahead import batch_size
from loupe.devices import Compute
from loupe.evaluate.predictions import Predictions
from loupe.models.classifier import Classifier


class InputLoader(Protocol):
    """Loader of network inputs in batches: of images, or of the outputs of frozen blocks."""

    @property
    def labels_N(self) -> Tensor: ...  # noqa: N802

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]: ...


@torch.inference_mode()
def logits(
    model: Classifier, loader: InputLoader, rows_N: np.ndarray, compute: Compute, first_block: int = 0
) -> np.ndarray:
    """Logits of some images; the model's training mode is restored.

    Args:
        model: network.
        loader: loader of its inputs.
        rows_N: rows of the images.
        compute: device and precision.
        first_block: block that receives the inputs; above 0, the inputs are outputs of the block before.

    Returns:
        Float32 [N, classes], in the order of `rows_N`.
    """
    was_training = model.training
    model.eval()
    batches = []
    for batch in loader.batches(rows_N, batch_size(model.preprocessing.size)):
        x = batch.x_BCHW if first_block else evaluation_view(batch.x_BCHW, model.preprocessing)
        with compute.autocast():
            batches.append(model(x, first_block).float())
    model.train(was_training)
    return torch.cat(batches).cpu().numpy() if batches else np.empty((0, 0), np.float32)


def predictions(
    model: Classifier,
    loader: InputLoader,
    images: Images,
    rows_N: np.ndarray,
    compute: Compute,
    first_block: int = 0,
) -> Predictions:
    """Predictions for some images, with the labels of the loader; arguments as for `logits`."""
    logits_NK = logits(model, loader, rows_N, compute, first_block)
    return Predictions(
        path=tuple(images.table.paths[row] for row in rows_N),
        content=tuple(images.content[row] for row in rows_N),
        label=loader.labels_N.cpu().numpy()[rows_N],
        logits_NK=logits_NK.reshape(len(rows_N), len(model.classes)),
        classes=model.classes,
    )


def scores(logits_NK: np.ndarray, label_N: np.ndarray) -> dict[str, Any]:
    """Validation loss (mean cross-entropy), accuracy and macro-F1; each is None without images."""
    if not len(label_N):
        return {"val_loss": None, "val_accuracy": None, "val_macro_f1": None}
    loss = F.cross_entropy(torch.from_numpy(logits_NK).double(), torch.from_numpy(label_N)).item()
    predicted_N = logits_NK.argmax(axis=1)
    return {
        "val_loss": loss,
        "val_accuracy": float((predicted_N == label_N).mean()),
        "val_macro_f1": _macro_f1(label_N, predicted_N, logits_NK.shape[1]),
    }


def _macro_f1(label_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that have images or are predicted, as in scikit-learn, which takes a second to import.

    Without a confusion matrix, which is large for many classes.
    """
    hits_K, support_K, predicted_K = (
        np.bincount(label, minlength=classes) for label in (label_N[label_N == predicted_N], label_N, predicted_N)
    )
    total_K = support_K + predicted_K
    return float((2 * hits_K[total_K > 0] / total_K[total_K > 0]).mean())
