"""Out-of-fold evaluation of a solved head, and its refit on training and validation images together.

The validation images of a small set are too few to tell much. Where the only trained part is a head that is solved on
frozen features, solving it anew without each of 5 folds takes seconds, and every image outside the test split is one to
evaluate on. Test images are in no fold. With `refit`, the head of the run learns from all images of the folds, at the
L2 strength with the lowest log loss of their out-of-fold predictions, or with the highest macro-F1 where the recipe
monitors that.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.memory import free_bytes
from loupe.data.pixels.prepare import Images
from loupe.data.splits.folds import USUAL_FOLDS, as_many_as_fit
from loupe.data.splits.split import Split
from loupe.devices import StopSignal
from loupe.errors import ConfigError, DataError, NotEnoughMemoryError, counted
from loupe.evaluate import calibration
from loupe.evaluate.calibration import Temperature
from loupe.evaluate.history import MACRO_F1
from loupe.evaluate.predictions import Predictions, join
from loupe.evaluate.results import Evaluation, FoldEvaluation, RefitResult
from loupe.log import logger, rounded, size_text
from loupe.ranks import current
from loupe.recipes.validate import solves_head_alone
from loupe.runs.results import kept_epoch
from loupe.runs.setup import TrainingSetup, class_weights, log_prior
from loupe.training.agreement import Agreement
from loupe.training.heads import Floats, Ints
from loupe.training.solver import Solver, logits_layer
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import TrainState
from loupe.training.train_step import TrainStep

MOST_IMAGES = 2_000  # training and validation images; with as many, validation images alone tell enough

_left_out: list[bool] = []


@contextmanager
def left_out() -> Iterator[None]:
    """Context in which only a refit is evaluated by folds: candidates of comparisons and searches have other judges."""
    _left_out.append(True)
    try:
        yield
    finally:
        _left_out.pop()


@dataclass(frozen=True)
class HeadFolds:
    """Out-of-fold predictions of the head of a run.

    Attributes:
        rows_N: rows of the training and validation images, ascending.
        logits_NK: of these rows, on rank 0.
        folds: number of folds.
        learned: images that the head of a fold learned from, on average.
        strength: L2 strength of all heads.
        refit: True if the head of the model learned from all of these rows, at this strength.
        seconds: time that it took, refit included.
    """

    rows_N: Ints
    logits_NK: Floats
    folds: int
    learned: int
    strength: float
    refit: bool
    seconds: float

    def predictions(self, images: Images, split: Split, classes: tuple[str, ...]) -> dict[str, Predictions]:
        """The predictions, by the split of the images, in the order of its rows."""
        found = Predictions(
            path=tuple(images.table.paths[row] for row in self.rows_N),
            content=tuple(images.content[row] for row in self.rows_N),
            label=images.table.labels[self.rows_N],
            logits_NK=self.logits_NK,
            classes=classes,
        )
        places = {name: np.searchsorted(self.rows_N, split.rows(name)) for name in ("train", "val")}
        return {name: found.select(place_M) for name, place_M in places.items() if len(place_M)}


def evaluation(folds: HeadFolds, predictions: Mapping[str, Predictions], measured: Evaluation) -> dict[str, Any]:
    """Values of `runs.results.Evaluated` for the folds, from the metrics of their predictions."""
    chosen_on = "folds" if folds.refit or "val" not in predictions else "validation"
    found = FoldEvaluation(
        **dict(measured), folds=folds.folds, l2_strength=folds.strength, chosen_on=chosen_on, learned=folds.learned
    )
    refit = {"refit": RefitResult(images=len(folds.rows_N), l2_strength=folds.strength)} if folds.refit else {}
    return {"folds": found, "folds_seconds": folds.seconds, **refit}


def fit_temperature(
    recipe: Recipe, predictions: Mapping[str, Predictions], of_folds: Mapping[str, Predictions]
) -> tuple[Temperature, Literal["validation", "folds"]]:
    """Temperature, and what it was fitted on: validation images; after a refit, out-of-fold predictions.

    Args:
        predictions, of_folds: predictions of the network, and out-of-fold ones, by split.
    """
    if recipe.refit:
        return calibration.fit_temperature(join([*of_folds.values()]), "out-of-fold image"), "folds"
    fitted = calibration.fit_temperature(predictions["val"]) if "val" in predictions else Temperature()
    return fitted, "validation"


def check_refit(recipe: Recipe, images: Images, split: Split) -> None:
    """Check that the images can be refitted on: there are validation images to add, and enough of each class for folds.

    Raises:
        ConfigError: they cannot.
    """
    if not recipe.refit:
        return
    if not len(split.val):
        raise ConfigError(
            "refit learns from training and validation images together, and there are no validation images. Leave "
            "out --refit: the head learns from all training images anyway. Or give --set split.validation=0.1"
        )
    try:
        _folds(recipe, images, _pool(split))
    except DataError as error:
        raise ConfigError(
            f"refit is evaluated by folds, and there can be none: {error} Or leave out --refit."
        ) from None


def evaluate_by_folds(
    setup: TrainingSetup, preparation: StageDataBuilder, state: TrainState, stop: StopSignal
) -> HeadFolds | None:
    """Predict training and validation images by folds, and with `refit` set the head to one solved on all of them.

    Class weights and logit adjustment are those of the training and validation images together. Without `refit`, all
    heads have the L2 strength of the run's head.

    Returns:
        None unless `solves_head_alone`, and without `refit` where there are many images, or inside of `left_out`.

    Raises:
        NotEnoughMemoryError: the features of the folds do not fit.
        StoppedError: asked to stop.
        LostRankError: another rank has ended.
    """
    recipe, images, pool_N = setup.recipe, setup.images, _pool(setup.split)
    automatic = len(pool_N) < MOST_IMAGES and not _left_out
    if not solves_head_alone(recipe) or not (recipe.refit or automatic):
        return None
    began, stage = time.perf_counter(), recipe.stages[0]
    try:
        fold_N = current().from_main(lambda: _folds(recipe, images, pool_N))
    except DataError as error:
        logger.info(f"not evaluated by folds: {error}")
        return None
    solver = _solver(setup, preparation, stop, pool_N)
    found = solver.out_of_fold(fold_N, _strengths(recipe, stage, state), by_f1=recipe.monitor == MACRO_F1)
    folds = int(fold_N.max()) + 1
    logger.info(
        f"{counted(folds, 'fold')}: {counted(len(pool_N), 'image')} predicted by heads that learned without them, in "
        f"{time.perf_counter() - began:.1f} s."
    )
    if recipe.refit:
        solver.solve([found.strength])
        logger.info(
            f"refit: the head learned from {counted(len(pool_N), 'training and validation image')}, at L2 strength "
            f"{rounded(found.strength)}, the best of the folds."
        )
    return HeadFolds(
        rows_N=pool_N,
        logits_NK=found.logits_NK,
        folds=folds,
        learned=round(len(pool_N) * (1 - 1 / folds)),
        strength=found.strength,
        refit=recipe.refit,
        seconds=round(time.perf_counter() - began, 3),
    )


def _pool(split: Split) -> Ints:
    """Rows of the training and validation images."""
    return np.sort(np.concatenate([split.train, split.val]))


def _folds(recipe: Recipe, images: Images, pool_N: Ints) -> Ints:
    return as_many_as_fit(images.table, images.content, pool_N, seed=recipe.split_seed, group=recipe.split.group)


def _strengths(recipe: ResolvedRecipe, stage: ResolvedStage, state: TrainState) -> list[float] | None:
    """L2 strengths that the folds try: that of the run's head; for a refit, those of its recipe."""
    if not recipe.refit:
        return [float(state.history[kept_epoch(recipe, state) - 1]["l2_strength"])]
    return None if stage.epochs == "auto" else [stage.l2_strength(number) for number in range(stage.epochs)]


def _solver(setup: TrainingSetup, preparation: StageDataBuilder, stop: StopSignal, pool_N: Ints) -> Solver:
    """Solver of the head on the features of these rows."""
    recipe, device, model = setup.recipe, setup.compute.device, setup.model
    whole, ranks = replace(setup.split, train=pool_N, val=setup.split.val[:0]), current()
    if recipe.refit:  # without it there are few images
        ranks.together(lambda: _check_memory(len(pool_N), logits_layer(model).in_features))
    assert preparation.latest
    train_step = TrainStep(
        model,
        recipe.stages[0],
        preparation.latest.augmenter,
        setup.compute,
        class_weights(recipe, setup.images, whole, device),
        preparation.latest.first,
        ranks,
        log_prior(recipe, setup.images, whole, device),
    )
    return Solver(train_step, preparation.latest, pool_N, 0, Agreement(ranks, stop))


def _check_memory(images: int, features: int) -> None:
    """Check that the features of all images and of all folds fit in memory."""
    needed, free = (USUAL_FOLDS + 1) * 4 * images * features, free_bytes()
    if needed > free:
        raise NotEnoughMemoryError(
            f"the folds of {counted(images, 'training and validation image')} need about {size_text(needed)} of "
            f"memory, and {size_text(free)} are free. Train without --refit."
        )
