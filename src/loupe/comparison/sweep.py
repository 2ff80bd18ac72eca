"""Runs by name: trained once, resumed if interrupted, read if finished; and cross-validation."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from loupe import provenance
from loupe.config import overrides as keys
from loupe.config.recipe import PIXEL_DEFINITION, Recipe, Stage
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import split as splits
from loupe.data.splits.folds import fold
from loupe.errors import RunStateError, counted, enumerated
from loupe.evaluate.metrics import headlines
from loupe.evaluate.results import results_file, results_of
from loupe.log import terminal
from loupe.ranks import current
from loupe.recipes.resolve import resolve
from loupe.rundir import RunDirectory
from loupe.runs import folds as head_folds
from loupe.runs import teacher
from loupe.runs import train as runner
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def finished_run(dataset: Dataset, recipe: Recipe, name: str, options: RunOptions) -> Run | None:
    """Finished run of that name and recipe; None if it is missing or unfinished.

    Raises:
        RunStateError: a run of that name has another recipe, other data or other images.
    """
    directory = RunDirectory(options.output / name)
    return _open(directory, options) if _is_finished(directory, recipe, dataset) else None


def _is_finished(directory: RunDirectory, recipe: Recipe, dataset: Dataset) -> bool:
    """True for a finished run of that recipe.

    Raises:
        RunStateError: it has another recipe, other data or other images.
    """
    if not directory.file("recipe.yaml").is_file():
        return False
    _check_same(directory, recipe, dataset)
    return results_file(directory).is_file()


def _open(directory: RunDirectory, options: RunOptions) -> Run:
    return Run(directory, device=options.device, quiet=options.quiet)


def train_or_open(
    dataset: Dataset,
    recipe: Recipe,
    name: str,
    options: RunOptions,
    *,
    split: runner.Splitter = splits.assign,
    open_test: bool = True,
) -> Run:
    """Open the run of that name if it is finished; else train it, or resume it where it was interrupted.

    Of several ranks, rank 0 looks which of these it is.

    Args:
        split, open_test: as for `loupe.train`, for a new run.

    Raises:
        RunStateError: a run of that name has another recipe, other data or other images. It is left as it is.
        InterruptedRunError: stopped and saved; the same call resumes.
    """
    device, quiet = options.device, options.quiet
    directory = RunDirectory(options.output / name)
    dataset.compute_hashes()
    finished, begun = current().from_main(
        lambda: (_is_finished(directory, recipe, dataset), directory.file("recipe.yaml").is_file())
    )
    if finished:
        return _open(directory, options)
    with head_folds.left_out():
        if begun:
            return runner.resume(directory.path, dataset, device=device, open_test=open_test, quiet=quiet)
        return runner.train(
            dataset,
            recipe=recipe,
            split=split,
            device=device,
            output=options.output,
            name=name,
            skip_damaged=options.skip_damaged,
            open_test=open_test,
            quiet=quiet,
        )


def _check_same(directory: RunDirectory, wanted: Recipe, dataset: Dataset) -> None:
    """Check that a run has this recipe, data and teacher and, if finished, these images; a resumed run checks its own.

    Raises:
        RunStateError: it differs in one of them.
    """
    other = keys.differences(wanted, _unsettled(directory.read_recipe(), wanted))
    difference = f"another recipe ({enumerated(other, most=3)})" if other else None
    environment = provenance.environment_of(directory)
    recorded = replace(environment.read_options(), follow_links=dataset.options.follow_links)  # the images are compared
    if not difference and (dataset.source, dataset.options) != (environment.data, recorded):
        difference = "other data"
    results = results_of(directory)
    if not difference and results and not provenance.made_of(directory, dataset.table, dataset.hashes, results.damaged):
        difference = "other images than there are now"
    if difference:
        raise RunStateError(
            f"{directory.path} was made with {difference}, so it cannot be used here. Choose another --output, or move "
            "that run away."
        )
    teacher.check_unchanged(wanted, directory)


def _unsettled(stored: Recipe, wanted: Recipe) -> Recipe:
    """Stored recipe without the values that its run measured, where the wanted recipe leaves them open."""
    fields = ("size_px", "load_px", "resize", "interpolation", "normalise", "mean", "std")
    unsettled: dict[str, Any] = {field: None for field in fields if getattr(wanted.input, field) is None}
    if wanted.input.range == "used":
        unsettled["range"] = "used"
    definition = stored.input.pixel_definition or 1
    is_newest = wanted.input.pixel_definition is None and definition == PIXEL_DEFINITION
    unsettled["pixel_definition"] = None if is_newest else definition
    changes: dict[str, Any] = {"input": stored.input.model_copy(update=unsettled), "description": wanted.description}
    if len(stored.stages) == len(wanted.stages):
        pairs = zip(stored.stages, wanted.stages, strict=True)
        changes["stages"] = tuple(_unsettled_stage(mine, theirs) for mine, theirs in pairs)
    if stored.keep == wanted.keeps:  # what `auto` means there; another rule keeps other weights
        changes["keep"] = wanted.keep
    left_open = ("precision", "frozen_precision", "shuffle_window")
    changes |= {field: "auto" for field in left_open if getattr(wanted, field) == "auto"}
    return stored.model_copy(update=changes)


def _unsettled_stage(stored: Stage, wanted: Stage) -> Stage:
    changes: dict[str, Any] = {"views": "auto"} if wanted.views == "auto" else {}
    if wanted.augment.is_open:
        flips = {"horizontal_flip": wanted.augment.horizontal_flip}
        changes["augment"] = stored.augment.model_copy(update=flips)
    return stored.model_copy(update=changes)


@dataclass(frozen=True)
class CrossValidation:
    """K runs, each validated on another fold.

    Attributes:
        runs: one run for each fold.
        metrics: value of each headline metric in each fold.
    """

    runs: tuple[Run, ...]
    metrics: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str = "accuracy") -> float:
        return statistics.fmean(self.metrics[metric])

    def deviation(self, metric: str = "accuracy") -> float:
        """Standard deviation over the folds; not a standard error, because folds share training images."""
        return statistics.stdev(self.metrics[metric])

    def __str__(self) -> str:
        return "\n".join(
            f"{name:<10} {self.mean(name):.4f} ± {self.deviation(name):.4f}   "
            f"({min(values):.4f} to {max(values):.4f} over {counted(len(values), 'fold')})"
            for name, values in self.metrics.items()
        )


def cross_validate(
    data: Any,
    *,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    recipe: str | Path | Recipe | None = None,
    folds: int = 5,
    settings: Mapping[str, Any] | Sequence[str] = (),
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    quiet: bool = False,
) -> CrossValidation:
    """Cross-validate a recipe: train on all folds but one, validate on that one, for each fold.

    Folds are stratified by class; copies and groups stay in one fold. A test split is not used. The same call again
    reads finished folds and trains the others.

    Args:
        data, columns, images, follow_links, recipe, settings, device, output: as for `loupe.train`.
        folds: number of folds.
        name: prefix of the names of the runs, NAME-fold1ofK and so on. Default: DATA-RECIPE.
        quiet: print nothing.

    Raises:
        LoupeError: as for `loupe.train`.
        DataError: a class has too few images.
        InterruptedRunError: stopped and saved; the same call resumes.
    """
    with terminal(quiet=quiet):
        dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links))
        options = RunOptions(Path(output), device, quiet=quiet)
        chosen = resolve(recipe, dataset, model=None, flags={}, extra=settings)
        stem = name or f"{dataset.name}-{chosen.name}"
        runs = tuple(
            train_or_open(
                dataset,
                chosen,
                f"{stem}-fold{number}of{folds}",
                options,
                split=partial(fold, number=number, folds=folds),
            )
            for number in range(1, folds + 1)
        )
    blocks = [run.results.validation for run in runs]
    measured = {
        metric.key: tuple(block.metric(metric.key).value for block in blocks if block) for metric in headlines()
    }
    known = {key: tuple(value for value in values if value is not None) for key, values in measured.items()}
    return CrossValidation(runs, {key: values for key, values in known.items() if len(values) == len(runs)})
