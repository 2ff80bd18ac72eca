"""The candidates of a comparison: which recipes, in which order, on which split, and their runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loupe import settings, sweep
from loupe.architecture import BackboneSpec
from loupe.console import Console, duration
from loupe.data import catalog as datasets
from loupe.data import split as splits
from loupe.data.content import content_hashes
from loupe.data.folds import fold
from loupe.data.pixel_file import size_text
from loupe.data.prepare import typical_px
from loupe.data.table import ImageTable
from loupe.errors import LoupeError
from loupe.plan import Cost, Planner, total
from loupe.recipe import Recipe, SplitSpec
from loupe.recipes import catalog
from loupe.recipes.ladder import ladder
from loupe.recipes.resolve import resolve
from loupe.runtime import choose_device
from loupe.session import check_buildable
from loupe.trained import Run

FOLD = re.compile(r"-fold\d+of\d+$")


@dataclass
class Entry:
    """One candidate: its recipe, what it was expected to take, its runs, and why it has none where it failed.

    `asked` is the word that named its recipe, where one did.
    """

    name: str
    recipe: Recipe
    cost: Cost | None = None
    runs: list[Run] = field(default_factory=list)
    why: str | None = None
    asked: str | None = None

    @property
    def seconds(self) -> float:
        """What one training takes by itself: without the loading of images, and with what it found in the cache."""
        return float(np.mean([_alone(run.results["seconds"]) for run in self.runs]))

    @property
    def has_folds(self) -> bool:
        return len(self.runs) > 1 and all(FOLD.search(run.directory.name) for run in self.runs)

    @property
    def expected(self) -> str:
        """What it was expected to take, in words."""
        if self.cost is None:
            return ""
        kept = f", {size_text(self.cost.disk_bytes)} of activations kept" if self.cost.disk_bytes else ""
        return f"about {duration(self.cost.seconds)}{kept}"


def _alone(seconds: Mapping[str, float]) -> float:
    found = seconds.get("frozen", 0.0)
    return seconds["total"] - seconds["load"] + seconds.get("frozen_alone", found) - found


def resolved(
    table: ImageTable,
    data: Any,
    names: Sequence[str],
    model: str | None,
    weights: str | None,
    changes: Sequence[str],
    console: Console,
) -> list[Entry]:
    """The candidates, each resolved for these images, all with one and the same split."""
    dataset = data if isinstance(data, str) and data in datasets.DATASETS else None
    if not names:
        own = datasets.DATASETS[dataset].default_recipe if dataset else None
        names, reason = ladder(dataset_recipe=own, typical_px=typical_px(table), model=model, weights=weights)
        console.say(f"Candidates {reason}. Others: --recipes")
    split = SplitSpec(seed=0)
    entries: list[Entry] = []
    for name in names:
        wanted = settings.load(Path(name)) if Path(name).suffix in {".yaml", ".yml"} else catalog.recipe(name)
        pretrained = _pretrained(wanted)
        recipe = resolve(
            wanted.model_copy(update={"split": split}),
            table,
            dataset=dataset,
            model=model if pretrained else None,
            weights=weights if pretrained else None,
            flags={},
            extra=changes,
            console=Console(quiet=True),
        )
        if wanted.split != SplitSpec():
            console.say(f"{recipe.name}: its own split gives way to one for all; --set split.KEY=VALUE changes that.")
        if recipe.name in {entry.name for entry in entries}:
            raise LoupeError(f"two recipes are called {recipe.name}: give one of them another name.")
        check_buildable(recipe, table.classes)
        _check_weights(recipe)
        entries.append(Entry(recipe.name, recipe, asked=name))
    if (model or weights not in {None, "none"}) and not any(_pretrained(entry.recipe) for entry in entries):
        raise LoupeError(
            f"{'--model' if model else '--weights'} is for recipes that start from a pretrained network, and none of "
            f"{', '.join(entry.name for entry in entries)} does. Leave it out, or name such recipes with --recipes."
        )
    return entries


def _pretrained(recipe: Recipe) -> bool:
    return isinstance(recipe.model, BackboneSpec)


def _check_weights(recipe: Recipe) -> None:
    """A file that is not there is refused now, and not after the candidates before it."""
    if not isinstance(recipe.model, BackboneSpec):
        return
    named = recipe.model.weights
    if named not in {"none", "timm"} and not named.startswith("hf-hub:"):
        path = Path(named.removeprefix("local-dir:"))
        if not path.exists():
            raise LoupeError(f"--weights {named}: there is no such file or folder.")


def plan(entries: list[Entry], table: ImageTable, device: str, trainings: int, console: Console) -> None:
    """Times a few batches of each, puts them in order of cost, and says what all will take."""
    recipe = entries[0].recipe
    parts = splits.assign(table, content_hashes(table, console), recipe.split, recipe.split_seed)
    for note in parts.notes:
        console.say(note)
    if not len(parts.val):
        raise LoupeError("recipes are judged on validation images, and there are none. Set split.validation above 0.")
    planner = Planner(table, parts, choose_device(device))
    with console.progress() as progress:
        bar = progress.add_task("timing a few batches", total=len(entries), note="")
        for entry in entries:
            entry.cost = planner.cost(entry.recipe)
            progress.update(bar, advance=1)
    entries.sort(key=lambda entry: entry.cost.seconds if entry.cost else 0.0)
    every = total(entry.cost for entry in entries if entry.cost)
    held = f", {size_text(every.memory_bytes)} of memory held while timing" if every.memory_bytes else ""
    console.say(
        f"\nThe plan, in order of cost; {trainings} {'training' if trainings == 1 else 'trainings'} of each, in all "
        f"about {duration(every.seconds * trainings)}, {size_text(every.disk_bytes)} of disk{held}:"
    )
    for entry in entries:
        console.say(f"  {entry.name:<24}{entry.expected}")


def runs_of(
    entry: Entry,
    data: Any,
    table: ImageTable,
    seeds: int,
    folds: int,
    output: Path,
    device: str,
    skip_damaged: bool,
    quiet: bool,
) -> list[Run]:
    """The finished runs of a candidate, with the test locked."""
    finished = partial(
        sweep.finished, data, output=output, device=device, skip_damaged=skip_damaged, open_test=False, quiet=quiet
    )
    stem = f"{table.name}-{entry.name}"
    if folds:
        return [
            finished(
                entry.recipe,
                name=f"{stem}-fold{number}of{folds}",
                split=partial(fold, number=number, folds=folds),
            )
            for number in range(1, folds + 1)
        ]
    first = entry.recipe.seed
    return [
        finished(entry.recipe.model_copy(update={"seed": seed}), name=f"{stem}-seed{seed}")
        for seed in range(first, first + seeds)
    ]


def _without_seed(recipe: Recipe) -> Recipe:
    """What trainings of one recipe share: not the seed, nor what each settled from its own images and timings."""
    pixels = recipe.input
    if pixels.normalise in {"dataset", "channels"}:
        pixels = pixels.model_copy(update={"mean": None, "std": None})
    return recipe.model_copy(update={"seed": 0, "precision": "auto", "input": pixels})


def grouped(runs: Sequence[Run]) -> list[Entry]:
    """Runs of one recipe, seeds apart, are one candidate; a recipe's name that two share is told apart by the run's."""
    entries: list[Entry] = []
    for run in runs:
        recipe = _without_seed(run.recipe)
        mine = next((entry for entry in entries if entry.recipe == recipe), None)
        if mine:
            mine.runs.append(run)
        else:
            entries.append(Entry(recipe.name, recipe, runs=[run]))
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            entry.name = entry.runs[0].directory.name
    return sorted(entries, key=lambda entry: entry.seconds)
