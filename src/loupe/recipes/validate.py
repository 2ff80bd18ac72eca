"""Check of a resolved recipe before any image is decoded: network and augmentation suit the size of the images."""

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec, BlendSpec
from loupe.config.recipe import AugmentSpec, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.errors import ConfigError, counted
from loupe.models.build import skeleton


def check_buildable(recipe: ResolvedRecipe, classes: tuple[str, ...]) -> None:
    """Check, before any image is decoded, that network and augmentation suit the size of the images, and a refit both.

    Raises:
        ConfigError: they do not; the message names the setting to change.
    """
    if recipe.is_blended:
        raise ConfigError(
            f"recipe {recipe.name} is a blend of trained runs, and there is nothing to train. Make another "
            "with: loupe blend RUN RUN"
        )
    if recipe.refit and not solves_head_alone(recipe):
        one = "also learns from augmented images" if _solves_one_head(recipe) else "trains in steps"
        raise ConfigError(
            f"refit needs a recipe that only solves a head on frozen features of images as they are. Recipe "
            f"{recipe.name} {one}. Leave out --refit, or give --recipe features."
        )
    model = skeleton(recipe.model, recipe.preprocessing, classes)
    for stage in recipe.stages:
        model.blocks_before(stage.part)
        if stage.is_solved and recipe.model.hidden:
            raise ConfigError(
                f"optimizer logistic needs a linear head, and this one has "
                f"{counted(len(recipe.model.hidden), 'hidden layer')}. Give --set model.hidden=[], or choose another "
                "optimizer."
            )
        Augmenter(stage.augment, recipe.preprocessing, recipe.seed)
        if stage.augment.resolution < 1:
            _check_reduced(recipe, stage.augment.resolution, classes)


def solves_head_alone(recipe: Recipe) -> bool:
    """True if the only trained part is a solved head, on features of images that are not augmented."""
    return _solves_one_head(recipe) and recipe.stages[0].augment == AugmentSpec()


def _solves_one_head(recipe: Recipe) -> bool:
    return len(recipe.stages) == 1 and recipe.stages[0].is_solved


def _check_reduced(recipe: ResolvedRecipe, resolution: float, classes: tuple[str, ...]) -> None:
    """Check that the network takes training images that are smaller than its input."""
    remedy = f"augment.resolution {resolution:g}"
    if isinstance(recipe.model, BackboneSpec | BlendSpec) or recipe.model.pooling == "flatten":
        raise ConfigError(
            f"{remedy}: {recipe.model.name} takes images of one size only. Set augment.resolution to 1, or use a small "
            "network whose pooling is average or max."
        )
    size = recipe.preprocessing.size.scaled(resolution).given
    try:
        skeleton(recipe.model, recipe.preprocessing.model_copy(update={"size_px": size, "load_px": size}), classes)
    except ConfigError as error:
        raise ConfigError(f"{remedy}: {error}") from None
