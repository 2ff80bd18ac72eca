"""Builder of networks from their specs."""

import torch
from torch import nn

from loupe.config.network import BackboneSpec, BlendSpec, Network, without_weights
from loupe.config.recipe import Preprocessing
from loupe.models import blend, cnn, parent
from loupe.models.classifier import Classifier


def build(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """Build the network, channels-last on the CPU, with pretrained weights, or with weights from `seed` alone.

    Raises:
        ConfigError: the size of the images does not suit it, or its pretrained weights cannot be downloaded or read.
        RunStateError: the weights of a run are damaged.
    """
    trained = parent.find(network.weights)
    if trained is not None:
        from loupe.models import parent_weights

        model = build(without_weights(network), preprocessing, classes, seed)
        parent_weights.start(model, trained, network)
        return model
    if isinstance(network, BlendSpec):
        return _blend(network, preprocessing, classes, seed)
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import backbones  # imported lazily: timm imports slowly

        return backbones.backbone(network, preprocessing, classes, seed)
    return cnn.cnn(network, preprocessing, classes, seed)


def _blend(spec: BlendSpec, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """Build a blend, whose members have seeds of their own: two of the same network begin with other weights."""

    def member(network: Network, own: Preprocessing, number: int) -> Classifier:
        return build(network, own, classes, (seed + number) % 2**63)

    model = blend.blend(spec, preprocessing, classes, member)
    generator = torch.Generator().manual_seed(seed % 2**63)
    for layer in model.head.modules():
        if isinstance(layer, nn.Linear):
            layer.to_empty(device="cpu")
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return model.to(memory_format=torch.channels_last)


def skeleton(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """Build the network without memory for its weights (on PyTorch's meta device), to count and list its layers."""
    if isinstance(network, BlendSpec):
        with torch.device("meta"):
            return blend.blend(network, preprocessing, classes, lambda one, own, _: skeleton(one, own, classes))
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import backbones

        return backbones.skeleton(network, preprocessing, classes)
    return cnn.skeleton(network, preprocessing, classes)
