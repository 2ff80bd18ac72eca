"""Networks of timm, taken apart into the blocks at which they can be frozen.

Importing timm takes seconds; so does whoever imports this module.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError  # type: ignore[attr-defined]
from timm.data.config import resolve_data_config
from timm.models import EfficientNet, VisionTransformer
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing, Resize
from loupe.errors import ConfigError, LoupeError, unknown_name
from loupe.models.classifier import Classifier
from loupe.models.heads import head
from loupe.models.timm.families import blocks_of

# timm's names of crop modes, and ours.
RESIZE: dict[str, Resize] = {"center": "crop", "squash": "squash", "border": "pad"}

# What of timm's config.json says how pixels are prepared.
STORED = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")

# What timm takes in place of a file of its hub where the repository has it.
SAFE_FILES = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}

# MobileNet v1 in the widths that Keras has weights for and timm has not; layers and constants as in Keras.
KERAS_WIDTHS = {"mobilenetv1_025": 0.25, "mobilenetv1_050": 0.5, "mobilenetv1_075": 0.75}
KERAS_MOBILENET = [
    "dsa_r1_k3_s1_c64",
    "dsa_r2_k3_s2_c128",
    "dsa_r2_k3_s2_c256",
    "dsa_r6_k3_s2_c512",
    "dsa_r2_k3_s2_c1024",
]
KERAS_PREPROCESSING: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "interpolation": "bilinear",
}


def preprocessing(spec: BackboneSpec) -> Preprocessing:
    """What the backbone was trained with: size, crop, interpolation, mean, deviation; without loading weights.

    Raises:
        LoupeError: no such network; or what is stored beside its weights cannot be had or read.
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
    size_px = int(config["input_size"][-1])
    return Preprocessing(
        size_px=size_px,
        load_px=int(size_px / config["crop_pct"]),
        resize=RESIZE[config["crop_mode"]],
        interpolation="bilinear" if config["interpolation"] == "random" else config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _stored_config(spec: BackboneSpec) -> dict[str, Any]:
    """What the config.json of a folder or of a repository of the hub says of its weights, in timm's layout.

    Empty where there is no such file: then the network's own preprocessing stands.
    """
    path = Path(spec.weights.removeprefix("local-dir:"))
    if spec.weights.startswith("hf-hub:"):
        repository, _, revision = spec.weights.removeprefix("hf-hub:").partition("@")
        try:
            file = _download(repository, "config.json", revision or None)
        except (EntryNotFoundError, OSError, ValueError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return {}  # a repository of weights alone
            raise _out_of_reach(spec.backbone, error) from None
    elif spec.weights not in ("timm", "none") and path.is_dir() and (path / "config.json").is_file():
        file = path / "config.json"
    else:
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        told: dict[str, Any] = stored.get("pretrained_cfg", stored)  # timm's older layout is flat
        return {name: told[name] for name in STORED if name in told}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: cannot be read as what timm keeps beside weights: {error}.") from None


def backbone(spec: BackboneSpec, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """The classifier with its pretrained weights, on the CPU; the head's weights depend on `seed` alone.

    Raises:
        LoupeError: no such network, or its weights cannot be had or are another's.
    """
    with torch.random.fork_rng(devices=[]):  # what has no pretrained weights depends on the seed too
        torch.manual_seed(seed % 2**63)
        network = _load(spec)
    model = assemble(spec, network, preprocessing, classes)
    generator = torch.Generator().manual_seed(seed % 2**63)
    model.head.to_empty(device="cpu")
    for layer in model.head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)


def skeleton(spec: BackboneSpec, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """The classifier without memory for its weights (PyTorch's meta device)."""
    with torch.device("meta"):
        return assemble(spec, create_network(spec.backbone), preprocessing, classes)


def assemble(
    spec: BackboneSpec, network: nn.Module, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> Classifier:
    """Takes the network apart into a trunk, and puts a head without memory on it."""
    trunk = nn.Sequential(OrderedDict(blocks_of(network, spec.pooling)))
    width = _width(spec, trunk, preprocessing.size_px)
    with torch.device("meta"):
        top = head(spec.pooling, spec.hidden, width, len(classes))
    return Classifier(trunk, top, preprocessing, classes)


def _width(spec: BackboneSpec, trunk: nn.Sequential, size_px: int) -> int:
    """How many features the trunk gives, from a pass on the meta device, where nothing is computed."""
    state = {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}
    abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    training = trunk.training
    try:
        with torch.no_grad():
            x_BCHW = torch.empty(1, 3, size_px, size_px, device="meta")
            shape = torch.func.functional_call(trunk.eval(), abstract, x_BCHW).shape
    except RuntimeError as error:
        raise ConfigError(
            f"{spec.backbone} cannot take images of {size_px} px: {error}. Set another input.size_px."
        ) from None
    finally:
        trunk.train(training)
    if spec.pooling != "own" and len(shape) != 4:
        raise ConfigError(f"{spec.backbone} makes no map of features to {spec.pooling}: use model.pooling=own.")
    return int(shape[1] if spec.pooling == "average" else shape[1:].numel())


def exists(name: str) -> bool:
    """Whether this names a network of timm's, or a width of MobileNet that Keras has weights for."""
    return name in KERAS_WIDTHS or timm.is_model(name)


def names() -> list[tuple[str, bool]]:
    """All of them, with whether timm's hub has weights of any kind."""
    known = {name.partition(".")[0] for name in timm.list_pretrained()}
    return [(name, name in known) for name in timm.list_models()] + [(name, False) for name in KERAS_WIDTHS]


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """LoupeError, with the nearest known names, of which there may be others, where timm has no such network."""
    if not exists(name):
        raise unknown_name("model", name, [*also, *timm.list_models(), *timm.list_pretrained(), *KERAS_WIDTHS])


def create_network(name: str, **options: Any) -> nn.Module:
    """The network without a classifier; weights are random unless `options` ask timm for others."""
    check_name(name)
    if name in KERAS_WIDTHS:
        return _keras_mobilenet(KERAS_WIDTHS[name])
    if timm.model_entrypoint(name).__module__ == VisionTransformer.__module__:
        options["dynamic_img_size"] = True  # any size of image; at its own size the same network
    return timm.create_model(name, num_classes=0, **options)


def _keras_mobilenet(width: float) -> nn.Module:
    """MobileNet v1 as Keras builds it (Howard et al. 2017): "SAME" padding, ReLU6, an epsilon of 1e-3."""
    return EfficientNet(
        block_args=decode_arch_def([[block] for block in KERAS_MOBILENET]),  # type: ignore[no-untyped-call]
        num_classes=0,
        num_features=0,
        stem_size=32,
        round_chs_fn=partial(round_channels, multiplier=width),
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        act_layer=nn.ReLU6,
        pad_type="same",
    )


def fetch(name: str) -> None:
    """Sees to it that timm's weights of a network are on this machine; LoupeError where they cannot be had."""
    check_name(name)
    trained = None if name in KERAS_WIDTHS else timm.get_pretrained_cfg(name)
    if trained is None or not trained.hf_hub_id:
        raise ConfigError(f"timm has no weights of {name}: give a file with --weights, or --weights none.")
    try:
        _download(trained.hf_hub_id, trained.hf_hub_filename or "model.safetensors")
    except (OSError, ValueError) as error:
        raise _out_of_reach(name, error) from None


def _download(repository: str, file: str, revision: str | None = None) -> Path:
    """Asks the network only for what is not on this machine."""
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except OSError:
        return Path(hf_hub_download(repository, file, revision=revision))


def _load(spec: BackboneSpec) -> nn.Module:
    """The network with the weights that the spec names."""
    if spec.weights == "none":
        return create_network(spec.backbone)
    if spec.weights == "timm" or spec.weights.startswith("hf-hub:"):
        return _from_hub(spec)
    return _from_file(spec, _named_file(spec))


def _named_file(spec: BackboneSpec) -> Path:
    path = Path(spec.weights.removeprefix("local-dir:"))
    return path / "model.safetensors" if path.is_dir() else path


def weights_file(spec: BackboneSpec) -> Path | None:
    """The file on this machine that a network built before took its weights from; None where it took none from one."""
    if spec.weights == "none":
        return None
    if spec.weights != "timm" and not spec.weights.startswith("hf-hub:"):
        path = _named_file(spec)
        return path if path.is_file() else None
    trained = None if spec.backbone in KERAS_WIDTHS else timm.get_pretrained_cfg(spec.backbone)
    if trained is None:
        return None
    source = trained.hf_hub_id if spec.weights == "timm" else spec.weights.removeprefix("hf-hub:")
    if not source:  # from an address of its own, into PyTorch's folder
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(trained.url)).name
        return path if path.is_file() else None
    repository, _, revision = source.partition("@")
    given = trained.hf_hub_filename or "pytorch_model.bin"
    for name in (SAFE_FILES.get(given, str(Path(given).with_suffix(".safetensors"))), given):
        with suppress(OSError, ValueError):
            return Path(hf_hub_download(repository, name, revision=revision or None, local_files_only=True))
    return None


def check_weights(spec: BackboneSpec) -> None:
    """Finds out that weights cannot be had or are another's, and sees to it that those of the hub are here.

    Raises:
        LoupeError: they are not to be had, or do not fit the network.
    """
    if spec.weights == "none":
        return
    if spec.weights == "timm" or spec.weights.startswith("hf-hub:"):
        if weights_file(spec) is None:
            _from_hub(spec)
        return
    with torch.device("meta"):
        network = create_network(spec.backbone)
    _fitting(spec, _named_file(spec), network)


def _from_hub(spec: BackboneSpec) -> nn.Module:
    if spec.backbone in KERAS_WIDTHS:
        raise ConfigError(f"timm has no weights of {spec.backbone}: give a file with --weights, or --weights none.")
    overlay = {} if spec.weights == "timm" else {"hf_hub_id": spec.weights.removeprefix("hf-hub:")}
    try:
        return create_network(spec.backbone, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, ValueError) as error:
        raise _out_of_reach(spec.backbone, error) from None


def _out_of_reach(name: str, error: Exception) -> LoupeError:
    reason = " ".join(str(error).split())[:100]
    return ConfigError(
        f"the weights of {name} cannot be had ({type(error).__name__}: {reason}). Connect to the network once, after "
        "which they stay on this machine; or give a file with --weights FILE.safetensors; or start from random "
        "weights with --weights none."
    )


def _from_file(spec: BackboneSpec, path: Path) -> nn.Module:
    network = create_network(spec.backbone)
    network.load_state_dict(_fitting(spec, path, network))
    return network


def _fitting(spec: BackboneSpec, path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights in timm's names. Those of the classifier that they were trained with are left out; all else must fit."""
    if not path.is_file():
        raise ConfigError(f"--weights {path}: there is no such file.")
    try:
        state = timm.models.load_state_dict(str(path))
    except Exception as error:  # a damaged file raises whatever its format's reader raises
        raise ConfigError(
            f"--weights {path}: cannot be read as weights: {' '.join(str(error).split())[:200]}"
        ) from None
    wanted = network.state_dict()
    wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise ConfigError(
            f"--weights {path}: not the weights of {spec.backbone}: {len(wrong)} of {len(wanted)} tensors are missing "
            f"or of another shape, the first is {wrong[0]}."
        )
    return {name: state[name] for name in wanted}
