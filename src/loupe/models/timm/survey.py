"""Survey of the pretrained weights on this machine: in the caches of huggingface_hub and PyTorch, in LOUPE_WEIGHTS.

Importing this module takes seconds, as timm does.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import safetensors
import timm
import torch

from loupe.config.network import BackboneSpec
from loupe.errors import ConfigError
from loupe.models import weight_folders
from loupe.models.timm import weights
from loupe.models.timm.local import backbone_of, is_of_timm, name_of
from loupe.models.timm.networks import create_network, exists
from loupe.models.weight_folders import VARIABLE, WeightsEntry

Found = tuple[str, str, int, Path]  # backbone, weights, parameters, file


def survey() -> tuple[list[Found], list[str]]:
    """Weights on this machine, each backbone once, and sentences about files of LOUPE_WEIGHTS that cannot be used."""
    found, problems = dict[str, Found](), list[str]()
    for entry in sorted(weight_folders.entries(), key=lambda entry: not is_of_timm(entry)):
        backbone = backbone_of(entry)
        problem = entry.problem or _problem(entry)
        if not problem and backbone in found:
            problem = f"{backbone} has the weights of {found[backbone][3]}"
        if problem:
            problems.append(f"{VARIABLE}: {entry.path} is not used: {problem}.")
            continue
        found[backbone] = backbone, "timm" if is_of_timm(entry) else str(entry.path), _parameters(backbone), entry.file
    claimed = {backbone_of(entry) for entry in weight_folders.entries()}  # one that is damaged is not replaced silently
    for backbone, file in _cached():
        if backbone not in claimed:
            found[backbone] = backbone, "timm", _parameters(backbone), file
    return list(found.values()), problems


def _problem(entry: WeightsEntry) -> str:
    """Reason why the weights of an entry cannot be used, as a clause; empty if names and shapes of all tensors fit."""
    if not exists(entry.network):
        return f"{entry.network} is no network of timm"
    shapes = dict[str, tuple[int, ...]]()
    try:
        if entry.file.suffix == weight_folders.SUFFIX:
            with safetensors.safe_open(entry.file, framework="pt") as opened:
                shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        else:
            shapes = {name: tuple(x.shape) for name, x in timm.models.load_state_dict(str(entry.file)).items()}
    except Exception as error:  # a damaged file raises whatever its format's reader raises
        return f"damaged ({' '.join(str(error).split())[:120].rstrip('.')})"
    with torch.device("meta"):
        wanted = create_network(entry.network).state_dict()
    wrong = [name for name, value in wanted.items() if shapes.get(name) != tuple(value.shape)]
    if not wrong:
        return ""
    return (
        f"not the weights of {entry.network} in timm's names: {len(wrong)} of {len(wanted)} tensors are missing or "
        f"have another shape, the first is {wrong[0]}"
    )


@lru_cache(maxsize=256)
def _parameters(backbone: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_network(backbone).parameters())


def _cached() -> Iterator[tuple[str, Path]]:
    """Backbones whose weights are in the cache of huggingface_hub or of PyTorch, with their files."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    repositories = {path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*")}
    for name in timm.list_pretrained():
        trained = timm.get_pretrained_cfg(name)
        if trained is None or (trained.hf_hub_id and trained.hf_hub_id.partition("@")[0] not in repositories):
            continue
        backbone = name_of(*name.partition(".")[::2])
        file = weights.downloaded(BackboneSpec(backbone=backbone, weights="timm"))
        if file is not None and not _is_cut_off(file):
            try:
                _parameters(backbone)
            except (ConfigError, RuntimeError, ValueError, TypeError):  # a network that cannot be built as a backbone
                continue
            yield backbone, file


def _is_cut_off(file: Path) -> bool:
    """True for a safetensors file that is damaged; other formats show it when they are loaded."""
    if file.suffix != weight_folders.SUFFIX:
        return False
    try:
        with safetensors.safe_open(file, framework="pt"):
            return False
    except Exception:  # a damaged file raises whatever its reader raises
        return True
