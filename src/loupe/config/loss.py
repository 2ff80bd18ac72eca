"""Losses, as data; `training/losses.py` has their arithmetic."""

from typing import Annotated, Literal

from pydantic import Field

from loupe.config.base import NonNegative, RecipeValue


class CrossEntropy(RecipeValue):
    """Cross-entropy; the stage's `label_smoothing` belongs to it."""

    name: Literal["cross-entropy"] = "cross-entropy"


class Focal(RecipeValue):
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p)^`gamma`, p being the probability of the target.

    Images that are already classified with confidence count less. `gamma` 0 is cross-entropy.
    """

    name: Literal["focal"] = "focal"
    gamma: NonNegative = 2.0


Loss = Annotated[CrossEntropy | Focal, Field(discriminator="name")]
