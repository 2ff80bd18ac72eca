"""Weights of a trained classifier, taken over by a network that is about to be trained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from loupe.config.network import BackboneSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.data.class_names import same_forms
from loupe.errors import ConfigError, counted
from loupe.models import weights_file
from loupe.models.classifier import Classifier
from loupe.models.parent import Parent, check_trainable, check_trunk, head_use
from loupe.models.weight_values import defect

REMEDY = "Give --weights another run, or export it again."


def check(parent: Parent, network: Network) -> None:
    """Check that the weights are whole, and belong to a trunk that the network has.

    Raises:
        ConfigError: the network has another trunk.
        RunStateError: the weights are missing or damaged, or are NaN, infinite or zero.
    """
    check_trainable(parent)
    check_trunk(parent, network)
    _read(parent)


def start(model: Classifier, parent: Parent, network: Network) -> None:
    """Take the trunk, and the head where its classes and layers are the same, into a network on the CPU.

    Raises:
        ConfigError: the network has another trunk, or images of this size need another.
        RunStateError: as for `check`.
    """
    check_trunk(parent, network)
    given = _as_ours(parent, _read(parent))
    use, _ = head_use(parent, network, model.preprocessing, model.classes)
    if use == "reordered":
        given |= _reordered(given, parent.config.classes, model.classes)
    wanted = {name: value for name, value in model.state_dict().items() if use != "new" or name.startswith("trunk.")}
    unfit = [name for name, value in wanted.items() if name not in given or given[name].shape != value.shape]
    if unfit:
        raise ConfigError(
            f"--weights {parent.shown}: {len(unfit)} of {len(wanted)} tensors do not fit {network.name} for "
            f"{_images(model.preprocessing)}, the first is {unfit[0]}. They were trained on "
            f"{_images(parent.preprocessing)}. Leave out --set input.size_px and input.channels."
        )
    model.load_state_dict({name: given[name] for name in wanted}, strict=False)


def _images(preprocessing: Preprocessing) -> str:
    return f"images of {preprocessing.size} px with {counted(preprocessing.channels, 'channel')}"


def _read(parent: Parent) -> dict[str, Tensor]:
    tensors = weights_file.read(parent.weights, parent.config.weights_blake2b, REMEDY)
    if reason := defect(tensors):
        raise ConfigError(f"--weights {parent.shown}: damaged weights: {reason}. {REMEDY}")
    return tensors


def _as_ours(parent: Parent, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of a classifier of Loupe."""
    if not parent.of_timm:
        return tensors
    assert isinstance(parent.network, BackboneSpec)
    from loupe.models.timm import classifiers  # imported lazily: timm imports slowly

    return classifiers.from_timm(tensors, parent.network, parent.preprocessing, len(parent.config.classes))


def _reordered(given: Mapping[str, Tensor], theirs: tuple[str, ...], mine: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights of the outputs in the order of `mine`."""
    place = {form: row for row, form in enumerate(same_forms(theirs))}
    rows_K = torch.tensor([place[form] for form in same_forms(mine)])
    return {name: given[name][rows_K] for name in ("head.logits.weight", "head.logits.bias")}
