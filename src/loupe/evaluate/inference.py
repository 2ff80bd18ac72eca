"""A network over images: logits, predictions, and the few scores that training watches."""

import statistics
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.data.pixels.batches import Batch
from loupe.data.pixels.prepare import Images
from loupe.devices import Compute
from loupe.evaluate.predictions import Predictions
from loupe.models.classifier import Classifier

SPEED_BATCH = 32


class Source(Protocol):
    """What gives inputs in batches: a feed of images, or of what is made of them."""

    @property
    def labels_N(self) -> Tensor: ...  # noqa: N802

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]: ...


@torch.inference_mode()
def logits(model: Classifier, feed: Source, rows_N: np.ndarray, arithmetic: Compute, first: int = 0) -> np.ndarray:
    """The logits, float32 [N, classes], of the images `rows_N`, in that order; the model's mode is left as it was.

    `first`: the block that the feed's inputs enter at; above 0 they are what the blocks before it make of images.
    """
    was_training = model.training
    model.eval()
    parts = []
    for batch in feed.batches(rows_N, batch_size(model.preprocessing.size_px)):
        x = batch.x_BCHW if first else evaluation_view(batch.x_BCHW, model.preprocessing)
        with arithmetic.autocast():
            parts.append(model(x, first).float())
    model.train(was_training)
    return torch.cat(parts).cpu().numpy() if parts else np.empty((0, 0), np.float32)


def predictions(
    model: Classifier, feed: Source, images: Images, rows_N: np.ndarray, arithmetic: Compute, first: int = 0
) -> Predictions:
    """What the network says of some images; labels are those that the feed gives them. `first` as for `logits`."""
    logits_NK = logits(model, feed, rows_N, arithmetic, first)
    return Predictions(
        path=tuple(images.table.paths[row] for row in rows_N),
        content=tuple(images.content[row] for row in rows_N),
        label=feed.labels_N.cpu().numpy()[rows_N],
        logits_NK=logits_NK.reshape(len(rows_N), len(model.classes)),
        classes=model.classes,
    )


@torch.inference_mode()
def images_per_second(model: Classifier, arithmetic: Compute, repeats: int = 3) -> float:
    """How fast a network predicts from decoded pixels: the median of a few batches of its own size."""
    preprocessing = model.preprocessing
    images = min(SPEED_BATCH, batch_size(preprocessing.size_px))
    x_BCHW = torch.zeros(images, 3, preprocessing.load_px, preprocessing.load_px, dtype=torch.uint8)
    x_BCHW = x_BCHW.to(arithmetic.device, memory_format=torch.channels_last)
    model.eval()
    seconds = []
    for _ in range(1 + repeats):  # the first compiles and fills caches
        arithmetic.synchronize()
        began = time.perf_counter()
        with arithmetic.autocast():
            model(evaluation_view(x_BCHW, preprocessing))
        arithmetic.synchronize()
        seconds.append(time.perf_counter() - began)
    return images / statistics.median(seconds[1:])


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
