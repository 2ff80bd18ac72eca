"""Export target `timm`: a folder that timm and transformers load, with weights under timm's own names.

Importing this module takes seconds, as timm does.
"""

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError
from loupe.files import write_atomic
from loupe.models.bundle_config import CONFIG, BundleConfig, content_digest
from loupe.models.classifier import Classifier
from loupe.models.parent import EXPORTED, TIMM_WEIGHTS
from loupe.models.pretrained import published, weights_origin
from loupe.models.timm.classifiers import InexpressibleError, TimmNetwork, timm_network, to_timm

CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}

# Keys of timm's description of a network that hold for the trained weights too.
KEPT = ("fixed_input_size", "min_input_size", "first_conv", "classifier")


def write(model: Classifier, network: Network, folder: Path, licence: str | None = None) -> None:
    """Write `config.json` and `model.safetensors` for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    transformers reads the same folder: `AutoModelForImageClassification.from_pretrained(FOLDER)`.

    Args:
        model: trained classifier.
        network: its specification.
        licence: recorded licence of its pretrained weights, where the weights themselves no longer say it.

    Raises:
        ConfigError: timm has no such network.
        DiskError: the folder cannot be written.
    """
    found = _found(model, network)
    state = {name: value.detach().cpu().contiguous() for name, value in to_timm(model.state_dict(), found).items()}
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    config = _config(model, network, found, licence) | {EXPORTED: _bundle_config(model, network, weights).to_json()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TIMM_WEIGHTS, weights)
    write_atomic(folder / CONFIG, json.dumps(config, indent=1, allow_nan=False) + "\n")


def _found(model: Classifier, network: Network) -> TimmNetwork:
    """Network of timm for a classifier."""
    reason = f"timm has no {network.name}, which is a network of Loupe"
    if isinstance(network, BackboneSpec):
        try:
            return timm_network(network, model.preprocessing, len(model.classes))
        except InexpressibleError as error:
            reason = str(error)
    raise ConfigError(f"--to timm: {reason}. Choose --to onnx, which takes every network.") from None


def _config(model: Classifier, network: Network, found: TimmNetwork, licence: str | None) -> dict[str, Any]:
    """Keys of config.json in timm's layout, and transformers' names of the classes."""
    classes = list(model.classes)
    trained = {key: found.config[key] for key in KEPT if found.config.get(key) is not None}
    origin = weights_origin(network, licence)
    if origin is not None and origin.licence is not None:
        trained["license"] = origin.licence
    if found.options.get("dynamic_img_size"):
        trained["fixed_input_size"] = False
    return {
        "architecture": found.config["architecture"],
        "num_classes": len(classes),
        "num_features": found.num_features,
        "label_names": classes,
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        **({"model_args": found.options} if found.options else {}),
        "pretrained_cfg": trained | {"num_classes": len(classes), "pool_size": None, **_pixels(model.preprocessing)},
    }


def _pixels(preprocessing: Preprocessing) -> dict[str, Any]:
    """Preprocessing in timm's terms."""
    size, load = preprocessing.size, preprocessing.load_size
    return {
        "input_size": [preprocessing.channels, *size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_share(size.height_px, load.height_px),
        "crop_mode": CROP_MODES[preprocessing.resize],
    }


def _crop_share(side_px: int, load_px: int) -> float:
    """Share of a side that is cropped, from which timm computes exactly `load_px`: it rounds the quotient down."""
    share = side_px / load_px
    while math.floor(side_px / share) < load_px:
        share = math.nextafter(share, 0.0)
    return share


def _bundle_config(model: Classifier, network: Network, weights: bytes) -> BundleConfig:
    """Config with which Loupe trains on from the folder, without the path of earlier weights on this machine."""
    origin = published(network)
    start = "none" if origin is None else origin.weights
    is_place = start not in {"none", "timm"} and not start.startswith("hf-hub:")
    return BundleConfig(
        network=network.model_copy(update={"weights": Path(start).name if is_place else start}),
        preprocessing=model.preprocessing,
        classes=model.classes,
        precision="fp32",
        temperature=model.temperature,
        weights_blake2b=content_digest(weights),
    )
