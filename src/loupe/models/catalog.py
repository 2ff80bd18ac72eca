"""The networks by name."""

from collections.abc import Callable
from pathlib import Path

from loupe.config.network import BackboneSpec, CnnSpec, Network
from loupe.errors import ConfigError
from loupe.models import cnn

NETWORKS: dict[str, Callable[[], CnnSpec]] = {
    "simple-cnn": cnn.simple_cnn,
    "deep-cnn": cnn.deep_cnn,
    "catsdogs-cnn": cnn.catsdogs_cnn,
    "lecture-cnn": cnn.lecture_cnn,
    "lecture-dropout": cnn.lecture_dropout,
    "lecture-batchnorm": cnn.lecture_batchnorm,
    "project-cnn": cnn.project_cnn,
    "project-cnn-one": cnn.project_cnn_one,
    "digits-cnn": cnn.digits_cnn,
    "photo-cnn": cnn.photo_cnn,
}


def network(name: str, weights: str | None = None) -> Network:
    """A small network of ours, or a backbone of timm's with the weights that are named.

    Raises:
        LoupeError: there is none of that name (with the nearest known), or it takes no weights.
    """
    if name in NETWORKS and weights not in {None, "none"}:
        raise ConfigError(f"{name} is trained from scratch: it takes no --weights.")
    if name in NETWORKS:
        return NETWORKS[name]()
    from loupe.models.timm import networks  # timm takes seconds to import

    networks.check_name(name, also=NETWORKS)
    return BackboneSpec(backbone=name, weights=weights_name(weights or "timm"))


def weights_name(weights: str) -> str:
    """As a recipe keeps it: files by their absolute path, so that it can be run from anywhere."""
    if weights in {"timm", "none"} or weights.startswith("hf-hub:"):
        return weights
    return str(Path(weights.removeprefix("local-dir:")).resolve())
