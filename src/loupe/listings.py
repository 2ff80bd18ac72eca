"""The commands that list what there is: runs, recipes, models. Each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.options import Json, Output, print_json


def runs(output: Output = Path("runs"), as_json: Json = False) -> None:
    """List what has been run, with its results."""
    from loupe import tables
    from loupe.ledger import list_runs

    found = list_runs(output)
    if as_json:
        print_json([{"run": str(run.path), "results": run.read_json("results.json")} for run in found])
    else:
        tables.print_runs(found, output)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None, as_json: Json = False
) -> None:
    """List the recipes, or show one whole."""
    from loupe import tables
    from loupe.recipes.catalog import RECIPES, recipe
    from loupe.recipes.described import described

    if name is None and as_json:
        print_json({key: described(make()) for key, make in RECIPES.items()})
    elif name is None:
        tables.print_recipes([make() for make in RECIPES.values()])
    elif as_json:
        print_json(described(recipe(name)))
    else:
        print(recipe(name).to_yaml(), end="")


def models(
    name: Annotated[str | None, typer.Argument(help="A model to show whole, or a part of the names to list.")] = None,
    part: Annotated[str, typer.Option(help="What learns: head, last-block, last-N or all.")] = "all",
    classes: Annotated[int, typer.Option(min=2, help="The number of outputs.")] = 10,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels on a side. Default: the model's own.")] = None,
    as_json: Json = False,
) -> None:
    """List the models, ours and timm's, or show one: layers, what of them learns, parameters."""
    from loupe import tables
    from loupe.models import overview

    if name is None or not overview.exists(name):
        found = overview.matching(name or "")
        if as_json:
            print_json(found)
        else:
            tables.print_models(found, name)
        return
    shown = overview.overview(name, part=part, classes=classes, size_px=size)
    if as_json:
        print_json(shown)
    else:
        tables.print_model(shown)
