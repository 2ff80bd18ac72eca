"""`loupe runs`, `recipes`, `models` and `cache`: the listing commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.cli.options import InputSize, Json, Output, input_size, print_json
from loupe.errors import LoupeError

if TYPE_CHECKING:
    from loupe.rundir import RunDirectory


def runs(output: Output = Path("runs"), as_json: Json = False) -> None:
    """List runs with their results."""
    from loupe.cli import listing_tables
    from loupe.rundir import list_runs

    listed = list_runs(output)
    if as_json:
        print_json([_as_json(run) for run in listed])
    else:
        listing_tables.print_runs(listed, output)


def _as_json(run: "RunDirectory") -> dict[str, Any]:
    """Run with its results; None if it is unfinished or unreadable, with the `error` for an unreadable one."""
    from loupe.evaluate.results import results_of

    try:
        results = results_of(run)
    except LoupeError as error:
        return {"run": str(run.path), "results": None, "error": str(error)}
    return {"run": str(run.path), "results": results.to_json() if results else None}


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print as YAML.")] = None, as_json: Json = False
) -> None:
    """List recipes, or print one as YAML."""
    from loupe.cli import listing_tables
    from loupe.recipes.catalog import GROUPS, RECIPES, recipe

    if as_json:
        from loupe.recipes.description import describe  # imported lazily: PyTorch

        print_json({key: describe(make()) for key, make in RECIPES.items()} if name is None else describe(recipe(name)))
    elif name is None:
        listing_tables.print_recipes({title: [make() for make in group.values()] for title, group in GROUPS.items()})
    else:
        print(recipe(name).to_yaml(), end="")


def models(
    name: Annotated[str | None, typer.Argument(help="Model to show, or part of the names to list.")] = None,
    part: Annotated[str, typer.Option(help="Part that is trained: head, last-block, last-N or all.")] = "all",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    size: InputSize = None,
    as_json: Json = False,
) -> None:
    """List models of Loupe and timm, or show one. Shows layers, blocks and parameters."""
    from loupe.cli import listing_tables
    from loupe.models import names
    from loupe.models.at_hand import weights_at_hand

    if name is None or not names.exists(name):
        matching = names.matching(name or "")
        at_hand = {one.backbone: one for one in weights_at_hand() if (name or "") in one.backbone}
        if as_json:
            short = {backbone.partition(".")[0] for backbone in at_hand}
            print_json([{**model.to_json(), "at_hand": model.name in short} for model in matching])
        else:
            listing_tables.print_models(matching, name, tuple(at_hand.values()))
        return
    from loupe.models import overview  # imported lazily: PyTorch

    shown = overview.overview(name, part=part, classes=classes, size_px=input_size(size))
    if as_json:
        print_json(shown)
    else:
        listing_tables.print_model(shown)


def cache(
    clear: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Kind to remove: pixels, rows, frozen, features, datasets, shards, content, indices, mirrors, models, "
            "near, runtimes, settled or all.",
        ),
    ] = None,
    unused_days: Annotated[
        float, typer.Option(min=0, help="With --clear: remove only entries not used for this many days.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Show or remove cached data. All of it can be recreated. Folder: LOUPE_CACHE."""
    from loupe import cache as cached_data
    from loupe.cli import listing_tables

    folder = cached_data.cache_folder()
    entries = cached_data.entries(folder) if clear is None else cached_data.remove(folder, clear, unused_days)
    if as_json:
        print_json([{"kind": e.kind, "path": str(e.path), "bytes": e.size, "used": e.used} for e in entries])
    else:
        listing_tables.print_cache(entries, folder, removed=clear is not None)
