"""Horizontal flips that a recipe leaves open: the training images decide, or their size where they cannot."""

import numpy as np

from loupe.config.resolved import ResolvedRecipe
from loupe.data.pixels.prepare import Images, typical_px
from loupe.recipes.choice import SMALL_PX
from loupe.recipes.orientation import orientation


def mirrored(recipe: ResolvedRecipe, images: Images, train_N: np.ndarray) -> tuple[ResolvedRecipe, str]:
    """Recipe with its horizontal flips decided, and the reason in a sentence.

    Args:
        train_N: rows of the training images.
    """
    taken, reason = flips(images, train_N)
    number = next(number for number, stage in enumerate(recipe.stages) if stage.augment.is_open)
    other = f"To decide yourself: --set stages.{number}.augment.horizontal_flip={'false' if taken else 'true'}"
    return recipe.mirrored(taken), f"{reason} {other}"


def flips(images: Images, train_N: np.ndarray) -> tuple[bool, str]:
    """True to train on mirrored images, and the reason in a sentence."""
    probe = orientation(images.table, images.content, train_N)
    if probe is not None and probe.tells_classes is not None:
        does = (
            "left out: their orientation tells classes apart"
            if probe.tells_classes
            else "taken: classes look alike from both sides"
        )
        return not probe.tells_classes, f"Mirrored training images are {does}; {probe.words}."
    photographs = typical_px(images.table) > SMALL_PX
    usual = "taken, as for photographs" if photographs else "left out, as small images may be signs"
    measured = f"; {probe.words}" if probe is not None else ""
    return photographs, f"Mirrored training images are {usual}: these images cannot tell{measured}."
