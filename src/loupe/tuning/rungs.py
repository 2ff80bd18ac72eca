"""Rungs of a search: the same recipe in fewer epochs, each with its whole schedule.

An annealed schedule makes the first epochs of a long training a poor forecast of its last: the rate is still high, and
settings that learn slowly look bad. So a rung is not the beginning of a long training but a short one, with its warmup,
its annealing and its final rate; the resource that Hyperband (Li et al. 2018) spends is the number of epochs.
"""

import math
from typing import Any

from loupe.config.optimizer import Constant, Cosine, Plateau, Step
from loupe.config.resolved import ResolvedRecipe, ResolvedStage

FACTOR = 3  # between the epochs of a rung and those of the next; the number of trials falls by the same
LEAST_EPOCHS = 1.5  # of the shortest rung, before rounding
MOST_RUNGS = 3


def count_rungs(recipe: ResolvedRecipe) -> int:
    """Number of rungs: more for longer trainings; 1 for a recipe without epochs, as one of a solved head."""
    epochs = epochs_in_steps(recipe)
    if not epochs:
        return 1
    return max(1, min(MOST_RUNGS, 1 + math.floor(math.log(epochs / LEAST_EPOCHS, FACTOR) + 1e-9)))


def epochs_in_steps(recipe: ResolvedRecipe) -> int:
    """Epochs of all stages that train in steps."""
    return sum(stage.planned_epochs for stage in recipe.stages if not stage.is_solved)


def share(rung: int, rungs: int) -> float:
    """Share of the epochs that a rung takes, from 0: 1/9, 1/3, 1."""
    return float(FACTOR) ** (rung - rungs + 1)


def shortened(recipe: ResolvedRecipe, part: float) -> ResolvedRecipe:
    """The recipe in a share of its epochs, at least one in each stage, with its schedules in proportion.

    A solved head has no epochs, and stays as it is.
    """
    if part >= 1:
        return recipe
    stages = tuple(stage if stage.is_solved else _shortened(stage, part) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


def _shortened(stage: ResolvedStage, part: float) -> ResolvedStage:
    epochs = max(1, round(stage.planned_epochs * part))
    part = epochs / stage.planned_epochs
    changes: dict[str, Any] = {"epochs": epochs}
    schedule = stage.schedule
    if isinstance(schedule, Constant | Step | Cosine | Plateau):
        scaled: dict[str, Any] = {"warmup_epochs": schedule.warmup_epochs * part}
        if isinstance(schedule, Step):
            scaled["every_epochs"] = schedule.every_epochs * part
        if isinstance(schedule, Plateau):
            scaled["patience_epochs"] = max(1, round(schedule.patience_epochs * part))
        changes["schedule"] = schedule.model_copy(update=scaled)
    if stage.patience_epochs is not None:
        changes["patience_epochs"] = max(1, round(stage.patience_epochs * part))
    if isinstance(stage.views, int):
        changes["views"] = min(stage.views, epochs)
    return stage.model_copy(update=changes)
