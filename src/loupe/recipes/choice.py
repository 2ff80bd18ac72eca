"""The recipe when none is named: by the data set, what was said of the model, and the size and number of images."""

from collections.abc import Callable
from functools import cache

from loupe.config.recipe import Recipe
from loupe.errors import LoupeError
from loupe.models.catalog import NETWORKS
from loupe.models.pretrained import fetch_weights
from loupe.recipes import catalog
from loupe.recipes.transfer import BACKBONE

SMALL_PX = 64

# Up to here frozen features of enlarged images are taken to beat what small images teach from scratch. With 500 of each
# class of CIFAR-10 they do, 77.5 % against 58.7, and with 1,000, 78.1 against 71.7; with 4,500 from scratch is ahead
# (results/transfer.md). Where between the two they meet is not measured.
FEW_PER_CLASS = 2000


def choose(
    *,
    default: str | None,
    model: str | None,
    weights: str | None,
    images_per_class: float,
    typical_px: Callable[[], int],
) -> tuple[Recipe, str]:
    """The recipe, and the reason in words.

    Args:
        default: the recipe that the data set itself names, if any.
        model, weights: what was asked for; None where nothing was.
        images_per_class: labelled ones, in the mean.
        typical_px: the median of the images' shorter sides; asked for only where it matters.
    """
    if weights != "none" and (weights is not None or (model is not None and model not in NETWORKS)):
        return catalog.recipe("features"), f"recipe features: {model or BACKBONE} is to start from what it has learned"
    if default is not None:
        return catalog.recipe(default), f"recipe {default}: made for this data set"
    side = typical_px()
    size = f"the images are typically {side} px on their shorter side"
    small = side <= SMALL_PX
    scratch = "small-images" if small else "photographs"
    if model is not None or weights == "none" or (small and images_per_class >= FEW_PER_CLASS):
        return catalog.recipe(scratch), f"recipe {scratch}: {size}"
    knows = f"and there are {images_per_class:,.0f} of each class" if small else f"as {BACKBONE} knows them"
    problem = without_weights(BACKBONE)
    if problem is None:
        return catalog.recipe("features"), f"recipe features: {size}, {knows}"
    return catalog.recipe(scratch), f"recipe {scratch}, from scratch: {size}, and {problem}"


@cache
def without_weights(backbone: str) -> str | None:
    """Why the weights of a backbone cannot be had, in words; None where they can: they are fetched, and stay here."""
    try:
        fetch_weights(backbone)
    except LoupeError as error:
        return str(error)
    return None
