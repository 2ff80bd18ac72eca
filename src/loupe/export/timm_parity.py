"""Gate of the export for timm: the logits of Loupe, timm and transformers for the same images.

Importing this module takes seconds, as timm does.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.errors import ConfigError
from loupe.models.classifier import Classifier
from loupe.records import Part, Quantity, Whole

TOLERANCE = 1e-5

Logits = Callable[[Tensor], Tensor]


class LogitDifferences(Part):
    """Logits of the same images from Loupe, timm and transformers.

    Attributes:
        images: number of images.
        largest_logit: largest magnitude of a logit of Loupe.
        timm: largest difference between logits of Loupe and of timm, as a fraction of `largest_logit`.
        transformers: the same for transformers; None where it is not installed.
    """

    images: Whole
    largest_logit: Quantity
    timm: Quantity
    transformers: Quantity | None = None

    @property
    def agree(self) -> bool:
        """True if no difference is above TOLERANCE."""
        return bool(self.images) and max(self.timm, self.transformers or 0.0) <= TOLERANCE


@torch.inference_mode()
def compare(model: Classifier, folder: Path, batches: Iterable[Tensor]) -> LogitDifferences:
    """Compare the logits of a classifier with those of its export.

    Args:
        model: trained classifier, in fp32 on the CPU, ready to evaluate.
        folder: its export for timm.
        batches: pixels of images, uint8 [B, 3, H, W] of `load_px`.
    """
    others: dict[str, Logits] = {"timm": _of_timm(folder)}
    if find_spec("transformers") is not None:
        others["transformers"] = _of_transformers(folder)
    images, largest, apart = 0, 0.0, dict.fromkeys(others, 0.0)
    for pixels_BCHW in batches:
        x_BCHW = evaluation_view(pixels_BCHW, model.preprocessing)
        mine_BK = model(x_BCHW)
        images += len(mine_BK)
        largest = max(largest, float(mine_BK.abs().max()))
        for name, logits in others.items():
            apart[name] = max(apart[name], float((logits(x_BCHW) - mine_BK).abs().max()))
    shares = {name: value / largest if largest else value for name, value in apart.items()}
    return LogitDifferences(images=images, largest_logit=largest, **shares)


def check(found: LogitDifferences, folder: Path) -> None:
    """Check that all logits agree.

    Raises:
        ConfigError: they do not, or no images were compared.
    """
    if not found.agree:
        others = found.model_dump(include={"timm", "transformers"}, exclude_none=True)
        listed = ", ".join(f"{name} {value:.1e}" for name, value in others.items())
        raise ConfigError(
            f"{folder}: refused, because its logits differ from those of the run ({listed} of the largest logit, over "
            f"{found.images:,} images; allowed is {TOLERANCE:.0e}). Choose another target, for example --to onnx."
        )


def _of_timm(folder: Path) -> Logits:
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return network.eval()


def _of_transformers(folder: Path) -> Logits:
    from transformers import AutoModelForImageClassification

    with _quiet():
        network = AutoModelForImageClassification.from_pretrained(str(folder), local_files_only=True)
    network.eval()
    return lambda x_BCHW: network(pixel_values=x_BCHW).logits


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its log and its progress bars, which are as they were before afterwards."""
    from transformers.utils import logging

    settings: Any = logging
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
