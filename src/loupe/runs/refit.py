"""Second training of a run on training and validation images together, with what the first one chose (`refit`).

The first training chooses the number of epochs and the L2 strength on validation images; a head that is judged by folds
has the strength that is best over those. The second one begins with the same weights, takes the same stages with the
same schedules, and ends after as many epochs. Nothing is left to judge it by but test images: the other figures of the
run are those of the folds, and of the network before the refit.
"""

from dataclasses import dataclass, replace

import numpy as np

from loupe.config.optimizer import Logistic
from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.splits.split import Split
from loupe.errors import ConfigError, counted
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.results import RefitResult
from loupe.log import logger, rounded
from loupe.models.classifier import Classifier
from loupe.runs.folds import HeadFolds, chosen_strength
from loupe.runs.results import kept_epoch
from loupe.runs.setup import TrainingSetup, set_up
from loupe.training.checkpoint import Checkpoints
from loupe.training.stage_data import StageDataBuilder, views_of
from loupe.training.train_state import TrainState


@dataclass(frozen=True)
class RefitPlan:
    """Stages of the second training.

    Attributes:
        stages: up to the one whose weights were kept; a solved head has the chosen L2 strength alone.
        lengths: epochs after which each stage ends; 1 for a solved head.
        result: what the results say about it, without its time.
    """

    stages: tuple[ResolvedStage, ...]
    lengths: tuple[int, ...]
    result: RefitResult


@dataclass(frozen=True)
class Refitted:
    """Network that was trained again.

    Attributes:
        preparation: data of its last stage.
        before: predictions of the validation images before the refit; on rank 0.
        result: what the results say about it.
    """

    model: Classifier
    preparation: StageDataBuilder
    before: Predictions
    result: RefitResult


def check_refit(recipe: Recipe, split: Split) -> None:
    """Check that there are images for a second training to learn from in addition.

    Raises:
        ConfigError: there are none.
    """
    trained = [number for number, stage in enumerate(recipe.stages, 1) if not stage.is_solved]
    if recipe.refit and trained:
        raise ConfigError(
            f"refit solves a head again on training and validation images together, and stage {trained[0]} is trained "
            "in steps. Leave refit out, or train a recipe whose head is solved: --recipe features"
        )
    if recipe.refit and not len(split.val):
        raise ConfigError(
            "refit trains again on training and validation images together, and there are no validation images: the "
            "first training learns from all of them. Leave it out, or give --set split.validation=0.1"
        )


def plan(recipe: ResolvedRecipe, state: TrainState, folds: HeadFolds | None, images: int) -> RefitPlan:
    """Plan of the second training, from the first one at its end.

    Args:
        folds: out-of-fold predictions of the solved head of the first stage, if there are some.
        images: number of training and validation images.
    """
    rows = state.history[: kept_epoch(recipe, state)]
    of_folds = folds is not None and folds.is_best
    stages, lengths, strength = list[ResolvedStage](), list[int](), None
    for number in range(int(rows[-1]["stage"])):
        stage = recipe.stages[number]
        if stage.is_solved:
            strength = folds.strength if folds and of_folds else chosen_strength(recipe, state, number)
            changes = {"epochs": 1, "optimizer": Logistic(strongest=strength, weakest=strength)}
            stages.append(stage.model_copy(update={**changes, "patience_epochs": None, "views": views_of(stage)}))
            lengths.append(1)
        else:
            stages.append(stage.model_copy(update={"patience_epochs": None}))
            lengths.append(sum(row["stage"] == number + 1 for row in rows))
    epochs = sum(length for stage, length in zip(stages, lengths, strict=True) if not stage.is_solved)
    result = RefitResult(
        images=images,
        chosen_on="folds" if of_folds else "validation",
        seconds=0.0,
        **({"epochs": epochs} if epochs else {}),
        **({} if strength is None else {"l2_strength": strength}),
    )
    return RefitPlan(tuple(stages), tuple(lengths), result)


def set_up_again(setup: TrainingSetup, checkpoints: Checkpoints) -> TrainingSetup:
    """Setup of the second training: the same network before its first step, and all images but those of the test split.

    Raises:
        ConfigError: pretrained weights are no longer available.
    """
    split = setup.split
    pool_N = np.sort(np.concatenate([split.train, split.val]))
    merged = replace(split, train=pool_N, val=split.val[:0])
    return set_up(setup.recipe, setup.images, merged, setup.compute.device, pretrained=not checkpoints.begun)


def announce(planned: RefitPlan) -> None:
    """Log what the second training does."""
    parts = []
    if planned.result.epochs:
        parts.append(counted(planned.result.epochs, "epoch"))
    if planned.result.l2_strength is not None:
        parts.append(f"L2 strength {rounded(planned.result.l2_strength)}")
    what = f"training and validation images together ({planned.result.images:,})"
    chosen = "the folds" if planned.result.chosen_on == "folds" else "validation images"
    logger.info(f"refit: training again on {what}, {' and '.join(parts)} as chosen on {chosen}.")
