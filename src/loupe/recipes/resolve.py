"""Resolution of a recipe: from names, flags, settings and the images to the complete recipe of a run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from loupe import ranks
from loupe.config import overrides
from loupe.config.network import BackboneSpec, BlendSpec, CnnSpec, Network
from loupe.config.recipe import PIXEL_DEFINITION, InputSpec, Preprocessing, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.config.size import Size
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import typical_px
from loupe.data.splits import split as splits
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, enumerated, sentences
from loupe.log import logger
from loupe.models import at_hand, parent
from loupe.models.catalog import network, weights_name
from loupe.models.parent import Parent
from loupe.models.pretrained import native_preprocessing, with_own_normalisation
from loupe.recipes import catalog
from loupe.recipes.choice import SMALL_PX, choose
from loupe.recipes.orientation import orientation
from loupe.recipes.published import other_images
from loupe.recipes.published.experiments import experiment
from loupe.recipes.transfer import BACKBONE

OF_INPUT = ("size_px", "load_px", "resize", "interpolation", "normalise")

# Random crops need a margin around the region that evaluation uses.
CROP_ROOM = 1.15

# Flags for stages that train in steps, by their recipe keys.
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
    """Resolve a recipe for the images of a data set. Pixel statistics and precision remain to be measured.

    Args:
        wanted: name, YAML file or recipe; None or `auto` to choose by the data set and the size of its images.
        dataset: images, whose size settles what the recipe leaves open.
        model: network in place of the recipe's.
        weights: pretrained weights of its backbone, or a trained classifier, whose network then replaces the recipe's.
        flags: `epochs`, `batch_size`, `lr`, `seed`, `precision`; None if not given.
        extra: values of recipe keys, as a mapping or as KEY=VALUE.

    Raises:
        ConfigError: an unknown name or key, or a flag that does not apply to the recipe.
    """
    trained = None if weights is None else parent.find(weights)
    named = _choose(wanted, dataset, model, weights, trained, flags, extra)
    is_named = not isinstance(wanted, Recipe) and str(wanted) in catalog.RECIPES  # a file or a value has its own split
    recipe = other_images.for_images(named, dataset) if is_named else named
    if trained is not None:
        recipe = _started(recipe, trained, model)
    elif model is not None or weights is not None:
        recipe = recipe.model_copy(update={"model": _network(recipe, model, weights)})
    recipe = overrides.override(recipe, extra)  # the optimizer of a stage decides which flags apply
    recipe = overrides.override(overrides.override(recipe, _flag_settings(recipe, flags)), extra)
    if recipe.teacher is not None and Path(recipe.teacher).is_dir():
        recipe = recipe.model_copy(update={"teacher": str(Path(recipe.teacher).absolute())})
    settled = with_own_normalisation(at_hand.settle(recipe.model), recipe.input)
    recipe = recipe.model_copy(update={"model": settled})
    if recipe.experiment is not None:
        experiment(recipe.experiment)  # an unknown name is refused before the training
    if is_named and (said := other_images.reason(named, recipe)):
        logger.info(said)
    return ResolvedRecipe.of(recipe, _input(recipe, dataset.table))


def _choose(
    wanted: str | Path | Recipe | None,
    dataset: Dataset,
    model: str | None,
    weights: str | None,
    trained: Parent | None,
    flags: Mapping[str, Any],
    extra: Settings,
) -> Recipe:
    if wanted is None or wanted == "auto":
        table = dataset.table
        if trained is not None and isinstance(trained.network, CnnSpec):
            return _of_small_network(trained, model)
        if trained is not None:
            model = model or trained.network.name
        recipe, reason = choose(
            default=dataset.default_recipe,
            model=model,
            weights=weights,
            images_per_class=np.count_nonzero(table.labels >= 0) / max(1, len(table.classes)),
            typical_px=lambda: typical_px(table),
            are_signs=lambda: _are_signs(dataset, flags, extra),
        )
        logger.info(f"{sentences(reason)} To list others: loupe recipes")
        return recipe
    return catalog.named(wanted)


def _are_signs(dataset: Dataset, flags: Mapping[str, Any], extra: Settings) -> bool:
    """True if the orientation of training images tells classes apart."""
    own = {key: value for key, value in overrides.keys_and_values(extra).items() if key.startswith(("split", "seed"))}
    seed = {} if flags.get("seed") is None else {"seed": flags["seed"]}
    recipe = overrides.override(overrides.override(catalog.recipe("features"), seed), own)
    dataset.compute_hashes()

    def told() -> bool:
        with suppress(DataError):  # of a split that is not possible, which the training reports
            train_N = splits.assign(dataset.table, dataset.hashes, recipe.split, recipe.split_seed).train
            probe = orientation(dataset.table, dataset.hashes, train_N)
            return probe is not None and probe.tells_classes is True
        return False

    return ranks.current().from_main(told)


def _of_small_network(trained: Parent, model: str | None) -> Recipe:
    """Recipe for more training of a small network: that of its run, with pixels as this version reads them.

    Raises:
        ConfigError: there is no run with the weights, or another network is wanted.
    """
    if trained.run is None:
        raise ConfigError(
            f"--weights {trained.shown}: {trained.network.name} was trained from scratch, and no run with its recipe "
            "is there. Give --recipe, for example small-images or photographs."
        )
    if model is not None:
        parent.check_trunk(trained, network(model))
    recipe = overrides.load(trained.run / "recipe.yaml")
    logger.info(f"Recipe {recipe.name}, that of {trained.shown}. To list others: loupe recipes")
    pixels = recipe.input.model_copy(update={"pixel_definition": None})  # the newest, which can be exported
    return recipe.model_copy(update={"experiment": None, "input": pixels})


def _started(recipe: Recipe, trained: Parent, model: str | None) -> Recipe:
    """Recipe with the network of a trained classifier, and its weights; the head of the recipe stays.

    The default backbone of a recipe is replaced. Any other network must be that of the weights.

    Raises:
        ConfigError: the recipe or `model` has another network.
    """
    parent.check_trainable(trained)
    theirs, weights = trained.network, {"weights": str(trained.folder)}
    own = recipe.model if model is None else network(model)
    is_default = model is None and isinstance(own, BackboneSpec) and own.backbone == BACKBONE
    if isinstance(own, BackboneSpec) and isinstance(theirs, BackboneSpec):
        head = recipe.model.hidden if isinstance(recipe.model, BackboneSpec) else ()
        backbone = theirs.backbone if is_default else own.backbone
        own = own.model_copy(update={"backbone": backbone, "pooling": theirs.pooling, "hidden": head})
    elif is_default:
        own = theirs
    parent.check_trunk(trained, own)
    started = recipe.model_copy(update={"model": own.model_copy(update=weights)})
    if isinstance(own, BackboneSpec):
        return started
    pixels = recipe.input.model_copy(update={"channels": trained.preprocessing.channels})
    return started.model_copy(update={"input": pixels})


def _network(recipe: Recipe, model: str | None, weights: str | None) -> Network:
    """Network of the recipe with another backbone or other weights; the head of the recipe stays."""
    if model is None:
        if weights == "none" and not isinstance(recipe.model, BackboneSpec):
            return recipe.model
        if isinstance(recipe.model, BlendSpec):
            raise ConfigError(
                f"recipe {recipe.name} trains a blend, whose members have weights of their own. Give --model "
                f"{recipe.model.name} too, or --set model.members.0.network.weights={weights}"
            )
        if not isinstance(recipe.model, BackboneSpec):
            raise ConfigError(
                f"recipe {recipe.name} trains {recipe.model.name} from scratch. Leave out --weights, or choose a "
                "recipe with a pretrained network."
            )
        return recipe.model.model_copy(update={"weights": weights_name(weights or recipe.model.weights)})
    chosen = network(model, weights)
    if isinstance(chosen, BackboneSpec) and isinstance(recipe.model, BackboneSpec):
        return recipe.model.model_copy(update={"backbone": chosen.backbone, "weights": chosen.weights})
    return chosen


def _flag_settings(recipe: Recipe, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Convert flags to settings: stage flags apply to every stage, epochs only to a recipe of one stage.

    A stage with optimizer `logistic` has neither learning rate nor batches; its epochs are L2 strengths.

    Raises:
        ConfigError: epochs for several stages, or a flag for which there is no stage.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if "epochs" in given and len(recipe.stages) > 1:
        raise ConfigError(
            f"--epochs: recipe {recipe.name} has {len(recipe.stages)} stages. Set the epochs of one, for example "
            f"--set stages.{len(recipe.stages) - 1}.epochs={given['epochs']}"
        )
    of_stage = [name for name in given if name in {"epochs", *OF_STEPS}]
    in_steps = [i for i, stage in enumerate(recipe.stages) if not stage.is_solved]
    unused = [OF_STEPS[name] for name in of_stage if name in OF_STEPS and not in_steps]
    if unused:
        raise ConfigError(
            f"{enumerated(unused)}: recipe {recipe.name} has optimizer logistic, which has neither a learning rate nor "
            f"batches. Leave {'it' if len(unused) == 1 else 'them'} out, or train the head in steps with "
            "--set stages.0.optimizer=adam"
        )
    stages = {
        f"stages.{i}.{name}": given[name]
        for name in of_stage
        for i in (in_steps if name in OF_STEPS else range(len(recipe.stages)))
    }
    return stages | {name: given[name] for name in given if name not in of_stage}


def _input(recipe: Recipe, table: ImageTable) -> dict[str, Any]:
    """Input values that the recipe leaves open: to the backbone, to the images, or to this version of Loupe."""
    newest = {"pixel_definition": recipe.input.pixel_definition or PIXEL_DEFINITION}
    if all(getattr(recipe.input, name) is not None for name in OF_INPUT):
        return newest
    own = native_preprocessing(recipe.model)
    return newest | (_input_of_images(recipe, table) if own is None else _input_of_pretrained(recipe.input, own))


def _input_of_pretrained(given: InputSpec, own: Preprocessing) -> dict[str, Any]:
    """Preprocessing that the network was trained with, unless the recipe has another."""
    size_px = given.size_px or own.size_px
    load = [
        round(side * own_load / own_side)
        for side, own_load, own_side in zip(Size.of(size_px), own.load_size, own.size, strict=True)
    ]
    changes: dict[str, Any] = {
        "size_px": size_px,
        "load_px": given.load_px or Size(*load).given,
        "resize": given.resize or own.resize,
        "interpolation": given.interpolation or own.interpolation,
    }
    if given.normalise is None:
        changes |= {"normalise": "given", "mean": given.mean or own.mean, "std": given.std or own.std}
    return changes


def _input_of_images(recipe: Recipe, table: ImageTable) -> dict[str, Any]:
    """Open values of the input, by the typical size of the images."""
    given = recipe.input
    size_px, load_px = given.size_px, given.load_px
    if size_px is None:
        typical = typical_px(table)
        size_px = min(typical, SMALL_PX)
        logger.info(
            f"images are resized to {size_px} x {size_px} px (their shorter side is typically {typical} px). To change "
            "that: --set input.size_px=PIXELS or =[HEIGHT,WIDTH]"
        )
    if load_px is None:
        crops = any(stage.augment.random_resized_crop for stage in recipe.stages)
        load_px = Size(*(round(CROP_ROOM * side) for side in Size.of(size_px))).given if crops else size_px
    return {
        "size_px": size_px,
        "load_px": load_px,
        "resize": given.resize or "crop",
        "interpolation": given.interpolation or "bilinear",
        "normalise": given.normalise or "channels",
    }
