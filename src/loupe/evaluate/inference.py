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
from loupe.evaluate.shared_batches import SharedBatches
from loupe.models.classifier import Classifier
from loupe.ranks import Ranks

ALONE = Ranks()


class InputLoader(Protocol):
    """Loader of network inputs in batches: of images, or of the outputs of frozen blocks."""

    @property
    def labels_N(self) -> Tensor: ...  # noqa: N802

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]: ...


def logits(
    model: Classifier,
    loader: InputLoader,
    rows_N: np.ndarray,
    compute: Compute,
    first_block: int = 0,
    *,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Logits of some images; the model's training mode is restored.

    Args:
        model: network, with the same weights on every rank.
        loader: loader of its inputs.
        rows_N: rows of the images.
        compute: device and precision.
        first_block: block that receives the inputs; above 0, the inputs are outputs of the block before.
        ranks: ranks that share the batches.

    Returns:
        Float32 [N, classes], in the order of `rows_N`; [0, classes] on all ranks but rank 0.
    """
    batches = SharedBatches(rows_N, batch_size(model.preprocessing.size), ranks)
    mine_MK = ranks.together(lambda: _logits(model, loader, batches.mine_M, batches.batch_images, compute, first_block))
    return batches.merged(mine_MK, everywhere=False)


@torch.inference_mode()
def _logits(
    model: Classifier, loader: InputLoader, row_M: np.ndarray, batch_images: int, compute: Compute, first_block: int
) -> np.ndarray:
    was_training = model.training
    model.eval()
    batches = []
    for batch in loader.batches(row_M, batch_images):
        x = batch.x_BCHW if first_block else evaluation_view(batch.x_BCHW, model.preprocessing)
        with compute.autocast():
            batches.append(model(x, first_block).float())
    model.train(was_training)
    return torch.cat(batches).cpu().numpy() if batches else np.empty((0, len(model.classes)), np.float32)


def predictions(
    model: Classifier,
    loader: InputLoader,
    images: Images,
    rows_N: np.ndarray,
    compute: Compute,
    first_block: int = 0,
    *,
    ranks: Ranks = ALONE,
) -> Predictions:
    """Predictions for some images, with the labels of the loader; arguments as for `logits`.

    All ranks but rank 0 get predictions of no images.
    """
    logits_NK = logits(model, loader, rows_N, compute, first_block, ranks=ranks)
    given_N = rows_N[: len(logits_NK)]
    return ranks.together(
        lambda: Predictions(
            path=tuple(images.table.paths[row] for row in given_N),
            content=tuple(images.content[row] for row in given_N),
            label=loader.labels_N.cpu().numpy()[given_N],
            logits_NK=logits_NK,
            classes=model.classes,
        )
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
