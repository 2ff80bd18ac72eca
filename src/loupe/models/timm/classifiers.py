"""Classifiers of Loupe as networks of timm: the same layers, and their weights under timm's names.

Importing this module takes seconds, as timm does.
"""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, counted
from loupe.models.timm import backbones
from loupe.models.timm.networks import KERAS_WIDTHS, create_network, options_of


@dataclass(frozen=True)
class TimmNetwork:
    """Network of timm that computes the logits of a classifier of Loupe.

    Attributes:
        options: options of timm with which it is built for the size of the images.
        config: timm's description of the network and of its pretrained weights, without weights.
        names: timm's name of each weight of the trunk.
        classifier: timm's name of the layer of the logits, and the shape of its weight.
        num_features: number of features before that layer.
    """

    options: dict[str, Any]
    config: dict[str, Any]
    names: dict[str, str]
    classifier: tuple[str, torch.Size]
    num_features: int


class InexpressibleError(ConfigError):
    """Classifier that no network of timm computes."""


def timm_network(spec: BackboneSpec, preprocessing: Preprocessing, classes: int) -> TimmNetwork:
    """Find the network of timm for a classifier, without memory for weights.

    Raises:
        InexpressibleError: there is none; the message gives the reason as a clause.
    """
    if spec.backbone in KERAS_WIDTHS:
        raise InexpressibleError(f"timm has no {spec.backbone}")
    if spec.hidden:
        layers = counted(len(spec.hidden), "hidden layer")
        raise InexpressibleError(f"the head has {layers}, and timm's heads have pooling, dropout and one linear layer")
    if spec.pooling == "flatten":
        raise InexpressibleError("the head flattens the last map, which timm's heads pool")
    names, options = _trunk_names(spec, preprocessing)
    with torch.device("meta"):
        network: Any = timm.create_model(spec.backbone, num_classes=classes, **options)
    wanted = network.state_dict()
    rest = [name for name in wanted if name not in set(names.values())]
    layer = rest[0].rpartition(".")[0] if rest else ""
    if set(rest) != {f"{layer}.weight", f"{layer}.bias"} or not set(names.values()) <= wanted.keys():
        raise InexpressibleError(
            f"timm's {spec.backbone} has other layers before its logits than pooling {spec.pooling}"
            + (f", such as {rest[0]}" if len(rest) > 2 else "")
        )
    config = dict(network.pretrained_cfg)
    if config.get("fixed_input_size"):  # the size that position embeddings and windows are built for
        options = {"img_size": list(config["input_size"][-2:])} | options
    return TimmNetwork(
        options=options,
        config=config,
        names=names,
        classifier=(layer, wanted[f"{layer}.weight"].shape),
        num_features=int(network.num_features),
    )


def _trunk_names(spec: BackboneSpec, preprocessing: Preprocessing) -> tuple[dict[str, str], dict[str, Any]]:
    """timm's name of each weight of the trunk, and the options of timm with which it was built.

    The blocks of a trunk are modules of the network of timm: a weight is found in it by its identity.
    """
    built: list[tuple[nn.Module, dict[str, Tensor], dict[str, Any]]] = []

    def create(**options: Any) -> nn.Module:
        network = create_network(spec.backbone, **options)
        built.append((network, network.state_dict(keep_vars=True), options))  # the names before it is cut
        return network

    model = backbones.skeleton(spec, preprocessing, ("class",), create)
    _, state, options = built[-1]
    name_of = {id(value): name for name, value in state.items()}
    trunk = model.trunk.state_dict(keep_vars=True)
    return {f"trunk.{name}": name_of[id(value)] for name, value in trunk.items()}, options | options_of(spec.backbone)


def to_timm(state: dict[str, Tensor], network: TimmNetwork) -> dict[str, Tensor]:
    """Weights of a classifier of Loupe under timm's names."""
    layer, shape = network.classifier
    return {
        **{theirs: state[ours] for ours, theirs in network.names.items()},
        f"{layer}.weight": state["head.logits.weight"].reshape(shape),
        f"{layer}.bias": state["head.logits.bias"],
    }


def from_timm(
    tensors: dict[str, Tensor], spec: BackboneSpec, preprocessing: Preprocessing, classes: int
) -> dict[str, Tensor]:
    """Weights under the names of a classifier of Loupe; those that are missing are left out.

    Raises:
        InexpressibleError: the network is none of timm's.
    """
    network = timm_network(spec, preprocessing, classes)
    layer, _ = network.classifier
    ours = {name: tensors[theirs] for name, theirs in network.names.items() if theirs in tensors}
    for kind in ("weight", "bias"):
        if f"{layer}.{kind}" in tensors:
            value = tensors[f"{layer}.{kind}"]
            ours[f"head.logits.{kind}"] = value.flatten(1) if kind == "weight" else value
    return ours
