"""From what was asked for, and the images at hand, to the one recipe that is run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loupe.config import overrides
from loupe.config.network import BackboneSpec, Network
from loupe.config.optimizer import Logistic
from loupe.config.recipe import InputSpec, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import typical_px
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, sentences
from loupe.log import logger
from loupe.models.catalog import network, weights_name
from loupe.models.pretrained import native_preprocessing
from loupe.recipes import catalog
from loupe.recipes.choice import SMALL_PX, choose
from loupe.recipes.published.experiments import experiment

OF_INPUT = ("size_px", "load_px", "resize", "interpolation", "normalise")

# Random crops need room around the part that evaluation sees.
CROP_ROOM = 1.15

# What only a stage that trains in steps takes, and the flags' names.
OF_STEPS = {"batch_size": "--batch-size", "lr": "--lr"}

Settings = Mapping[str, Any] | Sequence[str]


def resolve(
    wanted: str | Path | Recipe | None,
    dataset: Dataset,
    *,
    model: str | None,
    weights: str | None = None,
    flags: Mapping[str, Any],
    extra: Settings,
) -> ResolvedRecipe:
    """The recipe to run; only what training pixels and the machine decide is left to measure.

    Args:
        wanted: a name, a YAML file or a recipe; None or `auto` chooses by the data set and the size of its images.
        dataset: the images, whose size settles what the recipe leaves open.
        model: the network to put in place of the recipe's; weights: those that its backbone starts from.
        flags: `epochs`, `batch_size`, `lr`, `seed`, `precision`; None where not given.
        extra: any keys of the recipe, as a mapping or as KEY=VALUE.

    Raises:
        LoupeError: an unknown name or key, or a flag that nothing in the recipe takes.
    """
    recipe = _choose(wanted, dataset, model, weights)
    if model is not None or weights is not None:
        recipe = recipe.model_copy(update={"model": _network(recipe, model, weights)})
    recipe = overrides.override(recipe, extra)  # which optimizer a stage has says which flags it takes
    recipe = overrides.override(overrides.override(recipe, _flag_settings(recipe, flags)), extra)
    if recipe.experiment is not None:
        experiment(recipe.experiment)  # refused now, and not after the training
    return ResolvedRecipe.of(recipe, _input(recipe, dataset.table))


def _choose(wanted: str | Path | Recipe | None, dataset: Dataset, model: str | None, weights: str | None) -> Recipe:
    if isinstance(wanted, Recipe):
        return wanted
    if wanted is None or wanted == "auto":
        table = dataset.table
        recipe, reason = choose(
            default=dataset.default_recipe,
            model=model,
            weights=weights,
            images_per_class=np.count_nonzero(table.labels >= 0) / max(1, len(table.classes)),
            typical_px=lambda: typical_px(table),
        )
        logger.info(f"{sentences(reason)} To list others: loupe recipes")
        return recipe
    if Path(wanted).suffix in {".yaml", ".yml"}:
        return overrides.load(Path(wanted))
    return catalog.recipe(str(wanted))


def _network(recipe: Recipe, model: str | None, weights: str | None) -> Network:
    """The recipe's network with another name or other weights; a recipe's head stays when its backbone changes."""
    if model is None:
        if weights == "none" and not isinstance(recipe.model, BackboneSpec):
            return recipe.model
        if not isinstance(recipe.model, BackboneSpec):
            raise ConfigError(f"recipe {recipe.name} trains {recipe.model.name} from scratch: it takes no --weights.")
        return recipe.model.model_copy(update={"weights": weights_name(weights or recipe.model.weights)})
    chosen = network(model, weights)
    if isinstance(chosen, BackboneSpec) and isinstance(recipe.model, BackboneSpec):
        return recipe.model.model_copy(update={"backbone": chosen.backbone, "weights": chosen.weights})
    return chosen


def _flag_settings(recipe: Recipe, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The field's own flags as settings; those of a stage hold for every stage, but epochs only where there is one.

    A stage that is solved has neither learning rate nor batches; its epochs are the penalties that are tried.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if "epochs" in given and len(recipe.stages) > 1:
        raise ConfigError(
            f"recipe {recipe.name} has {len(recipe.stages)} stages: say which one, for example "
            f"--set stages.{len(recipe.stages) - 1}.epochs={given['epochs']}."
        )
    of_stage = [name for name in given if name in {"epochs", *OF_STEPS}]
    in_steps = [i for i, stage in enumerate(recipe.stages) if not isinstance(stage.optimizer, Logistic)]
    vain = [OF_STEPS[name] for name in of_stage if name in OF_STEPS and not in_steps]
    if vain:
        raise ConfigError(
            f"{' and '.join(vain)}: recipe {recipe.name} solves its head to convergence, without learning rate and "
            f"batches. Leave {'it' if len(vain) == 1 else 'them'} out; penalties are set with "
            "--set stages.0.optimizer.strongest=... and weakest, their number with --epochs. To train the head in "
            "steps: --set stages.0.optimizer=adam."
        )
    stages = {
        f"stages.{i}.{name}": given[name]
        for name in of_stage
        for i in (in_steps if name in OF_STEPS else range(len(recipe.stages)))
    }
    return stages | {name: given[name] for name in given if name not in of_stage}


def _input(recipe: Recipe, table: ImageTable) -> dict[str, Any]:
    """Values of the input that the recipe leaves to the backbone or to the images; none where it names all."""
    if all(getattr(recipe.input, name) is not None for name in OF_INPUT):
        return {}
    if isinstance(recipe.model, BackboneSpec):
        return _input_of_backbone(recipe.input, recipe.model)
    return _input_of_images(recipe, table)


def _input_of_backbone(given: InputSpec, spec: BackboneSpec) -> dict[str, Any]:
    """Preprocessing that the backbone was trained with, where the recipe names no other."""
    own = native_preprocessing(spec)
    size_px = given.size_px or own.size_px
    changes: dict[str, Any] = {
        "size_px": size_px,
        "load_px": given.load_px or round(size_px * own.load_px / own.size_px),
        "resize": given.resize or own.resize,
        "interpolation": given.interpolation or own.interpolation,
    }
    if given.normalise is None:
        changes |= {"normalise": "given", "mean": given.mean or own.mean, "std": given.std or own.std}
    return changes


def _input_of_images(recipe: Recipe, table: ImageTable) -> dict[str, Any]:
    given = recipe.input
    size_px, load_px = given.size_px, given.load_px
    if size_px is None:
        typical = typical_px(table)
        size_px = min(typical, SMALL_PX)
        logger.info(
            f"images are resized to {size_px} px on a side (typically {typical}): --set input.size_px=... for another"
        )
    if load_px is None:
        crops = any(stage.augment.random_resized_crop for stage in recipe.stages)
        load_px = round(CROP_ROOM * size_px) if crops else size_px
    return {
        "size_px": size_px,
        "load_px": load_px,
        "resize": given.resize or "crop",
        "interpolation": given.interpolation or "bilinear",
        "normalise": given.normalise or "channels",
    }
