"""Note on unbalanced training images: settings for them, and the comparison that tells whether they help."""

import numpy as np
import numpy.typing as npt

from loupe.config.loss import Focal
from loupe.config.recipe import Recipe
from loupe.data.audit.findings import IMBALANCE
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.errors import counted
from loupe.evaluate.history import MACRO_F1


def is_unbalanced(counts_K: npt.NDArray[np.integer]) -> bool:
    """True if the largest of the classes with images has more than `IMBALANCE` times those of the smallest."""
    present_K = counts_K[counts_K > 0]
    return bool(len(present_K) and present_K.max() > IMBALANCE * present_K.min())


def balance_note(table: ImageTable, split: Split, recipe: Recipe) -> str | None:
    """Sentences for training images of which a class has more than `IMBALANCE` times those of another.

    None where there is no such class, or where the recipe has settings for it.
    """
    if recipe.class_weights != "none" or recipe.logit_adjustment:
        return None
    if any(isinstance(stage.loss, Focal) for stage in recipe.stages):
        return None
    counts_K = np.bincount(table.labels[split.train], minlength=len(table.classes))
    if not is_unbalanced(counts_K):
        return None
    present = np.flatnonzero(counts_K)
    most, least = present[counts_K[present].argmax()], present[counts_K[present].argmin()]
    monitor = "" if recipe.monitor == MACRO_F1 else f"--set monitor={MACRO_F1} (what is kept is chosen by it), "
    return (
        f"The classes are unbalanced: {counted(int(counts_K[most]), 'training image')} of {table.classes[most]}, "
        f"{int(counts_K[least]):,} of {table.classes[least]}. Macro-F1 weighs them equally. Settings that may raise it "
        f"or not: {monitor}--set class_weights=balanced or --set "
        "logit_adjustment=1. To judge them by a paired test: train with both, then loupe compare RUN RUN"
    )
