"""`loupe reproduce`: the published experiments."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.clusters import runner_of
from loupe.cli.options import Cluster, Device, Json, Output, Quiet, print_json


def reproduce(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments. Default: all.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar="LOUPE_DATA", help="Folder with cifar10 and cats_vs_dogs. Default: CIFAR-10 is downloaded."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="quick: far fewer epochs. published: as in the documents.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each experiment.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Value of any recipe key, in every recipe.")
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    cluster: Cluster = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train published experiments and compare the figures. The same command resumes after an interruption."""
    from loupe.cli import tables
    from loupe.comparison import reproduce as experiments

    with runner_of(cluster, device=device, quiet=quiet or as_json) as runner:
        results = experiments.reproduce(
            names or (),
            data=data,
            budget=budget,
            seeds=seeds,
            changes=settings or [],
            device=device,
            output=output,
            quiet=quiet or as_json,
            runner=runner,
        )
    if as_json:
        print_json(results.to_json())
    else:
        tables.print_experiments(results, output)
