"""Pretrained weights of networks, and the preprocessing that goes with them: the way to timm for all other packages."""

from dataclasses import dataclass
from pathlib import Path

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError
from loupe.models import parent

# timm and PyTorch are imported inside the functions: they take seconds.


@dataclass(frozen=True)
class WeightsOrigin:
    """Origin of pretrained weights, as far as it is known.

    Attributes:
        repository: of the Hugging Face hub.
        licence: as timm states it, in the words of the hub: `apache-2.0`.
    """

    repository: str | None = None
    licence: str | None = None


def fetch_weights(backbone: str) -> None:
    """Download timm's weights of a network, unless they are on this machine.

    Raises:
        ConfigError: unknown network, no weights, or no connection.
    """
    from loupe.models.timm import weights

    weights.fetch(backbone)


def check_weights(network: Network) -> None:
    """Check that pretrained weights fit the network; those of a hub are downloaded. Without any, do nothing.

    Raises:
        ConfigError: they cannot be read or downloaded, or belong to another network.
        RunStateError: those of a run are missing or damaged.
    """
    if trained := parent.find(network.weights):
        from loupe.models import parent_weights

        parent_weights.check(trained, network)
    elif isinstance(network, BackboneSpec):
        from loupe.models.timm import weights

        weights.check_weights(network)
    elif network.weights != "none":
        raise ConfigError(
            f"--weights {network.weights}: no run is there, and {network.name} takes its weights from a run alone."
        )


def weights_file(network: Network) -> Path | None:
    """File on this machine with the weights of a network that was built before; None if there is none."""
    if trained := parent.find(network.weights):
        return trained.weights
    if not isinstance(network, BackboneSpec):
        return None
    from loupe.models.timm import weights

    return weights.weights_file(network)


def published(network: Network) -> BackboneSpec | None:
    """Backbone whose published weights those of a network go back to, through the runs that are still there.

    Returns:
        None for weights that go back to random ones.
    """
    seen = set[str]()
    while (trained := parent.find(network.weights)) and network.weights not in seen:
        seen.add(network.weights)
        network = trained.network
    return network if isinstance(network, BackboneSpec) and network.weights != "none" else None


def weights_origin(network: Network, recorded: str | None = None) -> WeightsOrigin | None:
    """Repository and licence of the published weights that those of a network go back to; None for random ones.

    Args:
        recorded: licence in the record of a run, which counts where the runs before it are gone.
    """
    origin = published(network)
    if origin is None:
        return None
    from loupe.models.timm import weights

    return WeightsOrigin(weights.repository(origin), weights.licence(origin) or recorded)


def missing_weights(backbone: str) -> str:
    """Reason why the weights of a network are not on this machine, and the command that brings them into its cache."""
    from loupe.models.timm import weights

    return weights.cache_remedy(backbone)


def native_preprocessing(network: Network) -> Preprocessing | None:
    """Preprocessing that the network was trained with; its weights are not loaded.

    Returns:
        None for a small network that is initialised at random.

    Raises:
        ConfigError: unknown network, or the config beside its weights cannot be downloaded or read.
    """
    if trained := parent.find(network.weights):
        return trained.preprocessing
    if not isinstance(network, BackboneSpec):
        return None
    from loupe.models.timm import backbones

    return backbones.preprocessing(network)
