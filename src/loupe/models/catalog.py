"""Networks by name."""

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
    """Spec of a small network, or of a backbone of timm with its weights.

    Raises:
        ConfigError: unknown name (the error has the nearest known ones), or weights for a small network.
    """
    if name in NETWORKS and weights not in {None, "none"}:
        raise ConfigError(
            f"--weights {weights}: {name} has no pretrained weights. Leave --weights out, or name another --model."
        )
    if name in NETWORKS:
        return NETWORKS[name]()
    from loupe.models.timm import networks  # imported lazily: timm imports slowly

    networks.check_name(name, also=NETWORKS)
    return BackboneSpec(backbone=name, weights=weights_name(weights or "timm"))


def weights_name(weights: str) -> str:
    """Weights as a recipe stores them: files by their absolute path, so that the recipe runs from any folder."""
    if weights in {"timm", "none"} or weights.startswith("hf-hub:"):
        return weights
    return str(Path(weights.removeprefix("local-dir:")).resolve())
