"""Networks by name."""

from collections.abc import Callable
from pathlib import Path

from loupe.config.network import BETWEEN_MEMBERS, BackboneSpec, BlendMember, BlendSpec, CnnSpec, Network
from loupe.errors import ConfigError, counted
from loupe.models import parent, small_networks

NETWORKS: dict[str, Callable[[], CnnSpec]] = {
    "simple-cnn": small_networks.simple_cnn,
    "deep-cnn": small_networks.deep_cnn,
    "catsdogs-cnn": small_networks.catsdogs_cnn,
    "lecture-cnn": small_networks.lecture_cnn,
    "lecture-dropout": small_networks.lecture_dropout,
    "lecture-batchnorm": small_networks.lecture_batchnorm,
    "project-cnn": small_networks.project_cnn,
    "project-cnn-one": small_networks.project_cnn_one,
    "digits-cnn": small_networks.digits_cnn,
    "fast-cnn": small_networks.fast_cnn,
    "photo-cnn": small_networks.photo_cnn,
}


def network(name: str, weights: str | None = None) -> Network:
    """Spec of a small network, of a backbone of timm with its weights, or of a blend of several (`A+B`).

    Args:
        weights: of the backbone; of a blend, `timm` or `none` for all members, or one for each, joined by `+`.

    Raises:
        ConfigError: unknown name (the error has the nearest known ones), or weights for a small network.
    """
    if BETWEEN_MEMBERS in name:
        return _blend(name, weights)
    if name in NETWORKS and weights not in {None, "none"}:
        raise ConfigError(
            f"--weights {weights}: {name} has no pretrained weights, and this is no run of it. Leave --weights out, or "
            "name another --model."
        )
    if name in NETWORKS:
        return NETWORKS[name]()
    from loupe.models.timm import networks  # imported lazily: timm imports slowly

    networks.check_name(name, also=NETWORKS)
    return BackboneSpec(backbone=name, weights=weights_name(weights or "timm"))


def _blend(name: str, weights: str | None) -> BlendSpec:
    """Blend of the features of several networks."""
    names = name.split(BETWEEN_MEMBERS)
    given = [weights] * len(names) if weights in {None, "timm", "none"} else str(weights).split(BETWEEN_MEMBERS)
    if len(given) != len(names):
        raise ConfigError(
            f"--model {name} has {counted(len(names), 'member')}, and --weights names {len(given)}. Give one for each, "
            f"in the same order, joined by {BETWEEN_MEMBERS}; or timm, or none, for all."
        )
    members = []
    for one, own in zip(names, given, strict=True):
        chosen = network(one, own)
        assert not isinstance(chosen, BlendSpec)
        members.append(BlendMember(network=chosen))
    return BlendSpec(members=tuple(members))


def weights_name(weights: str) -> str:
    """Weights as a recipe stores them: files and folders by their absolute path, so that it runs from any folder."""
    if weights in {"timm", "none"} or weights.startswith("hf-hub:"):
        return weights
    if trained := parent.find(weights):
        return str(trained.folder)
    return str(Path(weights.removeprefix("local-dir:")).resolve())
