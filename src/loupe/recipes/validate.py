"""Checks of a resolved recipe before any image is decoded: can the network be built, are its weights there?"""

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec
from loupe.config.optimizer import Logistic
from loupe.config.recipe import Recipe
from loupe.errors import ConfigError
from loupe.models.build import skeleton
from loupe.recipes.resolve import preprocessing_of


def check_buildable(recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Finds out, before any image is decoded, that network or augmentation do not suit the size of the images.

    Raises:
        LoupeError: it does not; the error says what to set.
    """
    preprocessing = preprocessing_of(recipe)
    model = skeleton(recipe.model, preprocessing, classes)
    for stage in recipe.stages:
        model.blocks_before(stage.part)
        if isinstance(stage.optimizer, Logistic) and recipe.model.hidden:
            raise ConfigError(
                f"optimizer logistic solves a linear head, and this one has {len(recipe.model.hidden)} hidden layers. "
                "Set model.hidden=[], or another optimizer."
            )
        Augmenter(stage.augment, preprocessing, recipe.seed)


def check_weights(recipe: Recipe) -> None:
    """Finds out, before any image is decoded and any run begun, that pretrained weights cannot be had or do not fit.

    Raises:
        LoupeError: as building the network would; the error says what to give.
    """
    if isinstance(recipe.model, BackboneSpec):
        from loupe.models.timm import backbones

        backbones.check_weights(recipe.model)
