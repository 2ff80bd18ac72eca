"""The self-describing bundle: weights.safetensors and config.json, all that prediction needs."""

import hashlib
from pathlib import Path
from typing import Annotated, ClassVar

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from loupe.config.base import Positive
from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.devices import Resolved
from loupe.errors import RunStateError
from loupe.files import write_atomic
from loupe.models.build import build, skeleton
from loupe.models.classifier import Classifier
from loupe.records import Record


class BundleConfig(Record):
    """The content of config.json.

    Attributes:
        precision: the one that the network was trained and evaluated in.
        temperature: of the calibrated probabilities; bundles made before it was fitted have none.
        weights_blake2b: hash of weights.safetensors.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore the model folder, or train again. A newer bundle takes a newer Loupe."

    network: Network
    preprocessing: Preprocessing
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    precision: Resolved
    temperature: Positive = 1.0
    weights_blake2b: str


def save(folder: Path, model: Classifier, spec: Network, precision: Resolved) -> None:
    """Writes the bundle; `precision` is the one that the network was trained and evaluated in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: value.cpu().contiguous() for name, value in model.state_dict().items()})
    config = BundleConfig(
        network=spec,
        preprocessing=model.preprocessing,
        classes=model.classes,
        precision=precision,
        temperature=model.temperature,
        weights_blake2b=content_digest(weights),
    )
    write_atomic(folder / "weights.safetensors", weights)
    config.write(folder / "config.json")


def load(folder: Path, device: torch.device) -> tuple[Classifier, Resolved]:
    """The classifier, ready to evaluate on the device, and its precision.

    Raises:
        LoupeError: there is no bundle, it is of a newer kind, its files do not belong together, or its network is
            put together in another way here.
    """
    config = BundleConfig.read(folder / "config.json")
    try:
        weights = (folder / "weights.safetensors").read_bytes()
    except OSError as error:
        raise RunStateError(
            f"{error.filename}: cannot be read ({error.strerror}). Was the training finished?"
        ) from None
    if content_digest(weights) != config.weights_blake2b:
        raise RunStateError(
            f"{folder}: weights.safetensors is damaged or not the one that config.json describes. Restore both."
        )
    model = _empty(folder, config)
    model.temperature = config.temperature
    _fill(model, _tensors(folder / "weights.safetensors", weights), folder, config.network.name)
    return model.to(device).to(memory_format=torch.channels_last).eval(), config.precision


def _tensors(path: Path, weights: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(weights)
    except Exception as error:  # a file of another kind raises whatever its reader raises
        raise RunStateError(f"{path}: not a file of weights ({_one_line(error)}). {BundleConfig.REMEDY}") from None


def _fill(model: Classifier, tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    """Gives the network its weights: the same names, shapes and types, and no others."""
    wanted = {name: value.dtype for name, value in model.state_dict().items()}
    try:
        if {name: value.dtype for name, value in tensors.items()} != wanted:
            raise RuntimeError
        model.load_state_dict(tensors, assign=True)
    except RuntimeError:
        raise RunStateError(
            f"{folder}: its weights do not fit {name} as this Loupe and this timm build it. Use "
            "the versions that the run was trained with (environment.json has them), or train again."
        ) from None


def _empty(folder: Path, config: BundleConfig) -> Classifier:
    """The network, to be given its weights; with memory where it has buffers that it computes and does not store."""
    network, preprocessing, classes = config.network, config.preprocessing, config.classes
    try:
        model = skeleton(network, preprocessing, classes)
        if {name for name, _ in model.named_buffers()} <= model.state_dict().keys():
            return model
        assert isinstance(network, BackboneSpec)
        return build(network.model_copy(update={"weights": "none"}), preprocessing, classes, seed=0)
    except Exception as error:  # sizes that no network has raise whatever PyTorch or timm raises
        reason = _one_line(error)
        raise RunStateError(
            f"{folder / 'config.json'}: the network cannot be built ({reason}). {BundleConfig.REMEDY}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def content_digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
