"""Backbones of timm as classifiers: a trunk of blocks at which it can be frozen, a new head, its own preprocessing.

Importing this module takes seconds, as timm does.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from torch import nn

from loupe.config.network import BackboneSpec
from loupe.config.recipe import PIXEL_DEFINITION, Preprocessing, Resize
from loupe.config.size import Size
from loupe.errors import ConfigError, memory_error
from loupe.models import hub
from loupe.models.classifier import Classifier
from loupe.models.heads import head
from loupe.models.timm import weights
from loupe.models.timm.families import blocks_of
from loupe.models.timm.networks import KERAS_WIDTHS, check_name, create_network

# timm's names of crop modes, and Loupe's.
RESIZE: dict[str, Resize] = {"center": "crop", "squash": "squash", "border": "pad"}

# Keys of timm's config.json that describe the preprocessing.
STORED = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")

KERAS_PREPROCESSING: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "interpolation": "bilinear",
}


def preprocessing(spec: BackboneSpec) -> Preprocessing:
    """Preprocessing that the backbone was trained with; its weights are not loaded.

    Raises:
        ConfigError: unknown network, or the config beside its weights cannot be downloaded or read.
    """
    config: dict[str, Any]
    if spec.backbone in KERAS_WIDTHS:
        config = {**KERAS_PREPROCESSING, "crop_pct": 0.875, "crop_mode": "center"}
    else:
        check_name(spec.backbone)
        trained = timm.get_pretrained_cfg(spec.backbone)
        assert trained is not None
        known = trained.to_dict() | _stored_config(spec)  # type: ignore[no-untyped-call]
        config = resolve_data_config(pretrained_cfg=known, verbose=False)  # type: ignore[no-untyped-call]
    size = Size(*(int(side) for side in config["input_size"][-2:]))
    return Preprocessing(
        size_px=size.given,
        load_px=Size(*(int(side / config["crop_pct"]) for side in size)).given,
        resize=RESIZE[config["crop_mode"]],
        interpolation="bilinear" if config["interpolation"] == "random" else config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        pixel_definition=PIXEL_DEFINITION,
    )


def _stored_config(spec: BackboneSpec) -> dict[str, Any]:
    """Keys STORED of the config.json beside weights in a folder or a repository of the hub, in timm's layout.

    Empty if there is no such file: the default preprocessing of the network then applies.
    """
    path = Path(spec.weights.removeprefix("local-dir:"))
    if spec.weights.startswith("hf-hub:"):
        repository, _, revision = spec.weights.removeprefix("hf-hub:").partition("@")
        try:
            file = hub.HubFile(repository, "config.json", revision or None).fetch()
        except hub.MissingFileError:
            return {}  # a repository of weights alone
        except hub.DownloadError as error:
            raise weights.unavailable(spec, error) from None
    elif spec.weights not in ("timm", "none") and path.is_dir() and (path / "config.json").is_file():
        file = path / "config.json"
    else:
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        known: dict[str, Any] = stored.get("pretrained_cfg", stored)  # timm's older layout is flat
        return {name: known[name] for name in STORED if name in known}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: not a config.json of timm: {error}. Restore or remove it.") from None


def backbone(spec: BackboneSpec, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """Build the classifier with its pretrained weights, on the CPU; the weights of the head depend on `seed` alone.

    Raises:
        ConfigError: unknown network, or its weights cannot be downloaded or belong to another network.
    """
    with torch.random.fork_rng(devices=[]):  # layers without pretrained weights depend on the seed too

        def load(**options: Any) -> nn.Module:
            torch.manual_seed(seed % 2**63)
            return weights.load(spec, **options)

        model = _of_size(spec, load, preprocessing, classes)
    generator = torch.Generator().manual_seed(seed % 2**63)
    model.head.to_empty(device="cpu")
    for layer in model.head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)


def skeleton(
    spec: BackboneSpec,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    create: Callable[..., nn.Module] | None = None,
) -> Classifier:
    """Build the classifier without memory for its weights (PyTorch's meta device).

    Args:
        create: builder of its network with given options of timm; None for `create_network`.
    """
    with torch.device("meta"):
        return _of_size(spec, create or partial(create_network, spec.backbone), preprocessing, classes)


_widths: dict[tuple[str, str, Size, str], int] = {}  # of networks that were assembled before in this process


class _SizeRefusedError(ConfigError):
    """Network that does not take images of a size."""


def _of_size(
    spec: BackboneSpec, load: Callable[..., nn.Module], preprocessing: Preprocessing, classes: tuple[str, ...]
) -> Classifier:
    """Assemble the network as it is, or as timm builds it for the size of the images (`img_size`)."""
    try:
        return assemble(spec, load(), preprocessing, classes)
    except _SizeRefusedError as refused:
        options = {"img_size": tuple(preprocessing.size)}
        try:
            with torch.device("meta"):  # before weights are read
                assemble(spec, create_network(spec.backbone, **options), preprocessing, classes)
            return assemble(spec, load(**options), preprocessing, classes)
        except Exception as error:  # without this option, or with weights of one size alone, they raise various errors
            if memory_error(error, ""):
                raise
            raise refused from None


def assemble(
    spec: BackboneSpec, network: nn.Module, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> Classifier:
    """Cut the network into the blocks of a trunk, and add a head without memory for its weights."""
    if preprocessing.channels != 3:
        raise ConfigError(
            f"{spec.backbone} takes 3 channels, in which grey images are repeated. Leave out input.channels, or use a "
            "network of Loupe."
        )
    trunk = nn.Sequential(OrderedDict(blocks_of(network, spec.pooling, preprocessing.size)))
    width = _width(spec, trunk, preprocessing.size)
    with torch.device("meta"):
        top = head(spec.pooling, spec.hidden, width, len(classes))
    return Classifier(trunk, top, preprocessing, classes)


def _width(spec: BackboneSpec, trunk: nn.Sequential, size: Size) -> int:
    """Number of features of the trunk, from a pass on the meta device, which computes nothing but takes 0.3 s."""
    # Of a network that is built for another size, the layers read the same; its positions have other shapes.
    tensors = [*trunk.named_parameters(), *trunk.named_buffers()]
    shapes = [(name, tuple(value.shape)) for name, value in tensors]
    key = (spec.backbone, spec.pooling, size, hashlib.sha256(repr((repr(trunk), shapes)).encode()).hexdigest())
    if key not in _widths:
        _widths[key] = _measured_width(spec, trunk, size)
    return _widths[key]


def _measured_width(spec: BackboneSpec, trunk: nn.Sequential, size: Size) -> int:
    state = {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}
    abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    training = trunk.training
    try:
        with torch.no_grad():
            x_BCHW = torch.empty(1, 3, *size, device="meta")
            shape = torch.func.functional_call(trunk.eval(), abstract, x_BCHW).shape
    except Exception as error:  # timm's networks raise various errors
        reason = " ".join(str(error).split())[:150].rstrip(".") or type(error).__name__
        raise _SizeRefusedError(
            f"{spec.backbone} cannot take images of {size} px ({reason}). Leave out input.size_px for the size that it "
            "was trained on, or choose a network that takes any size: --model resnet50"
        ) from None
    finally:
        trunk.train(training)
    if spec.pooling != "own" and len(shape) != 4:
        raise ConfigError(f"{spec.backbone} has no feature map for pooling {spec.pooling}. Use model.pooling=own.")
    return int(shape[1] if spec.pooling == "average" else shape[1:].numel())
