"""Confirmation of a search: the best settings against the recipe's own, on other seeds than those of the search.

The score of the best trial is the highest of many, partly by luck, so it is no evidence (the winner's curse). Both
settings are trained anew with seeds that the search has not used, and compared in pairs on the same validation images.
Other seeds take away the luck of the training. The validation images are those that the settings were chosen on, so
some of the gain can still be theirs; the test images, evaluated once, for the chosen settings, tell.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loupe.comparison.sweep import train_or_open
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.errors import counted
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.paired import Candidate, Difference, paired_difference
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.evaluate.selection import SIGNIFICANCE, can_tell
from loupe.evaluate.tune_results import Confirmation, TestFigures, Verdict
from loupe.log import logger
from loupe.runs import finalize
from loupe.runs.options import RunOptions
from loupe.runs.run import Run

MOST_NEEDED = 1_000_000  # validation images that are still named as a remedy


@dataclass(frozen=True)
class Pair:
    """Runs of one seed."""

    seed: int
    defaults: Run
    best: Run


def confirm(
    dataset: Dataset,
    recipes: tuple[ResolvedRecipe, ResolvedRecipe],
    names: tuple[str, str],
    seeds: Sequence[int],
    options: RunOptions,
    go_on: Callable[[int], bool],
) -> list[Pair]:
    """Runs of the recipe's own values and of the best settings for each seed, without test images.

    Finished runs are read and interrupted ones resumed.

    Args:
        recipes: the recipe with its own values, and with the best settings.
        names: beginnings of the names of their runs.
        go_on: function of the number of finished pairs; False if there is no time for another.

    Raises:
        InterruptedRunError: stopped and saved.
        LoupeError: as for `loupe.train`.
    """
    pairs: list[Pair] = []
    for seed in seeds:
        if not go_on(len(pairs)):
            break
        logger.info(f"Confirmation {len(pairs) + 1} of {len(seeds)}: the recipe's own values and the best, seed {seed}")
        runs = [
            train_or_open(
                dataset,
                recipe.model_copy(update={"seed": seed}),
                f"{name}-seed{seed}",
                options,
                open_test=False,
            )
            for name, recipe in zip(names, recipes, strict=True)
        ]
        pairs.append(Pair(seed, *runs))
    return pairs


def measured(pairs: Sequence[Pair]) -> tuple[Confirmation, Difference]:
    """Figures of the pairs, and the paired difference of their hits on the validation images."""
    defaults, best = (
        Candidate(name, tuple(_validation(run) for run in runs), None)
        for name, runs in (("defaults", [one.defaults for one in pairs]), ("best", [one.best for one in pairs]))
    )
    difference = paired_difference(defaults, best)
    return Confirmation(
        seeds=tuple(one.seed for one in pairs),
        defaults=tuple(_accuracy(one.defaults) for one in pairs),
        best=tuple(_accuracy(one.best) for one in pairs),
        gain=Estimate(value=difference.value, low=difference.low, high=difference.high),
        p=difference.p,
        images=difference.images,
        default_runs=tuple(one.defaults.directory.name for one in pairs),
        best_runs=tuple(one.best.directory.name for one in pairs),
    ), difference


def judge(figures: Confirmation, difference: Difference) -> tuple[Verdict, str]:
    """Verdict on the best settings against the recipe's own, and the sentences that say it."""
    seeds = counted(len(figures.seeds), "other seed")
    gain = (
        f"{points(difference.value)} points ({points(difference.low)} to {points(difference.high)}) of validation "
        f"accuracy on {counted(difference.images, 'image')} and {seeds}"
    )
    overlap = (
        ""
        if min(figures.best) > max(figures.defaults) or max(figures.best) < min(figures.defaults)
        else (" The seeds of the two overlap.")
    )
    if difference.p < SIGNIFICANCE and difference.value:
        if difference.value > 0:
            return "better", f"The best settings are better than the recipe's own: {gain}.{overlap}"
        return "worse", f"The best settings are worse than the recipe's own on other seeds: {gain}.{overlap}"
    remedy = _remedy(difference)
    return "undecided", f"Whether the best settings are better than the recipe's own cannot be told: {gain}. {remedy}"


def _remedy(difference: Difference) -> str:
    """Sentence on what would tell: images, by the width of the interval; or none."""
    images = difference.images
    if not can_tell(images, 2):
        return f"{counted(images, 'validation image')} can show no difference at all; more would."
    half = (difference.high - difference.low) / 2
    needed = math.ceil(images * (half / abs(difference.value)) ** 2) if difference.value else MOST_NEEDED
    if images < needed < MOST_NEEDED:
        return f"A difference of this size takes about {float(f'{needed:.1g}'):,.0f} validation images."
    if needed <= images:
        return "A few more validation images would tell."
    return "A difference this small needs more validation images than it is worth."


def points(fraction: float) -> str:
    """Difference in percentage points, with a sign unless it rounds to zero."""
    text = f"{100 * fraction:+.1f}"
    return text if float(text) else text[1:]


def with_weights(run: Run, dataset: Dataset, options: RunOptions) -> Run:
    """The run; trained again where its weights were removed because other settings had been chosen."""
    if (run.directory.model / "weights.safetensors").is_file():
        return run
    recipe, name = run.recipe, run.directory.name
    shutil.rmtree(run.path)
    return train_or_open(dataset, recipe, name, options, open_test=False)


def evaluate_test(run: Run, dataset: Dataset) -> TestFigures | None:
    """Evaluation of the test images of one run, of the chosen settings; None without test images."""
    if not run.results.images.test:
        return None
    opened = finalize.open_test(run, dataset)
    test = opened.results.test
    assert test is not None
    accuracy = Estimate(value=test.accuracy.value, low=test.accuracy.low, high=test.accuracy.high)
    return TestFigures(
        run=run.directory.name, accuracy=accuracy, images=test.images, looks=opened.results.test_looks or 0
    )


def drop_weights(runs: Sequence[Run]) -> None:
    """Remove weights and checkpoints of runs that were not chosen; their figures and predictions stay."""
    for run in runs:
        for folder in (run.directory.checkpoints, run.directory.model):
            shutil.rmtree(folder, ignore_errors=True)


def _validation(run: Run) -> Predictions:
    return read_splits(run.directory.file("predictions.csv"))["val"]


def _accuracy(run: Run) -> float:
    evaluation = run.results.validation
    assert evaluation is not None and evaluation.accuracy.value is not None
    return evaluation.accuracy.value
