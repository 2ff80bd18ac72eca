"""Many runs: each is trained once, resumed where it was interrupted, and read where it is finished."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loupe import provenance
from loupe.config import overrides as keys
from loupe.config.recipe import Recipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.splits import split as splits
from loupe.data.splits.folds import fold
from loupe.errors import RunStateError
from loupe.evaluate.metrics import headlines
from loupe.evaluate.results import results_file, results_of
from loupe.log import terminal
from loupe.recipes.resolve import resolve
from loupe.rundir import RunDirectory
from loupe.runs import train as runner
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def found(dataset: Dataset, recipe: Recipe, name: str, options: RunOptions) -> Run | None:
    """The run of that name and recipe where it is finished; else None.

    Raises:
        LoupeError: a run of that name has another recipe, other data or other images.
    """
    directory = RunDirectory(options.output / name)
    if not directory.file("recipe.yaml").is_file():
        return None
    _check_same(directory, recipe, dataset)
    if not results_file(directory).is_file():
        return None
    return Run(directory, device=options.device, quiet=options.quiet)


def finished(
    dataset: Dataset,
    recipe: Recipe,
    name: str,
    options: RunOptions,
    *,
    split: runner.Splitter = splits.assign,
    open_test: bool = True,
) -> Run:
    """The finished run of that name and recipe; whatever is missing of it is done now.

    Args:
        split, open_test: as for `loupe.train`, where the run is begun now.

    Raises:
        LoupeError: a run of that name has another recipe, other data or other images, and is left as it is.
        InterruptedRunError: stopped; the same call goes on.
    """
    if run := found(dataset, recipe, name, options):
        return run
    device, quiet = options.device, options.quiet
    directory = RunDirectory(options.output / name)
    if directory.file("recipe.yaml").is_file():
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
    """A run is used again only for what it was made for. One that is not finished checks its images as it goes on."""
    other = keys.differences(wanted, _as_asked(directory.read_recipe(), wanted))
    what = f"another recipe ({', '.join(other[:3])})" if other else None
    if not what and dataset.source != provenance.environment_of(directory).data:
        what = "other data"
    results = results_of(directory)
    if not what and results and not provenance.made_of(directory, dataset.table, dataset.hashes, results.damaged):
        what = "other images than there are now"
    if what:
        raise RunStateError(
            f"{directory.path} was made with {what}, so that it cannot be used here. Choose another --output, or move "
            "that run away."
        )


def _as_asked(stored: Recipe, wanted: Recipe) -> Recipe:
    """The stored recipe with what its run settled left open again, where the wanted one leaves it open."""
    fields = ("size_px", "load_px", "resize", "interpolation", "normalise", "mean", "std")
    unsettled = {field: None for field in fields if getattr(wanted.input, field) is None}
    changes: dict[str, Any] = {"input": stored.input.model_copy(update=unsettled), "description": wanted.description}
    if len(stored.stages) == len(wanted.stages):
        pairs = zip(stored.stages, wanted.stages, strict=True)
        changes["stages"] = tuple(
            mine.model_copy(update={"views": "auto"}) if asked.views == "auto" else mine for mine, asked in pairs
        )
    changes |= {field: "auto" for field in ("precision", "frozen_precision") if getattr(wanted, field) == "auto"}
    return stored.model_copy(update=changes)


@dataclass(frozen=True)
class CrossValidation:
    """K runs, each validated on the images that the others trained on.

    Attributes:
        runs: one for each fold.
        metrics: for each headline metric, its value in each fold.
    """

    runs: tuple[Run, ...]
    metrics: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str = "accuracy") -> float:
        return statistics.fmean(self.metrics[metric])

    def deviation(self, metric: str = "accuracy") -> float:
        """The standard deviation over the folds. Folds share training images, so that it is no standard error."""
        return statistics.stdev(self.metrics[metric])

    def __str__(self) -> str:
        return "\n".join(
            f"{name:<10} {self.mean(name):.4f} ± {self.deviation(name):.4f}   "
            f"({min(values):.4f} to {max(values):.4f} over {len(values)} folds)"
            for name, values in self.metrics.items()
        )


def cross_validate(
    data: Any,
    *,
    recipe: str | Path | Recipe | None = None,
    folds: int = 5,
    settings: Mapping[str, Any] | Sequence[str] = (),
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    quiet: bool = False,
) -> CrossValidation:
    """Trains a recipe on each choice of all folds but one, and validates it on that one.

    Folds are stratified by class; copies and groups stay together. A test split is left out and never looked at. The
    same call again reads the folds that are finished and goes on with the others.

    Args:
        data, recipe, settings, device, output: as for `loupe.train`.
        folds: how many.
        name: of the runs, which become NAME-fold1 and so on; None takes the data's and the recipe's.

    Raises:
        LoupeError: as for `loupe.train`, or too few images of a class.
        InterruptedRunError: stopped; the same call goes on.
    """
    with terminal(quiet=quiet):
        dataset, options = open_dataset(data), RunOptions(Path(output), device, quiet=quiet)
        chosen = resolve(recipe, dataset, model=None, flags={}, extra=settings)
        stem = name or f"{dataset.name}-{chosen.name}"
        runs = tuple(
            finished(
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
