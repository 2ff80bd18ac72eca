"""Pretrained weights of timm's networks: from its hub, from a repository of the Hugging Face hub, or from a file.

Importing this module takes seconds, as timm does.
"""

from contextlib import suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import LocalEntryNotFoundError  # type: ignore[attr-defined]
from torch import nn

from loupe.config.network import BackboneSpec
from loupe.errors import ConfigError
from loupe.models.timm.networks import KERAS_WIDTHS, check_name, create_network

# Files that timm prefers, if the repository has them.
SAFE_FILES = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def fetch(name: str) -> None:
    """Download timm's weights of a network, unless they are on this machine.

    Raises:
        ConfigError: unknown network, no weights, or no connection.
    """
    check_name(name)
    trained = None if name in KERAS_WIDTHS else timm.get_pretrained_cfg(name)
    if trained is None or not trained.hf_hub_id:
        raise ConfigError(f"timm has no pretrained weights of {name}. Give --weights FILE or --weights none.")
    try:
        download(trained.hf_hub_id, trained.hf_hub_filename or "model.safetensors")
    except (OSError, ValueError) as error:
        raise unreachable(name, error) from None


def download(repository: str, file: str, revision: str | None = None) -> Path:
    """Path of a file of the Hugging Face hub on this machine, downloaded only if it is missing."""
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except OSError:
        return Path(hf_hub_download(repository, file, revision=revision))


def load(spec: BackboneSpec) -> nn.Module:
    """Build the network with the weights that the spec names."""
    if spec.weights == "none":
        return create_network(spec.backbone)
    if spec.weights == "timm" or spec.weights.startswith("hf-hub:"):
        return _from_hub(spec)
    return _from_file(spec, _named_file(spec))


def _named_file(spec: BackboneSpec) -> Path:
    path = Path(spec.weights.removeprefix("local-dir:"))
    return path / "model.safetensors" if path.is_dir() else path


def weights_file(spec: BackboneSpec) -> Path | None:
    """File on this machine with the weights of a network that was built before; None if there is none."""
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
    """Check that the weights fit the network; those of a hub are downloaded.

    Raises:
        ConfigError: they cannot be read or downloaded, or belong to another network.
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
        raise ConfigError(f"timm has no pretrained weights of {spec.backbone}. Give --weights FILE or --weights none.")
    overlay = {} if spec.weights == "timm" else {"hf_hub_id": spec.weights.removeprefix("hf-hub:")}
    try:
        return create_network(spec.backbone, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, ValueError) as error:
        raise unreachable(spec.backbone, error) from None


def unreachable(name: str, error: Exception) -> ConfigError:
    """Error for pretrained weights that are not cached and cannot be downloaded, with the reason and the remedy."""
    if isinstance(error, LocalEntryNotFoundError):  # its text is about options of huggingface_hub
        reason = "no connection to huggingface.co"
    else:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
    return ConfigError(
        f"the pretrained weights of {name} are not on this machine and cannot be downloaded: {reason}. Connect to the "
        "internet once, or give --weights FILE.safetensors or --weights none."
    )


def _from_file(spec: BackboneSpec, path: Path) -> nn.Module:
    network = create_network(spec.backbone)
    network.load_state_dict(_fitting(spec, path, network))
    return network


def _fitting(spec: BackboneSpec, path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights in timm's names, without those of the original classifier; all others must fit."""
    if not path.is_file():
        raise ConfigError(f"--weights {path}: no such file.")
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
            f"--weights {path}: not the weights of {spec.backbone}; {len(wrong)} of {len(wanted)} tensors are missing "
            f"or have another shape, the first is {wrong[0]}. Give a file of that network."
        )
    return {name: state[name] for name in wanted}
