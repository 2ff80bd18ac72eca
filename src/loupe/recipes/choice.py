"""The recipe when none is named: by the data set, by what was said of the model, by the size of the images."""

from collections.abc import Callable
from functools import cache

from loupe.errors import LoupeError
from loupe.models.catalog import NETWORKS
from loupe.recipe import Recipe
from loupe.recipes import catalog
from loupe.recipes.transfer import BACKBONE

SMALL_PX = 64


def choose(
    *, default: str | None, model: str | None, weights: str | None, typical_px: Callable[[], int]
) -> tuple[Recipe, str]:
    """The recipe, and the reason in words.

    Args:
        default: the recipe that the data set itself names, if any.
        model, weights: what was asked for; None where nothing was.
        typical_px: the median of the images' shorter sides; asked for only where it matters.
    """
    if weights != "none" and (weights is not None or (model is not None and model not in NETWORKS)):
        return catalog.recipe("features"), f"recipe features: {model or BACKBONE} is to start from what it has learned"
    if default is not None:
        return catalog.recipe(default), f"recipe {default}: made for this data set"
    side = typical_px()
    size = f"the images are typically {side} px on their shorter side"
    if side <= SMALL_PX:
        return catalog.recipe("small-images"), f"recipe small-images: {size}"
    if model is not None or weights == "none":
        return catalog.recipe("photographs"), f"recipe photographs: {size}"
    problem = without_weights(BACKBONE)
    if problem is None:
        return catalog.recipe("features"), f"recipe features: {size}, as {BACKBONE} knows them"
    return catalog.recipe("photographs"), f"recipe photographs, from scratch: {size}, and {problem}"


@cache
def without_weights(backbone: str) -> str | None:
    """Why the weights of a backbone cannot be had, in words; None where they can: they are fetched, and stay here."""
    from loupe.models import backbones  # timm takes seconds to import

    try:
        backbones.fetch(backbone)
    except LoupeError as error:
        return str(error)
    return None
