"""Builder of networks from their specs."""

from loupe.config.network import BackboneSpec, Network, without_weights
from loupe.config.recipe import Preprocessing
from loupe.models import cnn, parent
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
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import backbones  # imported lazily: timm imports slowly

        return backbones.backbone(network, preprocessing, classes, seed)
    return cnn.cnn(network, preprocessing, classes, seed)


def skeleton(network: Network, preprocessing: Preprocessing, classes: tuple[str, ...]) -> Classifier:
    """Build the network without memory for its weights (on PyTorch's meta device), to count and list its layers."""
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import backbones

        return backbones.skeleton(network, preprocessing, classes)
    return cnn.skeleton(network, preprocessing, classes)
