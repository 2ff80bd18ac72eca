"""From a network as data to the network."""

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.models import cnn
from loupe.models.classifier import Classifier


def build(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...], seed: int) -> Classifier:
    """The network, channels-last on the CPU, with weights that depend on `seed` alone, or pretrained ones.

    Raises:
        LoupeError: the images do not suit it, or its pretrained weights cannot be had.
    """
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import (
            backbones,  # timm takes seconds to import, which who does not use it should not wait
        )

        return backbones.backbone(network, preprocessing, classes, seed)
    return cnn.cnn(network, preprocessing, classes, seed)


def skeleton(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """The network without memory for its weights (PyTorch's meta device): enough to count and to list."""
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import backbones

        return backbones.skeleton(network, preprocessing, classes)
    return cnn.skeleton(network, preprocessing, classes)
