"""Check of a resolved recipe before any image is decoded: network and augmentation suit the size of the images."""

from loupe.augment.pipeline import Augmenter
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
