"""Candidates of a comparison: recipe, trainings, runs, and the measurements of the runs."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from loupe.comparison.request import ComparisonRequest
from loupe.comparison.trainings import Training
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.data.splits.folds import fold
from loupe.errors import RunStateError
from loupe.evaluate import metrics
from loupe.evaluate.comparison_results import CandidateFigures, CandidateRow, Cost, SplitFigures
from loupe.evaluate.history import over_runs
from loupe.evaluate.predictions import join, read_splits
from loupe.evaluate.results import Evaluation, stages_of
from loupe.evaluate.selection import Candidate
from loupe.evaluate.spread import accuracy_over_seeds, over_seeds
from loupe.log import duration, size_text
from loupe.recipes.training_summary import training_summary
from loupe.runs.run import Run

FOLD = re.compile(r"-fold\d+of\d+$")


@dataclass
class Entry:
    """One candidate.

    Attributes:
        name: unique in the comparison.
        recipe: resolved for the images.
        cost: expected cost of one training; None if unknown.
        runs: finished runs, one for each seed or fold.
        why: message of the error if a training failed.
        recipe_argument: name or file of the recipe as given by the user; None for runs that were given.
        missing: number of trainings that are not finished.
    """

    name: str
    recipe: ResolvedRecipe
    cost: Cost | None = None
    runs: list[Run] = field(default_factory=list)
    why: str | None = None
    recipe_argument: str | None = None
    missing: int = 0

    @property
    def seconds(self) -> float | None:
        """Mean time of one training: without loading images, with the time that cached activations once took.

        None if the time of cached activations is unknown.
        """
        each = [run.results.seconds.by_itself for run in self.runs]
        known = [seconds for seconds in each if seconds is not None]
        return float(np.mean(known)) if len(known) == len(each) else None

    @property
    def order(self) -> tuple[float, str]:
        """Sort key: time of a training, unknown times last; of equal ones the name, whatever a plan estimated."""
        return (math.inf if self.seconds is None else self.seconds), self.name

    @property
    def has_folds(self) -> bool:
        return len(self.runs) > 1 and all(FOLD.search(run.directory.name) for run in self.runs)

    @property
    def expected(self) -> str:
        """Expected cost as text."""
        if not self.missing:
            return f"already trained, in {duration(self.cost.seconds)}" if self.cost else "already trained"
        if self.cost is None:
            return ""
        kept = f", {size_text(self.cost.disk_bytes)} of cached activations" if self.cost.disk_bytes else ""
        return f"about {duration(self.cost.seconds)}{kept}"


def trainings(entry: Entry, dataset: Dataset, request: ComparisonRequest) -> list[Training]:
    """Trainings of a candidate without test images: one for each seed, all on the same split, or one for each fold."""
    stem, recipe, folds = f"{dataset.name}-{entry.name}", entry.recipe, request.folds
    seconds = entry.cost.seconds if entry.cost else math.nan
    if folds:
        return [
            Training(
                dataset,
                recipe,
                f"{stem}-fold{number}of{folds}",
                partial(fold, number=number, folds=folds),
                open_test=False,
                seconds=seconds,
            )
            for number in range(1, folds + 1)
        ]
    return [
        Training(
            dataset,
            recipe.model_copy(update={"seed": seed}),
            f"{stem}-seed{seed}",
            open_test=False,
            seconds=seconds,
        )
        for seed in range(recipe.seed, recipe.seed + request.seeds)
    ]


def _without_seed(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Recipe without its seed and without values that a run measures on its images or its machine."""
    pixels = recipe.input
    if pixels.normalise in {"dataset", "channels"}:
        pixels = pixels.model_copy(update={"mean": None, "std": None})
    return recipe.model_copy(update={"seed": 0, "precision": "auto", "frozen_precision": "auto", "input": pixels})


def group_by_recipe(runs: Sequence[Run]) -> list[Entry]:
    """Group runs that differ only in their seed into candidates.

    A candidate has the name of its recipe, or of its first run where two different recipes share a name.
    """
    entries: list[Entry] = []
    for run in runs:
        recipe = _without_seed(run.recipe)
        same_recipe = next((entry for entry in entries if entry.recipe == recipe), None)
        if same_recipe:
            same_recipe.runs.append(run)
        else:
            entries.append(Entry(recipe.name, recipe, runs=[run]))
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            entry.name = entry.runs[0].directory.name
    return sorted(entries, key=lambda entry: entry.order)


def candidate(entry: Entry, split: str) -> Candidate:
    """Predictions of all runs of a candidate for one split.

    Raises:
        RunStateError: a run has no predictions for that split.
    """
    predictions = []
    for run in entry.runs:
        stored = read_splits(run.directory.file("predictions.csv")).get(split)
        if stored is None:
            raise RunStateError(
                f"{run.path} has no predictions for the {split} split, by which candidates are compared. Compare "
                "other runs, or train it again."
            )
        predictions.append(stored)
    if entry.has_folds:
        predictions = [join(predictions)]  # each image was validated on in one fold
    return Candidate(entry.name, tuple(predictions), entry.seconds)


def row(entry: Entry, seen: Sequence[Entry], output: Path, before: CandidateRow | None = None) -> CandidateRow:
    """Row of a candidate in the results.

    Args:
        entry: candidate.
        seen: candidates with evaluated test images.
        output: folder of the results file, to which paths of runs are relative.
        before: earlier row of the candidate; its timings are kept if the runs are the same.
    """
    planned = CandidateRow(
        name=entry.name,
        settings=training_summary(entry.recipe),
        expected=entry.cost,
        why=entry.why,
        measured=None,
    )
    if not entry.runs:
        return planned
    figures = _measured(entry, seen, output, before.measured if before else None)
    kept = before is not None and before.measured is not None and before.measured.runs == figures.runs
    expected = before.expected if before and kept else entry.cost
    return planned.model_copy(update={"expected": expected, "measured": figures})


def _measured(entry: Entry, seen: Sequence[Entry], output: Path, before: CandidateFigures | None) -> CandidateFigures:
    results = [run.results for run in entry.runs]
    runs = tuple(_relative_path(run.path, output) for run in entry.runs)
    timed = before.images_per_second if before and before.runs == runs else None
    stages = over_runs([stages_of(run.directory, run.results) for run in entry.runs])
    weights = [run.directory.model / "weights.safetensors" for run in entry.runs]
    return CandidateFigures(
        runs=runs,
        seeds=tuple(result.seed for result in results),
        network=results[0].network or results[0].recipe,
        validation=split_figures(entry, "val", [result.validation for result in results if result.validation]),
        test=split_figures(entry, "test", [result.test for result in results if result.test])
        if entry in seen
        else None,
        parameters=results[0].parameters,
        epochs=float(np.mean([result.epochs for result in results])),
        stages=stages,
        seconds_per_epoch=float(np.median([result.seconds.epoch_mean or 0.0 for result in results]))
        if not stages or any(stage.epochs for stage in stages)
        else 0.0,
        seconds=entry.seconds,
        images_per_second=entry.runs[0].images_per_second() if timed is None else timed,
        bytes=weights[0].stat().st_size,
        diagnosis=results[0].diagnosis.text if results[0].diagnosis else None,
    )


def split_figures(entry: Entry, split: str, blocks: Sequence[Evaluation]) -> SplitFigures:
    """Means over seeds; with folds, the metrics of all images together, and the range over folds."""
    keys = [metric.key for metric in metrics.headlines() if metric.key != "accuracy"]
    spread = {key: over_seeds([block.metric(key) for block in blocks]) for key in keys}
    accuracy = accuracy_over_seeds(blocks)
    if not entry.has_folds:
        return SplitFigures(images=blocks[0].images, accuracy=accuracy, **spread)
    [together] = candidate(entry, split).predictions
    joint = metrics.evaluate(together)
    return SplitFigures(
        images=len(together),
        accuracy=accuracy.model_copy(update=joint.accuracy.to_json()),
        **{key: spread[key].model_copy(update=joint.metric(key).to_json()) for key in keys},
    )


def _relative_path(run: Path, folder: Path) -> str:
    """Path of a run relative to the folder of the results; absolute on another drive."""
    try:
        return Path(os.path.relpath(run, folder)).as_posix()
    except ValueError:  # another drive
        return run.resolve().as_posix()
