"""Engines of an export for timm: timm and transformers, whose logits are compared with those of the run.

Importing this module takes seconds, as timm does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from loupe.augment.pipeline import evaluation_view
from loupe.data.pixels.decode import UInt8Array
from loupe.export.parity import Gate, LogitComparison
from loupe.export.runners import Floats
from loupe.models.classifier import Classifier

TOLERANCE = 1e-5
"""Largest difference of a probability, and of a logit as a fraction of the largest one, that passes."""

Logits = Callable[[Tensor], Tensor]


class PreparedRunner:
    """Network without preprocessing, for images that the run's own has resized.

    Attributes:
        compared: comparison of its logits with those of the run, for all images that it has seen.
    """

    def __init__(self, name: str, logits: Logits, model: Classifier) -> None:
        self.name = name
        self.compared = LogitComparison(TOLERANCE)
        self._logits, self._model = logits, model

    @torch.inference_mode()
    def run(self, images: UInt8Array) -> tuple[Floats, UInt8Array]:
        """Calibrated probabilities [N, K] of resized images [N, h, w, 3], and these images."""
        pixels_NHWC = torch.from_numpy(np.require(images, None, ["C", "W"]))
        x_NCHW = evaluation_view(pixels_NHWC.permute(0, 3, 1, 2), self._model.preprocessing)
        logits_NK = self._logits(x_NCHW)
        self.compared.add(self._model(x_NCHW).numpy(), logits_NK.numpy())
        return torch.softmax(logits_NK.double() / self._model.temperature, dim=1).float().numpy(), images


def gates(model: Classifier, folder: Path) -> tuple[Gate, ...]:
    """Gates of timm, and of transformers where it is installed, for the export of a classifier in a folder.

    Args:
        model: the classifier in evaluation mode, fp32, on the CPU.
    """
    engines = {"timm": _of_timm} | ({"transformers": _of_transformers} if find_spec("transformers") else {})
    runners = [PreparedRunner(f"{name} {version(name)}", load(folder), model) for name, load in engines.items()]
    return tuple(Gate(runner, TOLERANCE, is_prepared=True, logits=runner.compared) for runner in runners)


def _of_timm(folder: Path) -> Logits:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _of_transformers(folder: Path) -> Logits:
    from transformers import AutoModelForImageClassification

    with _quiet():
        network = AutoModelForImageClassification.from_pretrained(str(folder), local_files_only=True)
    network.eval()
    return lambda x_NCHW: network(pixel_values=x_NCHW).logits


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
