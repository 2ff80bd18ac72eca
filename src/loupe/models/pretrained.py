"""Pretrained weights of networks, and the preprocessing that goes with them: the way to timm for all other packages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.config.network import BackboneSpec, BlendMember, BlendSpec, Network
from loupe.config.recipe import InputSpec, Preprocessing
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
    elif isinstance(network, BlendSpec):
        for member in network.members:
            check_weights(member.network)
    elif isinstance(network, BackboneSpec):
        from loupe.models.timm import weights

        weights.check_weights(network)
    elif network.weights != "none":
        raise ConfigError(
            f"--weights {network.weights}: no run is there, and {network.name} takes its weights from a run alone."
        )


def weights_files(network: Network) -> tuple[Path, ...]:
    """Files on this machine with the weights of a network that was built before: one for each member of a blend."""
    if trained := parent.find(network.weights):
        return (trained.weights,)
    if isinstance(network, BlendSpec):
        return tuple(file for member in network.members for file in weights_files(member.network))
    if not isinstance(network, BackboneSpec):
        return ()
    from loupe.models.timm import weights

    file = weights.weights_file(network)
    return () if file is None else (file,)


def published(network: Network) -> BackboneSpec | None:
    """Backbone whose published weights those of a network go back to, through the runs that are still there.

    Returns:
        None for weights that go back to random ones, and for a blend, whose members may go back to several.
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

    Of a blend, it is what all members have in common.
    """
    if isinstance(network, BlendSpec) and parent.find(network.weights) is None:
        origins = {weights_origin(member.network, recorded) for member in network.members}
        return origins.pop() if len(origins) == 1 else _in_common(origins)
    origin = published(network)
    if origin is None:
        return None
    from loupe.models.timm import weights

    return WeightsOrigin(weights.repository(origin), weights.licence(origin) or recorded)


def _in_common(origins: set[WeightsOrigin | None]) -> WeightsOrigin | None:
    """Licence of several weights, where they have the same; random weights have none, and need none."""
    licences = {origin.licence for origin in origins if origin is not None}
    return WeightsOrigin(licence=licences.pop() if len(licences) == 1 else None) if licences else None


def missing_weights(backbone: str) -> str:
    """Reason why the weights of a network are not on this machine, and the command that brings them into its cache."""
    from loupe.models.timm import weights

    return weights.cache_remedy(backbone)


def native_preprocessing(network: Network) -> Preprocessing | None:
    """Preprocessing that the network was trained with; its weights are not loaded.

    Returns:
        None for a small network that is initialised at random. Of a blend, that of the first member that has one.

    Raises:
        ConfigError: unknown network, or the config beside its weights cannot be downloaded or read.
    """
    if trained := parent.find(network.weights):
        return trained.preprocessing
    if isinstance(network, BlendSpec):
        known = (native_preprocessing(member.network) for member in network.members)
        return next((own for own in known if own is not None), None)
    if not isinstance(network, BackboneSpec):
        return None
    from loupe.models.timm import backbones

    return backbones.preprocessing(network)


def shared_preprocessing(names: Sequence[str], given: Sequence[Preprocessing], keys: Sequence[str]) -> Preprocessing:
    """Preprocessing of the first member, once the others agree with it in some keys.

    Raises:
        ConfigError: they do not.
    """
    first = given[0]
    for name, other in zip(names[1:], given[1:], strict=True):
        for key in keys:
            mine, theirs = getattr(first, key), getattr(other, key)
            if mine != theirs:
                raise ConfigError(
                    f"the members of a blend read one input, and these differ in {key}: {names[0]} has {mine}, {name} "
                    f"has {theirs}. Give one for all: --set input.{key}={mine}"
                )
    return first


def with_own_normalisation(blend: Network, given: InputSpec) -> Network:
    """Network, in which each member of a blend has the normalisation that its weights were trained with.

    All have that of the recipe, if it has one.

    Raises:
        ConfigError: the recipe leaves open what differs between the members.
    """
    if not isinstance(blend, BlendSpec) or blend.weights != "none" or blend.combine != "features":
        return blend
    own = {number: native_preprocessing(member.network) for number, member in enumerate(blend.members)}
    known = {number: one for number, one in own.items() if one is not None}
    keys = [key for key in ("size_px", "resize", "interpolation") if getattr(given, key) is None]
    if known:
        names = [blend.members[number].network.name for number in known]
        shared_preprocessing(names, list(known.values()), keys)
    if given.normalise is not None:
        return blend

    def normalised(member: BlendMember, pixels: Preprocessing | None) -> BlendMember:
        if pixels is None or member.mean is not None:
            return member
        return member.model_copy(update={"mean": pixels.mean, "std": pixels.std})

    members = [normalised(member, own[number]) for number, member in enumerate(blend.members)]
    return blend.model_copy(update={"members": tuple(members)})
