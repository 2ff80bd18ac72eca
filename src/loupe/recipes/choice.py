"""Automatic choice of the recipe: by the data set, the given model or weights, and the size and number of images."""

from collections.abc import Callable

from loupe.config.recipe import Recipe
from loupe.errors import LoupeError, counted, sentences
from loupe.models.catalog import NETWORKS
from loupe.models.pretrained import fetch_weights
from loupe.recipes import catalog
from loupe.recipes.transfer import BACKBONE

SMALL_PX = 64

# Below this number, frozen features of enlarged small images are used, not training from scratch. With 500 images
# per class of CIFAR-10 they reach 77.5 % (from scratch 58.7 %), with 1,000 78.1 % (71.7 %); with 4,500, training from
# scratch is better (results/transfer.md). Numbers in between are not measured.
FEW_PER_CLASS = 2000

# From this number on, small images whose orientation tells classes apart are trained from scratch, as features of
# photographs do not fit signs: letters of 28 px gain 9 to 12 points, hand signs reduced to 32 px 3 to 5. Digits of 8 px
# lose 5 to 40 (results/mirrored.md). Sizes in between are not measured.
FEW_SIGNS_PER_CLASS = 50
TINY_PX = 16  # below it, images are too small for the networks of small images


def choose(
    *,
    default: str | None,
    model: str | None,
    weights: str | None,
    images_per_class: float,
    typical_px: Callable[[], int],
    are_signs: Callable[[], bool],
) -> tuple[Recipe, str]:
    """Choose a recipe.

    Args:
        default: recipe that the data set names; None without.
        model, weights: as given by the user; None if not given.
        images_per_class: mean number of labelled images of a class.
        typical_px: function that measures the median of the images' shorter sides; called only if needed.
        are_signs: function that tells if the orientation of the images tells classes apart; called only if needed.

    Returns:
        recipe, and the reason for it as one or more sentences.
    """
    if weights != "none" and (weights is not None or (model is not None and model not in NETWORKS)):
        return catalog.recipe("features"), f"Recipe features: it uses pretrained {model or BACKBONE}"
    if default is not None:
        return catalog.recipe(default), f"Recipe {default}: made for this data set"
    side = typical_px()
    size = f"the shorter side of the images is typically {side} px"
    small = side <= SMALL_PX
    scratch = "small-images" if small else "photographs"
    if model is not None or weights == "none" or (small and images_per_class >= FEW_PER_CLASS):
        return catalog.recipe(scratch), f"Recipe {scratch}, from scratch: {size}"
    few = f", with about {counted(round(images_per_class), 'image')} per class" if small else ""
    if TINY_PX <= side <= SMALL_PX and images_per_class >= FEW_SIGNS_PER_CLASS and are_signs():
        return catalog.recipe(scratch), (
            f"Recipe {scratch}, from scratch: {size}{few}, and their orientation tells classes "
            "apart. Features of photographs recognise such signs less well"
        )
    problem = weights_problem(BACKBONE)
    if problem:
        return catalog.recipe(scratch), sentences(
            f"Recipe {scratch}, from scratch: {size}", problem[0].upper() + problem[1:]
        )
    return catalog.recipe("features"), f"Recipe features, with pretrained {BACKBONE}: {size}{few}"


def weights_problem(backbone: str) -> str | None:
    """Download the pretrained weights of a backbone, unless they are cached.

    Returns:
        None; if the weights are unavailable, the reason and the remedy, as sentences.
    """
    try:
        fetch_weights(backbone)
    except LoupeError as error:
        return str(error)
    return None
