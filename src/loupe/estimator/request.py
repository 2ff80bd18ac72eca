"""Recipe of an estimator: its parameters as `loupe.train` takes them, resolved for the images of a fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from loupe.config.network import BackboneSpec
from loupe.config.recipe import AugmentSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.class_names import same_form
from loupe.data.dataset import Dataset
from loupe.data.table import ImageTable
from loupe.errors import ConfigError
from loupe.models.pretrained import weights_files
from loupe.recipes.resolve import resolve
from loupe.recipes.transfer import BACKBONE

MOST_SEED = 2**31 - 1
FLAGS = ("epochs", "batch_size", "lr", "seed")


def of(estimator: Any) -> dict[str, Any]:
    """Recipe and values in its place, as `loupe.train` takes them; no image is kept for a test, unless it is asked for.

    Raises:
        ConfigError: no recipe.
    """
    if estimator.recipe is None or estimator.recipe == "auto":
        raise ConfigError("recipe: give a name, for example 'features'. To list them: loupe recipes")
    extra = {"split.test": 0, **({"class_weights": "balanced"} if estimator.class_weight == "balanced" else {})}
    given = estimator.settings or {}
    seed = 0 if estimator.random_state is None else estimator.random_state
    if not isinstance(seed, int | np.integer):
        seed = check_random_state(seed).randint(MOST_SEED)
    return {
        "recipe": estimator.recipe,
        "model": estimator.model,
        "weights": None if estimator.weights is None else str(estimator.weights),
        **{name: getattr(estimator, name) for name in ("epochs", "batch_size", "lr")},
        "seed": int(seed),
        "settings": {**extra, **given}
        if isinstance(given, Mapping)
        else [*(f"{name}={value}" for name, value in extra.items()), *given],
    }


def resolved(asked: Mapping[str, Any], table: ImageTable) -> ResolvedRecipe:
    """Recipe for these images, whose pretrained weights are on this machine.

    Raises:
        ConfigError: an unknown recipe or setting, or weights that would have to be downloaded.
    """
    if str(asked["weights"]).startswith("hf-hub:"):  # its preprocessing would be fetched too
        _check_here(BackboneSpec(backbone=asked["model"] or BACKBONE, weights=asked["weights"]))
    recipe = resolve(
        asked["recipe"],
        Dataset(None, table),
        model=asked["model"],
        weights=asked["weights"],
        flags={name: asked[name] for name in FLAGS},
        extra=asked["settings"],
    )
    if isinstance(recipe.model, BackboneSpec):
        _check_here(recipe.model)
    return recipe


def is_solved_once(recipe: ResolvedRecipe) -> bool:
    """True if the recipe only solves a linear head on a frozen backbone, in the evaluation view."""
    stage = recipe.stages[0]
    return (
        len(recipe.stages) == 1
        and stage.is_solved
        and stage.augment == AugmentSpec()
        and isinstance(recipe.model, BackboneSpec)
        and not recipe.model.hidden
        and not recipe.input.wants_statistics
        and recipe.input.range != "used"
    )


def names(labels: Sequence[Any]) -> tuple[str, ...]:
    """Names of the classes: their labels as texts, or their numbers where two texts are the same name, or no name."""
    texts = tuple(map(str, labels))
    are_names = all(texts) and "".join(texts).isprintable() and len({*map(same_form, texts)}) == len(texts)
    return texts if are_names else tuple(map(str, range(len(labels))))


def _check_here(network: BackboneSpec) -> None:
    is_hub = network.weights == "timm" or network.weights.startswith("hf-hub:")
    if is_hub and not weights_files(network):
        raise ConfigError(
            f"the weights {network.weights!r} of {network.backbone} are not on this machine, and an estimator "
            "downloads nothing. Give weights=FILE or weights='none', or download them once: loupe train DATA --model "
            f"{network.backbone}"
        )
