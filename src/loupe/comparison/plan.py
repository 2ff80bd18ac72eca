"""Plan of a comparison: candidates resolved for the images, with their expected cost."""

import math
from collections.abc import Sequence
from typing import Literal

from loupe.comparison.candidates import Entry, trainings
from loupe.comparison.cost import Planner, total
from loupe.comparison.request import ComparisonRequest, argument_of
from loupe.comparison.trainings import Training
from loupe.config.network import BackboneSpec, BlendSpec, is_random
from loupe.config.recipe import Recipe, SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import typical_px
from loupe.data.splits import split as splits
from loupe.devices import choose_device, give_back_memory, keep_freed_memory
from loupe.errors import ConfigError, LoupeError, counted, enumerated, memory_remedy, sentences
from loupe.evaluate.comparison_results import Cost
from loupe.log import duration, logger, progress_bar, size_text, terminal
from loupe.models import parent
from loupe.models.pretrained import check_weights
from loupe.recipes import catalog
from loupe.recipes.choice import weights_problem
from loupe.recipes.ladder import ladder
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def resolve_candidates(dataset: Dataset, request: ComparisonRequest) -> list[Entry]:
    """Resolve the recipes of a request for the images, all with the same split.

    Raises:
        ConfigError: an unknown recipe or setting, a duplicate name, or weights that are missing or do not fit.
    """
    wanted, model, weights = request.recipes, request.model, request.weights
    if not wanted:
        own, side = dataset.default_recipe, typical_px(dataset.table)
        trained = None if weights is None else parent.find(weights)
        rungs, reason = ladder(
            dataset_recipe=own,
            typical_px=side,
            model=model,
            weights=weights,
            trained=None if trained is None else trained.network.name,
        )
        wanted = tuple(rungs)
        logger.info(f"{sentences(reason)} To compare others: --recipes NAME,NAME")
    split = SplitSpec(seed=0)
    entries: list[Entry] = []
    for one in wanted:
        named = catalog.named(one)
        pretrained = _pretrained(named)
        with terminal(quiet=True):
            recipe = resolve(
                named.model_copy(update={"split": split}),
                dataset,
                model=model if pretrained else None,
                weights=weights if pretrained else None,
                flags={},
                extra=request.settings,
            )
        if named.split != SplitSpec():
            logger.info(
                f"{recipe.name}: its own split settings are not used, because all candidates share one split. To "
                "change the shared split: --set split.KEY=VALUE"
            )
        if recipe.name in {entry.name for entry in entries}:
            raise ConfigError(f"two recipes have the name {recipe.name}. Change `name` in one of their files.")
        check_buildable(recipe, dataset.table.classes)
        if request.folds and recipe.refit:
            raise ConfigError(
                f"--folds validates on all images outside the test split, and so does refit in recipe {recipe.name}. "
                "Leave one of them out."
            )
        _check_weights(recipe)
        entries.append(Entry(recipe.name, recipe, recipe_argument=argument_of(one)))
    if (model or weights not in {None, "none"}) and not any(_pretrained(entry.recipe) for entry in entries):
        raise ConfigError(
            f"{'--model' if model else '--weights'} applies to recipes with a pretrained network, unlike "
            f"{enumerated([entry.name for entry in entries])}. Leave it out, or name such recipes with --recipes."
        )
    return entries


def _pretrained(recipe: Recipe) -> bool:
    return isinstance(recipe.model, BackboneSpec) or not is_random(recipe.model)


def _check_weights(recipe: ResolvedRecipe) -> None:
    """Check, before any training, that the pretrained weights of a recipe are available and fit its network."""
    if isinstance(recipe.model, BlendSpec):
        check_weights(recipe.model)
        return
    source = recipe.model.weights
    if source == "timm" and (problem := weights_problem(recipe.model.name)):
        raise ConfigError(f"{recipe.name} cannot be compared: {problem}")
    if source not in {"none", "timm"}:
        check_weights(recipe.model)


def estimate_costs(
    entries: list[Entry], dataset: Dataset, request: ComparisonRequest, options: RunOptions, processes: int = 1
) -> list[Entry]:
    """Estimate the cost of each candidate from finished runs or a few timed batches, and sort them by it.

    Args:
        processes: number of processes that share each training.

    Returns:
        The candidates, in order of cost.

    Raises:
        ConfigError: the split has no validation images.
        NotEnoughMemoryError: a candidate needs more memory than there is.
    """
    recipe = entries[0].recipe
    split = splits.assign(dataset.table, dataset.hashes, recipe.split, recipe.split_seed)
    for note in split.notes:
        logger.info(note)
    if not len(split.val):
        raise ConfigError(
            "candidates are compared on validation images, and there are none. Give --set split.validation=0.1"
        )
    keep_freed_memory()  # as in every training, because it affects time and memory
    planner = Planner(dataset.table, split, choose_device(options.device), processes)
    for entry in entries:
        done = _finished_runs(trainings(entry, dataset, request), options)
        entry.missing = request.trainings_each - len(done)
        if not entry.missing:
            seconds = Entry(entry.name, entry.recipe, runs=done).seconds
            entry.cost = None if seconds is None else Cost(seconds, 0, None)
            planner.add_finished(entry.recipe)
    untimed = [entry for entry in entries if entry.missing]
    with progress_bar() as progress:
        bar = progress.add_task("timing batches", total=len(untimed), note="")
        for entry in untimed:
            with memory_remedy(
                f"{entry.name} needs more: set a smaller batch_size or input.size_px, or another --device."
            ):
                entry.cost = planner.cost(entry.recipe)
            progress.update(bar, advance=1)
    give_back_memory()
    entries.sort(key=lambda entry: entry.cost.seconds if entry.cost else math.inf)
    total_of_all = total_text(entries, request.trainings_each)
    logger.info(f"\nCandidates in order of cost ({total_of_all[:1].lower()}{total_of_all[1:]}):")
    for entry in entries:
        logger.info(f"  {entry.name:<24}{entry.expected}")
    return entries


def _finished_runs(trainings: Sequence[Training], options: RunOptions) -> list[Run]:
    """Runs of the finished trainings; empty if a run is of other images, which is reported when it is trained."""
    try:
        runs = [one.finished(options) for one in trainings]
    except LoupeError:
        return []
    return [run for run in runs if run is not None]


def images_of(entries: Sequence[Entry], dataset: Dataset) -> dict[Literal["train", "val", "test"], int]:
    """Images of each split that the candidates share."""
    recipe = entries[0].recipe
    split = splits.assign(dataset.table, dataset.hashes, recipe.split, recipe.split_seed)
    return {"train": len(split.train), "val": len(split.val), "test": len(split.test)}


def total_text(entries: Sequence[Entry], each: int) -> str:
    """Trainings that are missing, and their cost in all, as text."""
    missing = sum(entry.missing for entry in entries)
    if not missing:
        return "All are trained"
    costs = [(entry.missing, entry.cost) for entry in entries if entry.missing and entry.cost]
    every = total(cost for _, cost in costs)
    seconds = sum(number * cost.seconds for number, cost in costs)
    finished = each * len(entries) - missing
    finished_text = f", {finished:,} of them finished" if finished else ""
    memory = f", at least {size_text(every.memory_bytes)} of memory" if every.memory_bytes else ""
    return (
        f"{counted(each, 'training')} each{finished_text}; in all about {duration(seconds)}, "
        f"{size_text(every.disk_bytes)} of disk space{memory}"
    )
