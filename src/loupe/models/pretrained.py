"""Pretrained weights of networks, and the preprocessing that goes with them: the way to timm for all other packages."""

from dataclasses import dataclass
from pathlib import Path

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing


@dataclass(frozen=True)
class WeightsOrigin:
    """Origin of pretrained weights, as far as it is known.

    Attributes:
        repository: of the Hugging Face hub.
        licence: as timm states it, in the words of the hub: `apache-2.0`.
    """

    repository: str | None = None
    licence: str | None = None


# timm is imported inside the functions: it takes seconds.


def fetch_weights(backbone: str) -> None:
    """Download timm's weights of a network, unless they are on this machine.

    Raises:
        ConfigError: unknown network, no weights, or no connection.
    """
    from loupe.models.timm import weights

    weights.fetch(backbone)


def check_weights(network: Network) -> None:
    """Check that pretrained weights fit the network; those of a hub are downloaded. Without a backbone, do nothing.

    Raises:
        ConfigError: they cannot be read or downloaded, or belong to another network.
    """
    if isinstance(network, BackboneSpec):
        from loupe.models.timm import weights

        weights.check_weights(network)


def weights_file(network: Network) -> Path | None:
    """File on this machine with the weights of a network that was built before; None if there is none."""
    if not isinstance(network, BackboneSpec):
        return None
    from loupe.models.timm import weights

    return weights.weights_file(network)


def weights_origin(network: Network) -> WeightsOrigin | None:
    """Repository and licence of the pretrained weights of a network; None for one that starts from random weights."""
    if not isinstance(network, BackboneSpec) or network.weights == "none":
        return None
    from loupe.models.timm import weights

    return WeightsOrigin(weights.repository(network), weights.licence(network))


def missing_weights(backbone: str) -> str:
    """Reason why the weights of a network are not on this machine, and the command that brings them into its cache."""
    from loupe.models.timm import weights

    return weights.cache_remedy(backbone)


def native_preprocessing(spec: BackboneSpec) -> Preprocessing:
    """Preprocessing that the backbone was trained with; its weights are not loaded.

    Raises:
        ConfigError: unknown network, or the config beside its weights cannot be downloaded or read.
    """
    from loupe.models.timm import backbones

    return backbones.preprocessing(spec)
