"""`loupe compare`: recipes on the same images, or runs that are there."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Device, Json, Output, Quiet, SkipDamaged, print_json
from loupe.errors import LoupeError


def compare(
    what: Annotated[list[str], typer.Argument(help="DATA to train on, as for train; or two or more runs.")],
    recipes: Annotated[
        str | None, typer.Option(help="Names or YAML files, separated by commas. Default: the ladder.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The network of the pretrained recipes.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of it: timm (its hub), none, a file, hf-hub:NAME or local-dir:DIR.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, on one and the same split.")] = 1,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validate each instead, in so many folds.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key, in every recipe.")
    ] = None,
    open_test: Annotated[
        bool, typer.Option("--open-test", help="Open the test images for every candidate, not for the chosen one.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Time a few batches, say what it will take, and stop.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="Of the files that are written. Default: comparison-DATA, with a number where another has it."
        ),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare recipes on the same images. Plan, train in order of cost, judge on validation, open the test once."""
    from loupe.cli import tables
    from loupe.comparison import compare

    if len(what) > 1 or (Path(what[0]) / "recipe.yaml").is_file():
        if recipes or model or weights or settings or folds or seeds > 1 or plan or skip_damaged:
            raise LoupeError("runs are compared as they are: leave out what changes a training, or give DATA.")
        content = compare.compare_runs(what, output=output, name=name, open_test=open_test, device=device)
    else:
        content = compare.compare(
            what[0],
            recipes=[word for word in (recipes or "").split(",") if word],
            model=model,
            weights=weights,
            seeds=seeds,
            folds=folds,
            settings=settings or [],
            open_test=open_test,
            device=device,
            output=output,
            name=name,
            skip_damaged=skip_damaged,
            plan_only=plan,
            quiet=quiet or as_json,
        )
    if as_json:
        print_json(content)
    elif not plan:
        tables.print_comparison(content, output)
