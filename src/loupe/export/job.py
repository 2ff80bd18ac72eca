"""Job and options of an export, and the files that a target writes, with the engines that run them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from loupe.export.parity import EngineParity, Gate, Reference
from loupe.export.samples import Samples
from loupe.models.classifier import Classifier
from loupe.models.pretrained import weights_origin
from loupe.provenance import recorded_licence
from loupe.runs.run import Run

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}

TOLERANCE = 1e-4
"""Largest difference of a probability that passes."""


Check = Callable[[Samples, Reference], EngineParity | None]


@dataclass(frozen=True)
class Options:
    """Options of the targets.

    Attributes:
        precision: of the exported network.
        max_loss_points: accuracy that a lower precision may lose, in percentage points.
        runtime: folder with the files of ONNX Runtime Web; None to fetch them.
        threshold: calibrated probability below which the page says `unclassified`; None for no threshold.
    """

    precision: Precision = "fp32"
    max_loss_points: float = 0.5
    runtime: Path | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        run: the run.
        model: its network in evaluation mode, fp32, on the CPU.
        folder: empty folder for the files of the model.
    """

    run: Run
    model: Classifier
    folder: Path
    options: Options = Options()

    @cached_property
    def licence(self) -> str | None:
        """Licence of the pretrained weights that the run began from, as timm names it; None where it is not known."""
        origin = weights_origin(self.run.config.network, recorded_licence(self.run.directory))
        return origin.licence if origin else None

    @property
    def metadata(self) -> dict[str, str]:
        """Texts that describe the model, for files that have room for them."""
        model = self.model
        texts = {
            "classes": json.dumps(list(model.classes)),
            "temperature": repr(model.temperature),
            "preprocessing": model.preprocessing.model_dump_json(),
            "weights_blake2b": self.run.config.weights_blake2b,
        }
        return texts if self.licence is None else {**texts, "licence": self.licence}


@dataclass(frozen=True)
class Written:
    """Files of a model.

    Attributes:
        model: name of the file that an engine of Loupe opens; None without one.
        gates: engines that run it, with their bounds.
        checks: further comparisons with the run, each of which raises an ExportRefusedError if it fails;
            None if it cannot be made here.
        usage: how to use it, as Markdown.
        page: name of the file for a browser; None without one.
        front: front matter of its card, such as the `library_name` of the Hugging Face hub.
    """

    model: str | None
    gates: tuple[Gate, ...]
    usage: str
    front: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    page: str | None = None
