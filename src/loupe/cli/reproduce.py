"""`loupe reproduce`: the published experiments."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Device, Json, Output, Quiet, print_json


def reproduce(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; all of them where none is named.")] = None,
    data: Annotated[
        str | None,
        typer.Option(envvar="LOUPE_DATA", help="The folder that holds cifar10 and cats_vs_dogs. Default: download."),
    ] = None,
    budget: Annotated[str, typer.Option(help="quick: far fewer epochs. published: as the documents did.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, help="How often each is trained.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key, in every recipe.")
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Set published experiments beside measured ones. The same command goes on after a stop."""
    from loupe.cli import tables
    from loupe.comparison import reproduce as experiments

    content = experiments.reproduce(
        names or (),
        data=data,
        budget=budget,
        seeds=seeds,
        changes=settings or [],
        device=device,
        output=output,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(content)
    else:
        tables.print_experiments(content, output)
