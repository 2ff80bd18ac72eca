"""What a comparison is about to do: its candidates, each resolved for these images, and what they will take."""

import math
from collections.abc import Sequence
from pathlib import Path

from loupe.comparison import sweep
from loupe.comparison.candidates import Entry, Training, trainings
from loupe.comparison.cost import Planner, total
from loupe.comparison.request import ComparisonRequest
from loupe.config import overrides
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe, SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import typical_px
from loupe.data.splits import split as splits
from loupe.devices import choose_device, give_back_memory, keep_freed_memory
from loupe.errors import ConfigError, LoupeError, enough_memory
from loupe.evaluate.comparison_results import Cost
from loupe.log import duration, logger, progress_bar, size_text, terminal
from loupe.models.pretrained import check_weights
from loupe.recipes import catalog
from loupe.recipes.choice import without_weights
from loupe.recipes.ladder import ladder
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def resolved(dataset: Dataset, request: ComparisonRequest) -> list[Entry]:
    """The candidates, each resolved for these images, all with one and the same split."""
    names, model, weights = request.recipes, request.model, request.weights
    if not names:
        own, side = dataset.default_recipe, typical_px(dataset.table)
        rungs, reason = ladder(dataset_recipe=own, typical_px=side, model=model, weights=weights)
        names = tuple(rungs)
        logger.info(f"Candidates {reason}. Others: --recipes")
    split = SplitSpec(seed=0)
    entries: list[Entry] = []
    for name in names:
        wanted = overrides.load(Path(name)) if Path(name).suffix in {".yaml", ".yml"} else catalog.recipe(name)
        pretrained = _pretrained(wanted)
        with terminal(quiet=True):
            recipe = resolve(
                wanted.model_copy(update={"split": split}),
                dataset,
                model=model if pretrained else None,
                weights=weights if pretrained else None,
                flags={},
                extra=request.settings,
            )
        if wanted.split != SplitSpec():
            logger.info(f"{recipe.name}: its own split gives way to one for all; --set split.KEY=VALUE changes that.")
        if recipe.name in {entry.name for entry in entries}:
            raise ConfigError(f"two recipes are called {recipe.name}: give one of them another name.")
        check_buildable(recipe, dataset.table.classes)
        _check_weights(recipe)
        entries.append(Entry(recipe.name, recipe, asked=name))
    if (model or weights not in {None, "none"}) and not any(_pretrained(entry.recipe) for entry in entries):
        raise ConfigError(
            f"{'--model' if model else '--weights'} is for recipes that start from a pretrained network, and none of "
            f"{', '.join(entry.name for entry in entries)} does. Leave it out, or name such recipes with --recipes."
        )
    return entries


def _pretrained(recipe: Recipe) -> bool:
    return isinstance(recipe.model, BackboneSpec)


def _check_weights(recipe: ResolvedRecipe) -> None:
    """Weights that cannot be had, or are another network's, are refused now, and not after the candidates before."""
    if not isinstance(recipe.model, BackboneSpec):
        return
    named = recipe.model.weights
    if named == "timm" and (problem := without_weights(recipe.model.backbone)):
        raise ConfigError(f"{recipe.name} cannot be compared: {problem}")
    if named not in {"none", "timm"}:
        check_weights(recipe.model)


def plan(entries: list[Entry], dataset: Dataset, request: ComparisonRequest, options: RunOptions) -> None:
    """Estimate the cost of each candidate, from finished runs or a few timed batches, and sort them by it."""
    recipe = entries[0].recipe
    parts = splits.assign(dataset.table, dataset.hashes, recipe.split, recipe.split_seed)
    for note in parts.notes:
        logger.info(note)
    if not len(parts.val):
        raise ConfigError("recipes are judged on validation images, and there are none. Set split.validation above 0.")
    keep_freed_memory()  # as every training does: time and memory are other ones without it
    planner = Planner(dataset.table, parts, choose_device(options.device))
    for entry in entries:
        done = _done(dataset, trainings(entry, dataset, request), options)
        entry.missing = request.trainings_each - len(done)
        if not entry.missing:
            seconds = Entry(entry.name, entry.recipe, runs=done).seconds
            entry.cost = None if seconds is None else Cost(seconds, 0, None)
            planner.leaves(entry.recipe)
    untimed = [entry for entry in entries if entry.missing]
    with progress_bar() as progress:
        bar = progress.add_task("timing a few batches", total=len(untimed), note="")
        for entry in untimed:
            with enough_memory(f"{entry.name} needs it: take a smaller batch or input.size_px, or another --device."):
                entry.cost = planner.cost(entry.recipe)
            progress.update(bar, advance=1)
    give_back_memory()
    entries.sort(key=lambda entry: entry.cost.seconds if entry.cost else math.inf)
    logger.info(f"\nThe plan, in order of cost; {_in_all(entries, request.trainings_each)}:")
    for entry in entries:
        logger.info(f"  {entry.name:<24}{entry.expected}")


def _done(dataset: Dataset, wanted: Sequence[Training], options: RunOptions) -> list[Run]:
    """The trainings that are finished; none where a run is another's, which its turn will say."""
    try:
        found = [sweep.found(dataset, one.recipe, one.name, options) for one in wanted]
    except LoupeError:
        return []
    return [run for run in found if run is not None]


def _in_all(entries: Sequence[Entry], each: int) -> str:
    """What is to be done still, in words."""
    missing = sum(entry.missing for entry in entries)
    if not missing:
        return "all is trained"
    costs = [(entry.missing, entry.cost) for entry in entries if entry.missing and entry.cost]
    every = total(cost for _, cost in costs)
    seconds = sum(number * cost.seconds for number, cost in costs)
    there = f", of which {each * len(entries) - missing} are there" if missing < each * len(entries) else ""
    held = f", at least {size_text(every.memory_bytes)} of memory" if every.memory_bytes else ""
    return (
        f"{each} {'training' if each == 1 else 'trainings'} of each{there}, in all about {duration(seconds)}, "
        f"{size_text(every.disk_bytes)} of disk{held}"
    )
