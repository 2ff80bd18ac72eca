"""Checks of a resolved recipe before any image is decoded: can the network be built, are its weights there?"""

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec
from loupe.config.optimizer import Logistic
from loupe.config.resolved import ResolvedRecipe
from loupe.errors import ConfigError
from loupe.models.build import skeleton


def check_buildable(recipe: ResolvedRecipe, classes: tuple[str, ...]) -> None:
    """Check, before any image is decoded, that network and augmentation suit the size of the images.

    Raises:
        LoupeError: they do not; the message names the setting to change.
    """
    model = skeleton(recipe.model, recipe.preprocessing, classes)
    for stage in recipe.stages:
        model.blocks_before(stage.part)
        if isinstance(stage.optimizer, Logistic) and recipe.model.hidden:
            raise ConfigError(
                f"optimizer logistic solves a linear head, and this one has {len(recipe.model.hidden)} hidden layers. "
                "Set model.hidden=[], or another optimizer."
            )
        Augmenter(stage.augment, recipe.preprocessing, recipe.seed)


def check_weights(recipe: ResolvedRecipe) -> None:
    """Check, before any image is decoded and any run begun, that pretrained weights can be had and fit the network.

    Raises:
        LoupeError: they cannot, or do not; the message says what to give.
    """
    if isinstance(recipe.model, BackboneSpec):
        from loupe.models.timm import weights

        weights.check_weights(recipe.model)
