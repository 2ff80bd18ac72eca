"""The self-describing bundle: weights.safetensors and config.json, all that prediction needs."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.devices import Resolved
from loupe.errors import LoupeError
from loupe.files import write_atomic
from loupe.models.build import build, skeleton
from loupe.models.classifier import Classifier

SCHEMA = 1
NETWORK: TypeAdapter[Network] = TypeAdapter(Network)


def save(folder: Path, model: Classifier, spec: Network, precision: Resolved) -> None:
    """Writes the bundle; `precision` is the one that the network was trained and evaluated in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: value.cpu().contiguous() for name, value in model.state_dict().items()})
    config = {
        "schema": SCHEMA,
        "network": spec.model_dump(mode="json"),
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "classes": model.classes,
        "precision": precision,
        "temperature": model.temperature,
        "weights_blake2b": _digest(weights),
    }
    write_atomic(folder / "weights.safetensors", weights)
    write_atomic(folder / "config.json", json.dumps(config, indent=1) + "\n")


def load(folder: Path, device: torch.device) -> tuple[Classifier, Resolved]:
    """The classifier, ready to evaluate on the device, and its precision.

    Raises:
        LoupeError: there is no bundle, it is of a newer kind, its files do not belong together, or its network is
            put together in another way here.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise LoupeError(f"{folder}: no model can be read there: {error}. Was the training finished?") from None
    if config.get("schema") != SCHEMA:
        raise LoupeError(
            f"{folder}: a bundle of schema {config.get('schema')}; this Loupe reads {SCHEMA}. Update Loupe."
        )
    if _digest(weights) != config["weights_blake2b"]:
        raise LoupeError(
            f"{folder}: weights.safetensors is damaged or not the one that config.json describes. Restore both."
        )
    temperature = float(config.get("temperature", 1.0))  # bundles made before it was fitted have none
    if not 0 < temperature < math.inf:
        raise LoupeError(f"{folder}: config.json has the temperature {temperature}, which is none. Restore it.")
    preprocessing = Preprocessing.model_validate(config["preprocessing"])
    network = NETWORK.validate_python(config["network"])
    model = _empty(network, preprocessing, tuple(config["classes"]))
    model.temperature = temperature
    try:
        model.load_state_dict(safetensors.torch.load(weights), assign=True)
    except RuntimeError:
        raise LoupeError(
            f"{folder}: its weights do not fit {network.name} as this Loupe and this timm build it. Use "
            "the versions that the run was trained with (environment.json has them), or train again."
        ) from None
    return model.to(device).to(memory_format=torch.channels_last).eval(), config["precision"]


def _empty(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """The network, to be given its weights; with memory where it has buffers that it computes and does not store."""
    model = skeleton(network, preprocessing, classes)
    if {name for name, _ in model.named_buffers()} <= model.state_dict().keys():
        return model
    assert isinstance(network, BackboneSpec)
    return build(network.model_copy(update={"weights": "none"}), preprocessing, classes, seed=0)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
