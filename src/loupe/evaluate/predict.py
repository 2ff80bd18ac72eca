"""A network over images: logits, predictions, and the few scores that training watches."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import nn

from loupe.augment.pipeline import evaluation_view
from loupe.data.batches import Feed
from loupe.data.prepare import Images
from loupe.evaluate.predictions import Predictions
from loupe.models.classifier import Classifier
from loupe.recipe import Preprocessing
from loupe.runtime import Arithmetic


@torch.inference_mode()
def logits(
    model: nn.Module, feed: Feed, rows_N: np.ndarray, preprocessing: Preprocessing, arithmetic: Arithmetic
) -> np.ndarray:
    """The logits, float32 [N, classes], of the images `rows_N`, in that order; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    parts = []
    for batch in feed.batches(rows_N, batch_size(preprocessing.size_px)):
        x_BCHW = evaluation_view(batch.x_BCHW, preprocessing)
        with arithmetic.autocast():
            parts.append(model(x_BCHW).float())
    model.train(was_training)
    return torch.cat(parts).cpu().numpy() if parts else np.empty((0, 0), np.float32)


def predictions(
    model: Classifier, feed: Feed, images: Images, rows_N: np.ndarray, arithmetic: Arithmetic
) -> Predictions:
    """What the network says of some images; labels are those that the feed gives them."""
    logits_NK = logits(model, feed, rows_N, model.preprocessing, arithmetic)
    return Predictions(
        path=tuple(images.table.paths[row] for row in rows_N),
        content=tuple(images.content[row] for row in rows_N),
        label=feed.labels_N.cpu().numpy()[rows_N],
        logits_NK=logits_NK.reshape(len(rows_N), len(model.classes)),
        classes=model.classes,
    )


def batch_size(size_px: int) -> int:
    """Images in a batch of evaluation: as many as fill the machine, with activations of a few hundred megabytes."""
    return int(np.clip(2**22 // size_px**2, 16, 512))


def scores(logits_NK: np.ndarray, label_N: np.ndarray) -> dict[str, Any]:
    """Validation loss (mean cross-entropy), accuracy and macro-F1; None without images."""
    if not len(label_N):
        return {"val_loss": None, "val_accuracy": None, "val_macro_f1": None}
    loss = F.cross_entropy(torch.from_numpy(logits_NK).double(), torch.from_numpy(label_N)).item()
    predicted_N = logits_NK.argmax(axis=1)
    return {
        "val_loss": loss,
        "val_accuracy": float((predicted_N == label_N).mean()),
        "val_macro_f1": float(f1_score(label_N, predicted_N, average="macro", zero_division=0.0)),
    }
