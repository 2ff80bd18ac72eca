"""Model bundle: weights.safetensors and config.json, all that prediction needs."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from loupe.config.network import Network, without_weights
from loupe.devices import Resolved
from loupe.errors import RunStateError
from loupe.files import write_atomic
from loupe.models import weights_file
from loupe.models.build import build, skeleton
from loupe.models.bundle_config import CONFIG, STORED_NETWORK, WEIGHTS, BundleConfig, StoredEngine, content_digest
from loupe.models.classifier import Classifier
from loupe.models.weight_values import defect


@dataclass(frozen=True)
class ConvertedNetwork:
    """Network that was converted for another engine: what config.json says of it, and its files."""

    engine: StoredEngine
    files: tuple[bytes, bytes]


def save(
    folder: Path, model: Classifier, spec: Network, precision: Resolved, converted: ConvertedNetwork | None = None
) -> None:
    """Write the bundle.

    Args:
        precision: precision that the network was trained and evaluated in.
        converted: network for the engine that predicts; None for PyTorch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: value.cpu().contiguous() for name, value in model.state_dict().items()})
    config = BundleConfig(
        network=spec,
        preprocessing=model.preprocessing,
        classes=model.classes,
        precision=precision,
        temperature=model.temperature,
        weights_blake2b=content_digest(weights),
        **({} if converted is None else {"engine": converted.engine}),
    )
    write_atomic(folder / WEIGHTS, weights)
    for number, name in enumerate(STORED_NETWORK):
        if converted is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomic(folder / name, converted.files[number])
    config.write(folder / CONFIG)


def load(folder: Path, device: torch.device) -> tuple[Classifier, Resolved]:
    """Load the classifier, ready to evaluate on the device, and its precision.

    Raises:
        RunStateError: there is no bundle, it has a newer schema, its files are damaged or do not belong together, or
            this version of Loupe or timm builds its network in another way, or its weights are NaN, infinite or zero.
    """
    config = BundleConfig.read(folder / CONFIG)
    tensors = weights_file.read(folder / WEIGHTS, config.weights_blake2b, BundleConfig.REMEDY)
    model = _empty(folder, config)
    model.temperature = config.temperature
    _fill(model, tensors, folder, config.network.name)
    if reason := defect(model.state_dict(), model):  # in the order of the network
        raise RunStateError(
            f"{folder / 'weights.safetensors'}: {reason}. Nothing can be predicted with it. {BundleConfig.REMEDY}"
        )
    return model.to(device).to(memory_format=torch.channels_last).eval(), config.precision


def _fill(model: Classifier, tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    """Load weights into the network; their names, shapes and types must match exactly."""
    wanted = {name: value.dtype for name, value in model.state_dict().items()}
    try:
        if {name: value.dtype for name, value in tensors.items()} != wanted:
            raise RuntimeError
        model.load_state_dict(tensors, assign=True)
    except RuntimeError:
        raise RunStateError(
            f"{folder}: the weights do not fit {name} as this Loupe and this timm build it. Use the versions that the "
            "run was trained with (see environment.json), or train again."
        ) from None


def _empty(folder: Path, config: BundleConfig) -> Classifier:
    """Network without weights; with memory only if it has buffers that are computed and not stored."""
    network, preprocessing, classes = config.network, config.preprocessing, config.classes
    try:
        model = skeleton(network, preprocessing, classes)
        if {name for name, _ in model.named_buffers()} <= model.state_dict().keys():
            return model
        return build(without_weights(network), preprocessing, classes, seed=0)
    except Exception as error:  # for impossible sizes, PyTorch and timm raise various errors
        reason = _one_line(error)
        raise RunStateError(
            f"{folder / 'config.json'}: the network cannot be built ({reason}). {BundleConfig.REMEDY}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
