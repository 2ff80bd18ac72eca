"""The candidates of a comparison: which recipes, in which order, on which split, their runs, and what these give."""

import os
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
from loupe.evaluate import metrics
from loupe.evaluate.compare import Candidate
from loupe.evaluate.predictions import join, read_splits
from loupe.evaluate.spread import accuracy_over_seeds, over_seeds
from loupe.plan import Cost, Planner, total
from loupe.recipe import Recipe, SplitSpec
from loupe.recipes import catalog, wording
from loupe.recipes.choice import without_weights
from loupe.recipes.ladder import ladder
from loupe.recipes.resolve import resolve
from loupe.runtime import choose_device
from loupe.session import check_buildable
from loupe.trained import Run

SPREAD = ("macro_f1", "roc_auc", "log_loss", "ece")
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
    """Weights that cannot be had are refused now, and not after the candidates before."""
    if not isinstance(recipe.model, BackboneSpec):
        return
    named = recipe.model.weights
    if named == "timm" and (problem := without_weights(recipe.model.backbone)):
        raise LoupeError(f"{recipe.name} cannot be compared: {problem}")
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


def candidate(entry: Entry, split: str) -> Candidate:
    parts = [read_splits(run.directory.file("predictions.csv")).get(split) for run in entry.runs]
    predictions = [part for part in parts if part is not None]
    if len(predictions) < len(parts):
        raise LoupeError(f"{entry.name}: a run has no {split} images to judge it by.")
    if entry.has_folds:
        predictions = [join(predictions)]  # each image was validated on in one fold
    return Candidate(entry.name, tuple(predictions), entry.seconds)


def row(entry: Entry, seen: Sequence[Entry], output: Path) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": entry.name,
        "settings": wording.training(entry.recipe),
        "expected": entry.cost.to_json() if entry.cost else None,
        "why": entry.why,
        "measured": None,
    }
    if not entry.runs:
        return shown
    results = [run.results for run in entry.runs]
    weights = [run.directory.model / "weights.safetensors" for run in entry.runs]
    return shown | {
        "measured": {
            "runs": [_from(output, run.path) for run in entry.runs],
            "seeds": [result["seed"] for result in results],
            "network": results[0]["network"],
            "validation": _figures(entry, "val", [result["validation"] for result in results]),
            "test": _figures(entry, "test", [result["test"] for result in results]) if entry in seen else None,
            "parameters": results[0]["parameters"],
            "epochs": float(np.mean([result["epochs"] for result in results])),
            "seconds_per_epoch": float(np.median([result["seconds"]["epoch_mean"] for result in results])),
            "seconds": entry.seconds,
            "images_per_second": entry.runs[0].images_per_second(),
            "bytes": weights[0].stat().st_size,
            "diagnosis": (results[0]["diagnosis"] or {}).get("text"),
        }
    }


def _figures(entry: Entry, split: str, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; over folds, the figures of all images together, and the range of the folds."""
    spread = {key: over_seeds([block[key] for block in blocks]) for key in SPREAD}
    if not entry.has_folds:
        return {"images": blocks[0]["images"], "accuracy": accuracy_over_seeds(blocks), **spread}
    [together] = candidate(entry, split).predictions
    joint = metrics.evaluate(together)
    ends = over_seeds([block["accuracy"] for block in blocks])
    accuracy = {**joint["accuracy"], "lowest": ends["lowest"], "highest": ends["highest"]}
    return {"images": len(together), "accuracy": accuracy, **{key: {**spread[key], **joint[key]} for key in SPREAD}}


def _from(output: Path, run: Path) -> str:
    """Where a run lies, as seen from the page that names it."""
    try:
        return Path(os.path.relpath(run, output)).as_posix()
    except ValueError:  # another drive
        return run.resolve().as_posix()
