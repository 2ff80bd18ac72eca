"""List of models, and overview of one: layers, blocks and parameters, without its weights."""

from typing import Any

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.errors import unknown_name
from loupe.models.build import skeleton
from loupe.models.catalog import NETWORKS, network
from loupe.models.summary import count_parameters, layer_table
from loupe.models.timm import backbones, networks

OWN_PX = 32  # default input size for networks of Loupe


def exists(name: str) -> bool:
    """True for the whole name of a model."""
    return name in NETWORKS or networks.exists(name)


def matching(text: str) -> list[dict[str, Any]]:
    """Models whose names contain the text: those of Loupe, then of timm.

    Raises:
        ConfigError: there are none; the message has the nearest names.
    """
    ours = [{"name": name, "pretrained": False} for name in NETWORKS if text in name]
    others = [{"name": name, "pretrained": known} for name, known in networks.names() if text in name]
    if not ours and not others:
        raise unknown_name("model", text, [*NETWORKS, *(name for name, _ in networks.names())])
    return ours + others


def overview(name: str, *, part: str, classes: int, size_px: int | None) -> dict[str, Any]:
    """Overview of one model: layers, each with a flag if it is trained, blocks, parameters and preprocessing.

    Raises:
        ConfigError: the model is unknown, has fewer blocks than `part` needs, or cannot take images of this size.
    """
    chosen = network(name, "none")
    own = backbones.preprocessing(chosen) if isinstance(chosen, BackboneSpec) else None
    side = size_px or (own.size_px if own else OWN_PX)
    prepared = (own or Preprocessing(size_px=side, load_px=side)).model_copy(update={"size_px": side, "load_px": side})
    model = skeleton(chosen, prepared, tuple(str(number) for number in range(classes)))
    model.learn(part)
    return {
        "name": name,
        "part": part,
        "size_px": side,
        "classes": classes,
        "blocks": [label for label, _ in model.trunk.named_children()],
        "frozen_blocks": model.frozen,
        "parameters": count_parameters(model),
        "preprocessing": own.model_dump(mode="json") if own else None,
        "layers": layer_table(model),
    }
