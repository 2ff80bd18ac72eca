"""Runs, recipes, networks and cached files as tables in the terminal, on standard output."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from loupe.cache import KINDS, CacheEntry
from loupe.cli.cells import estimate, plain, without_interval
from loupe.config.recipe import Recipe
from loupe.config.size import Size
from loupe.errors import LoupeError, counted
from loupe.evaluate.results import RunResults, results_of, stages_of
from loupe.log import console, size_text
from loupe.models.at_hand import WeightsAtHand
from loupe.models.catalog import NETWORKS
from loupe.models.names import ModelName
from loupe.report import texts
from loupe.rundir import RunDirectory, count_looks

REFIT = ", refit"
STRENGTHS = "L2: strengths of the L2 penalty that a solved head is tried with. It has no epochs."


def print_runs(runs: Sequence[RunDirectory], folder: Path) -> None:
    """Print a row for each run, and below the table the reasons why runs cannot be read."""
    out = console()
    if not runs:
        out.print(f"No runs in {plain(str(folder))}. To train one: loupe train DATA", soft_wrap=True)
        return
    table = Table(box=None)
    table.add_column("run", overflow="fold")
    for name in ("test accuracy", "evals", "validation", "parameters", "epochs", "time"):
        table.add_column(name, no_wrap=True)
    unreadable, solved, refitted = [], False, False
    for run in runs:
        try:
            results = results_of(run)
        except LoupeError as error:
            unreadable.append(str(error))
            cells = ["cannot be read", *[""] * 5]
        else:
            cells = _run_cells(run, results, folder) if results else ["not finished", *[""] * 5]
        solved, refitted = solved or " L2" in cells[4], refitted or REFIT in cells[4]
        table.add_row(plain(run.name), *cells)
    out.print(table)
    out.print("evals: test-set evaluations of the same test split recorded in this folder.")
    if solved:
        out.print(STRENGTHS)
    if refitted:
        out.print("refit: the head learned from validation images too; validation is then of out-of-fold predictions.")
    for reason in unreadable:
        out.print(plain(reason), soft_wrap=True)


def _run_cells(run: RunDirectory, results: RunResults, folder: Path) -> list[str]:
    test, validation = results.test, results.validation
    return [
        estimate(test.accuracy) if test else "–",
        str(count_looks(folder, results.split_hash)) if test and results.split_hash else "–",
        without_interval(validation.accuracy) if validation else "–",
        f"{results.parameters.total:,}",
        texts.length_in_short(stages_of(run, results), results.epochs) + (REFIT if results.refit else ""),
        f"{results.seconds.total:,.0f} s",
    ]


def print_recipes(groups: Mapping[str, Sequence[Recipe]]) -> None:
    """Print a table of recipes under the heading of each group."""
    out = console()
    for title, recipes in groups.items():
        table = Table("recipe", "network", "epochs", "", box=None, title=title, title_justify="left")
        table.columns[0].no_wrap = True
        for recipe in recipes:
            table.add_row(recipe.name, recipe.model.name, _planned(recipe), recipe.description)
        out.print(table)
    out.print(STRENGTHS)


def _planned(recipe: Recipe) -> str:
    """Length of a recipe, for a column of epochs."""
    solved = [stage for stage in recipe.stages if stage.is_solved]
    strengths = sum(stage.planned_epochs for stage in solved)
    epochs = recipe.epochs - strengths
    many = "L2" if any(stage.is_open for stage in solved) else f"{strengths} L2"
    return " + ".join(text for text, number in ((many, strengths), (str(epochs), epochs)) if number)


def print_models(models: Sequence[ModelName], text: str | None, at_hand: Sequence[WeightsAtHand] = ()) -> None:
    """Print the models, and below them the pretrained ones whose weights are on this machine."""
    out = console()
    table = Table("model", "", box=None)
    shown = models if text else [model for model in models if model.name in NETWORKS]
    for model in shown:
        start = "from scratch" if model.name in NETWORKS else "pretrained, by timm" if model.pretrained else ""
        table.add_row(plain(model.name), start)
    out.print(table)
    if len(shown) < len(models):
        out.print(f"And {len(models) - len(shown):,} of timm. To list them: loupe models PART-OF-NAME", soft_wrap=True)
    if at_hand:
        title = "Pretrained weights on this machine"
        weights = Table("model", "parameters", "--weights", "file", box=None, title=title)
        weights.title_justify = "left"
        weights.columns[3].overflow = "fold"
        for one in at_hand:
            given = one.weights if one.weights == "timm" else "file"
            weights.add_row(plain(one.backbone), f"{one.parameters:,}", given, plain(str(one.file)))
        out.print(weights)


def print_model(model: Mapping[str, Any]) -> None:
    """Print the layers of a model, and the sums."""
    out = console()
    table = Table("layer", "type", "output", "parameters", "trained", box=None)
    for row in model["layers"]:
        output, learns = " x ".join(map(str, row["output"])), "yes" if row["trainable"] else ""
        table.add_row(row["name"], row["type"], output, f"{row['parameters']:,}" if row["parameters"] else "", learns)
    out.print(table)
    counts = model["parameters"]
    out.print(
        f"{plain(model['name'])} at {Size.of(model['size_px'])} px with {model['classes']} classes: "
        f"{counts['total']:,} parameters, {counts['trainable']:,} trainable, {counts['non_trainable']:,} non-trainable."
        f" {model['frozen_blocks']} of {counted(len(model['blocks']), 'block')} frozen ({', '.join(model['blocks'])}).",
        soft_wrap=True,
    )


def print_cache(entries: Sequence[CacheEntry], folder: Path, *, removed: bool) -> None:
    """Print the number and size of cached entries of each kind."""
    out = console()
    table = Table("", "entries", "size", "last used", box=None)
    for kind, meaning in KINDS.items():
        mine = [entry for entry in entries if entry.kind == kind]
        used = f"{datetime.fromtimestamp(max(entry.used for entry in mine)):%Y-%m-%d}" if mine else ""
        table.add_row(f"{kind}: {meaning}", f"{len(mine):,}", size_text(sum(entry.size for entry in mine)), used)
    out.print(table)
    verb = "removed from" if removed else "in"
    out.print(f"{size_text(sum(entry.size for entry in entries))} {verb} {plain(str(folder))}.", soft_wrap=True)
    if not removed and entries:
        out.print("To remove entries not used for 30 days: loupe cache --clear all --unused-days 30", soft_wrap=True)
