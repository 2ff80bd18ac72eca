"""Stage of a recipe that a display is about."""

from pathlib import Path
from typing import Any

from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.errors import ConfigError, counted
from loupe.recipes.resolve import Settings, resolve
from loupe.recipes.validate import check_buildable


def resolved(
    recipe: str | Path | Recipe | None, dataset: Dataset, *, model: str | None, settings: Settings
) -> ResolvedRecipe:
    """Recipe for the images, as `loupe.train` would use it, which can be built.

    Raises:
        ConfigError: an unknown name or key, or a network or augmentation that does not suit the images.
    """
    chosen = resolve(recipe, dataset, model=model, flags={}, extra=settings)
    check_buildable(chosen, dataset.table.classes)
    return chosen


def check_stage(stage: Any, recipe: Recipe) -> None:
    """Check the number of a stage, from 1.

    Raises:
        ConfigError: the recipe has no such stage.
    """
    count = len(recipe.stages)
    if isinstance(stage, bool) or not isinstance(stage, int) or not 1 <= stage <= count:
        allowed = "1" if count == 1 else f"a number from 1 to {count}"
        raise ConfigError(f"stage {stage!r}: recipe {recipe.name} has {counted(count, 'stage')}. Give {allowed}.")
