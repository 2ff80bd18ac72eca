"""Pretrained backbones whose weights are on this machine: in timm's cache, or in folders named by LOUPE_WEIGHTS."""

import os
from dataclasses import dataclass
from pathlib import Path

from loupe.config.network import BackboneSpec, BlendSpec, Network
from loupe.log import logger
from loupe.models.weight_folders import VARIABLE, entries, missing_folders

# timm and PyTorch are imported inside the functions: they take seconds.

_said = set[str]()  # problems that were logged, each once in a process


@dataclass(frozen=True)
class WeightsAtHand:
    """Pretrained backbone whose weights need no download.

    Attributes:
        backbone: name in timm, without the tag where it is timm's default.
        weights: value of `--weights` with which they are used: `timm`, or the absolute path of a file or folder that
            timm cannot supply.
        parameters: number of parameters, without a classifier.
        file: file of the weights.
    """

    backbone: str
    weights: str
    parameters: int
    file: Path

    @property
    def spec(self) -> BackboneSpec:
        """Network with these weights."""
        return BackboneSpec(backbone=self.backbone, weights=self.weights)


@dataclass(frozen=True)
class Survey:
    """Weights on this machine, by number of parameters, and sentences about files that cannot be used."""

    found: tuple[WeightsAtHand, ...]
    problems: tuple[str, ...]


def weights_at_hand() -> tuple[WeightsAtHand, ...]:
    """Pretrained backbones with weights on this machine, by number of parameters, then by name; the network is unused.

    A file that cannot be used is left out, with one warning in the life of the process.
    """
    found = survey()
    for problem in found.problems:
        if problem not in _said:
            _said.add(problem)
            logger.warning(problem)
    return found.found


def survey() -> Survey:
    """Weights on this machine, and problems of the files in the folders of LOUPE_WEIGHTS.

    Names and shapes of the tensors are checked. Their values are when the weights are loaded.
    """
    missing = missing_folders()
    absent = tuple(f"{VARIABLE}: {folder}: no such folder. Correct it, or unset {VARIABLE}." for folder in missing)
    if not _possible():
        return Survey((), absent)
    from loupe.models.timm import survey as of_timm

    found, problems = of_timm.survey()
    mine = sorted((WeightsAtHand(*one) for one in found), key=lambda one: (one.parameters, one.backbone))
    return Survey(tuple(mine), (*absent, *problems))


def _possible() -> bool:
    """False where there are surely no weights; found without importing timm."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    torch_home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    checkpoints = Path(torch_home).expanduser() / "hub" / "checkpoints"
    return next(entries(), None) is not None or any(cache.glob("models--*")) or any(checkpoints.glob("*.*"))


def settle(network: Network) -> Network:
    """Network whose weights `timm` are those of a folder of LOUPE_WEIGHTS, where these are not known to be timm's.

    Weights in a file with a tag of timm stay `timm`: they are the file that would be downloaded.
    """
    if isinstance(network, BlendSpec) and network.weights == "none":
        members = (one.model_copy(update={"network": settle(one.network)}) for one in network.members)
        return network.model_copy(update={"members": tuple(members)})
    if not isinstance(network, BackboneSpec) or network.weights != "timm" or next(entries(), None) is None:
        return network
    from loupe.models.timm import local

    entry = local.entry_of(network.backbone)
    if entry is None:
        return network
    logger.info(f"weights of {network.backbone}: {entry.path} ({VARIABLE})")
    return network if local.is_of_timm(entry) else network.model_copy(update={"weights": str(entry.path)})
