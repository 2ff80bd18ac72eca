"""Pretrained weights of timm's networks: from its hub, from a repository of the Hugging Face hub, or from a file.

Importing this module takes seconds, as timm does.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from loupe.config.network import BackboneSpec
from loupe.errors import ConfigError, memory_error, sentences
from loupe.log import command_line
from loupe.models import hub
from loupe.models.timm import local
from loupe.models.timm.networks import KERAS_WIDTHS, check_name, create_network
from loupe.models.weight_folders import VARIABLE, file_in
from loupe.models.weight_values import defect

# Files that timm prefers, if the repository has them.
SAFE_FILES = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def fetch(name: str) -> None:
    """Download timm's weights of a network, unless they are on this machine.

    Raises:
        ConfigError: unknown network, no weights, or they cannot be downloaded.
        DiskError: the file cannot be written.
    """
    check_name(name)
    if local.entry_of(name) is None:
        _fetch(BackboneSpec(backbone=name, weights="timm"))


def load(spec: BackboneSpec, **options: Any) -> nn.Module:
    """Build the network, with options of timm, and with the weights that the spec names."""
    if spec.weights == "none":
        return create_network(spec.backbone, **options)
    if _is_of_hub(spec):
        return _from_hub(spec, **options)
    return _from_file(spec, _named_file(spec), **options)


def _is_of_hub(spec: BackboneSpec) -> bool:
    """True for weights of a hub, unless a file in a folder of LOUPE_WEIGHTS stands in for timm's."""
    return spec.weights.startswith("hf-hub:") or (spec.weights == "timm" and local.file_of_timm(spec) is None)


def _named_file(spec: BackboneSpec) -> Path:
    if file := local.file_of_timm(spec):
        return file
    path = Path(spec.weights.removeprefix("local-dir:"))
    return file_in(path) if path.is_dir() else path


def _shown(spec: BackboneSpec, path: Path) -> str:
    """File of weights in a message, after the option or the variable that names it."""
    return f"{VARIABLE}: {path}" if spec.weights == "timm" else f"--weights {path}"


def weights_file(spec: BackboneSpec) -> Path | None:
    """File on this machine with the weights of a network, found without asking the network; None if there is none."""
    if spec.weights == "none":
        return None
    if not _is_of_hub(spec):
        path = _named_file(spec)
        return path if path.is_file() else None
    return downloaded(spec)


def downloaded(spec: BackboneSpec) -> Path | None:
    """File with weights of a hub in the caches of this machine; None if it is not there."""
    for file in _files_of_hub(spec):
        try:
            if cached := file.cached():
                return cached
        except hub.MissingFileError:
            continue
    _, target = _address(spec)
    return target if target and target.is_file() else None


def repository(spec: BackboneSpec) -> str | None:
    """Repository of the hub that the weights are from, without its revision; None if it is none or not known."""
    is_named = spec.weights == "timm" or spec.weights.startswith("hf-hub:")
    return next((file.repository for file in _files_of_hub(spec)), None) if is_named else None


def licence(spec: BackboneSpec) -> str | None:
    """Licence of the weights as timm states it, for those that it names itself; None if it is not known."""
    trained = _trained(spec)
    if trained is None or not (spec.weights == "timm" or repository(spec) == trained.hf_hub_id):
        return None
    stated: str | None = trained.license
    return None if stated == "unknown" else stated


def _trained(spec: BackboneSpec) -> PretrainedCfg | None:
    return None if spec.backbone in KERAS_WIDTHS else timm.get_pretrained_cfg(spec.backbone)


def _files_of_hub(spec: BackboneSpec) -> list[hub.HubFile]:
    """Files of the hub that may have the weights, in timm's order; empty for weights with an address of their own."""
    trained = _trained(spec)
    if trained is None:
        return []
    source = trained.hf_hub_id if spec.weights == "timm" else spec.weights.removeprefix("hf-hub:")
    if not source:
        return []
    repository, _, revision = source.partition("@")
    given = trained.hf_hub_filename or "pytorch_model.bin"
    names = dict.fromkeys((SAFE_FILES.get(given, str(Path(given).with_suffix(".safetensors"))), given))
    return [hub.HubFile(repository, name, revision or None) for name in names]


def _address(spec: BackboneSpec) -> tuple[str, Path | None]:
    """Address of weights outside the hub, and their file in PyTorch's folder; empty and None if there is none."""
    trained = _trained(spec)
    if trained is None or spec.weights != "timm" or trained.hf_hub_id or not trained.url:
        return "", None
    url = str(trained.url)
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def check_weights(spec: BackboneSpec) -> None:
    """Check that the weights fit the network; those of a hub are downloaded.

    Raises:
        ConfigError: they cannot be read or downloaded, belong to another network, or are NaN, infinite or zero.
        DiskError: the file cannot be written.
    """
    if spec.weights == "none":
        return
    if _is_of_hub(spec):
        path = _fetch(spec)
        state: dict[str, torch.Tensor] = {}
        with suppress(Exception):  # other formats and damage are met when the network is built
            state = timm.models.load_state_dict(str(path))
        _refuse_defect(path, _without_classifier(spec, state))
        return
    with torch.device("meta"):
        network = create_network(spec.backbone)
    _fitting(spec, _named_file(spec), network)


def _fetch(spec: BackboneSpec) -> Path:
    """File of the hub with the weights, downloaded if it is not on this machine."""
    if path := weights_file(spec):
        return path
    url, target = _address(spec)
    missing: hub.DownloadError | None = None
    try:
        if target:
            return hub.fetch_address(url, target)
        for file in _files_of_hub(spec):
            try:
                return file.fetch()
            except hub.MissingFileError as error:
                missing = missing or error
    except hub.DownloadError as error:
        missing = error
    if missing:
        raise unavailable(spec, missing)
    raise ConfigError(f"timm has no pretrained weights of {spec.backbone}. Give --weights FILE or --weights none.")


def _from_hub(spec: BackboneSpec, **options: Any) -> nn.Module:
    path = _fetch(spec)
    overlay: dict[str, Any] = {"file": str(path)}
    if not _address(spec)[0]:
        overlay["custom_load"] = False  # it is meant for the address of the original files
    try:
        network = create_network(spec.backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # a damaged file raises whatever its format's reader raises
        if memory_error(error, ""):
            raise
        raise ConfigError(
            f"{path}: not usable as the weights of {spec.backbone}: {' '.join(str(error).split())[:200]}. Delete this "
            "file, and it is downloaded again."
        ) from None
    _refuse_defect(path, network.state_dict(), network)
    return network


def unavailable(spec: BackboneSpec, error: hub.DownloadError) -> ConfigError:
    """Error for weights that are not on this machine and cannot be downloaded: the reason, and how to get them."""
    return ConfigError(
        f"the pretrained weights of {spec.backbone} are not on this machine, and {error}. {remedy(spec)}"
    )


def remedy(spec: BackboneSpec) -> str:
    """Command that downloads weights of a hub on a machine with a network, and options for using them here."""
    files, (url, target) = _files_of_hub(spec), _address(spec)
    if target:
        use = target.name
        get = command_line(["curl", "-L", "-o", use, url])
    elif spec.weights == "timm":
        use = files[0].repository.rpartition("/")[2] + Path(files[0].name).suffix
        get = command_line(["curl", "-L", "-o", use, files[0].url])
    else:  # with the description of its preprocessing
        use, file = "local-dir:weights", files[0]
        revision = ("--revision", file.revision) if file.revision else ()
        names = (file.repository, file.name, "config.json")
        get = command_line(["hf", "download", *names, *revision, "--local-dir", "weights"])
    return (
        f"On a machine with a network: {get}. Copy it here and give --model {spec.backbone} --weights {use}, or give "
        "--weights none."
    )


def cache_remedy(name: str) -> str:
    """Reason why weights are not in the cache of huggingface_hub, and the command that brings them there."""
    spec = BackboneSpec(backbone=name, weights="timm")
    try:
        _fetch(spec)
    except ConfigError as error:
        reason = str(error).removesuffix(remedy(spec)).strip() if _files_of_hub(spec) else ""
        return sentences(reason, *(file.cache_remedy for file in _files_of_hub(spec)[:1]))
    return ""


def _from_file(spec: BackboneSpec, path: Path, **options: Any) -> nn.Module:
    network = create_network(spec.backbone)
    state = _fitting(spec, path, network)
    if not options:
        network.load_state_dict(state)
        return network
    # timm interpolates position embeddings to the size of the images.
    return create_network(spec.backbone, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)


def _fitting(spec: BackboneSpec, path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights in timm's names, without those of the original classifier; all others must fit."""
    if not path.is_file():
        raise ConfigError(f"--weights {path}: no such file, nor a run of that name. List runs with: loupe runs")
    shown = _shown(spec, path)
    state = _read(path, shown)
    wanted = network.state_dict()
    wrong = _unfit(state, wanted)
    if wrong and (converted := _converted(spec, state, network)) and not _unfit(converted, wanted):
        state, wrong = converted, []
    if wrong:
        raise ConfigError(
            f"{shown}: not the weights of {spec.backbone}; {len(wrong)} of {len(wanted)} tensors are missing "
            f"or have another shape, the first is {wrong[0]}. Give a file of that network."
        )
    fitting = {name: state[name] for name in wanted}
    _refuse_defect(path, fitting, network)
    return fitting


def _unfit(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]


def _converted(
    spec: BackboneSpec, state: dict[str, torch.Tensor], network: nn.Module
) -> dict[str, torch.Tensor] | None:
    """Weights in the names of their authors, renamed as timm does when it downloads them; None if it cannot."""
    if spec.backbone in KERAS_WIDTHS:
        return None
    module = sys.modules[timm.model_entrypoint(spec.backbone).__module__]
    convert: Callable[..., dict[str, torch.Tensor]] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return convert(dict(state), network)
    except Exception:  # weights of another network raise whatever the conversion meets first
        return None


def _read(path: Path, shown: str) -> dict[str, torch.Tensor]:
    try:
        return timm.models.load_state_dict(str(path))
    except Exception as error:  # a damaged file raises whatever its format's reader raises
        raise ConfigError(f"{shown}: cannot be read as weights: {' '.join(str(error).split())[:200]}") from None


def _without_classifier(spec: BackboneSpec, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a published file, without those of the original classifier, which are not used."""
    trained = timm.get_pretrained_cfg(spec.backbone)
    named = (trained.classifier if trained else None) or ()
    unused = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    return {name: tensor for name, tensor in state.items() if not name.startswith(unused)}


def _refuse_defect(source: Path | str, state: Mapping[str, torch.Tensor], network: nn.Module | None = None) -> None:
    if reason := defect(state, network):
        raise ConfigError(
            f"{source}: damaged weights: {reason}. Download or export the file again, or give --weights none."
        )
