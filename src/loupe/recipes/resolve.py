"""From what was asked for, and the images at hand, to the one recipe that is run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loupe import settings
from loupe.console import Console
from loupe.data import catalog as datasets
from loupe.data.prepare import typical_px
from loupe.data.table import ImageTable
from loupe.errors import LoupeError
from loupe.models.catalog import network
from loupe.recipe import Preprocessing, Recipe
from loupe.recipes import catalog
from loupe.recipes.experiments import experiment

# Random crops need room around the part that evaluation sees.
CROP_ROOM = 1.15

Settings = Mapping[str, Any] | Sequence[str]


def resolve(
    wanted: str | Path | Recipe | None,
    table: ImageTable,
    *,
    dataset: str | None,
    model: str | None,
    flags: Mapping[str, Any],
    extra: Settings,
    console: Console,
) -> Recipe:
    """The recipe to run, with nothing left open but the precision.

    Args:
        wanted: a name, a YAML file or a recipe; None chooses by the data set and the size of its images.
        dataset: the name of the data set in the catalog, if it has one.
        model: the network to put in place of the recipe's.
        flags: `epochs`, `batch_size`, `lr`, `seed`, `precision`; None where not given.
        extra: any keys of the recipe, as a mapping or as KEY=VALUE.
    """
    recipe = _choose(wanted, table, dataset, console)
    if model is not None:
        recipe = recipe.model_copy(update={"model": network(model)})
    recipe = settings.override(settings.override(recipe, _flag_settings(recipe, flags)), extra)
    if recipe.experiment is not None:
        experiment(recipe.experiment)  # refused now, and not after the training
    return _with_sizes(recipe, table, console)


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """The preprocessing of a resolved recipe, before the pixels' statistics are known."""
    given = recipe.input
    assert given.size_px is not None
    assert given.load_px is not None
    if given.load_px < given.size_px:
        raise LoupeError(f"input.load_px ({given.load_px}) must be at least input.size_px ({given.size_px}).")
    return Preprocessing(
        size_px=given.size_px, load_px=given.load_px, resize=given.resize, interpolation=given.interpolation
    )


def _choose(wanted: str | Path | Recipe | None, table: ImageTable, dataset: str | None, console: Console) -> Recipe:
    if isinstance(wanted, Recipe):
        return wanted
    if wanted is None:
        default = datasets.DATASETS[dataset].default_recipe if dataset in datasets.DATASETS else None
        recipe, reason = catalog.choose(default, typical_px(table))
        console.say(f"{reason}. Others: loupe recipes")
        return recipe
    if Path(wanted).suffix in {".yaml", ".yml"}:
        return settings.load(Path(wanted))
    return catalog.recipe(str(wanted))


def _flag_settings(recipe: Recipe, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The field's own flags as settings; those of a stage hold for every stage, but epochs only where there is one."""
    given = {name: value for name, value in flags.items() if value is not None}
    if "epochs" in given and len(recipe.stages) > 1:
        raise LoupeError(
            f"recipe {recipe.name} has {len(recipe.stages)} stages: say which one, for example "
            f"--set stages.{len(recipe.stages) - 1}.epochs={given['epochs']}."
        )
    of_stage = [name for name in given if name in {"epochs", "batch_size", "lr"}]
    stages = {f"stages.{i}.{name}": given[name] for name in of_stage for i in range(len(recipe.stages))}
    return stages | {name: given[name] for name in given if name not in of_stage}


def _with_sizes(recipe: Recipe, table: ImageTable, console: Console) -> Recipe:
    """Sizes that the recipe leaves to the images."""
    size_px, load_px = recipe.input.size_px, recipe.input.load_px
    if size_px is None:
        typical = typical_px(table)
        size_px = min(typical, catalog.SMALL_PX)
        console.say(
            f"images are resized to {size_px} px on a side (typically {typical}): --set input.size_px=... for another"
        )
    if load_px is None:
        crops = any(stage.augment.random_resized_crop for stage in recipe.stages)
        load_px = round(CROP_ROOM * size_px) if crops else size_px
    return recipe.model_copy(update={"input": recipe.input.model_copy(update={"size_px": size_px, "load_px": load_px})})
