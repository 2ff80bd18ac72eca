"""Weights of timm's networks in the folders of LOUPE_WEIGHTS, by the names of their files.

Importing this module takes seconds, as timm does.
"""

from functools import lru_cache
from pathlib import Path

import timm

from loupe.config.network import BackboneSpec
from loupe.models import weight_folders
from loupe.models.timm.networks import KERAS_WIDTHS
from loupe.models.weight_folders import WeightsEntry


def name_of(network: str, tag: str) -> str:
    """Name of weights, without the tag that timm takes where none is named."""
    return network if not tag or tag == default_tag(network) else f"{network}.{tag}"


@lru_cache(maxsize=4096)
def default_tag(network: str) -> str:
    """Tag of the weights that timm takes for the network where none is named; empty without any."""
    trained = None if network in KERAS_WIDTHS or not timm.is_model(network) else timm.get_pretrained_cfg(network)
    return str(trained.tag or "") if trained else ""


def is_of_timm(entry: WeightsEntry) -> bool:
    """True if the name of a file says that it has weights that timm publishes."""
    return not entry.is_folder and bool(entry.tag) and f"{entry.network}.{entry.tag}" in published_names()


@lru_cache(maxsize=1)
def published_names() -> frozenset[str]:
    return frozenset(timm.list_pretrained())


def entry_of(backbone: str) -> WeightsEntry | None:
    """Weights of a backbone in the folders of LOUPE_WEIGHTS: timm's own first, then the first that suits the name."""
    network, _, tag = backbone.partition(".")
    wanted = name_of(network, tag)
    suitable = [entry for entry in weight_folders.entries() if wanted == backbone_of(entry)]
    return min(suitable, key=lambda entry: not is_of_timm(entry), default=None)


def file_of_timm(spec: BackboneSpec) -> Path | None:
    """File in the folders of LOUPE_WEIGHTS that stands in for a download of timm's weights; None without one."""
    if spec.weights != "timm":
        return None
    entry = entry_of(spec.backbone)
    return entry.file if entry and is_of_timm(entry) else None


def backbone_of(entry: WeightsEntry) -> str:
    """Backbone that the weights are of; a tag that timm does not know is no part of its name."""
    known = f"{entry.network}.{entry.tag}" in published_names()
    return name_of(entry.network, entry.tag) if known else entry.network
