"""Note on unbalanced training images: settings for them, and the comparison that tells whether they help."""

import numpy as np

from loupe.config.loss import Focal
from loupe.config.recipe import Recipe
from loupe.data.audit.findings import IMBALANCE
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.errors import counted


def balance_note(table: ImageTable, split: Split, recipe: Recipe) -> str | None:
    """Sentences for training images of which a class has more than `IMBALANCE` times those of another.

    None where there is no such class, or where the recipe has settings for it.
    """
    if recipe.class_weights != "none" or recipe.logit_adjustment:
        return None
    if any(isinstance(stage.loss, Focal) for stage in recipe.stages):
        return None
    counts_K = np.bincount(table.labels[split.train], minlength=len(table.classes))
    present = np.flatnonzero(counts_K)
    most, least = present[counts_K[present].argmax()], present[counts_K[present].argmin()]
    if counts_K[most] <= IMBALANCE * counts_K[least]:
        return None
    return (
        f"The classes are unbalanced: {counted(int(counts_K[most]), 'training image')} of {table.classes[most]}, "
        f"{int(counts_K[least]):,} of {table.classes[least]}. Macro-F1 weighs them equally. Settings that may raise it "
        "or not: --set class_weights=balanced or --set logit_adjustment=1. To judge them by a paired test: train with "
        "both, then loupe compare RUN RUN"
    )
