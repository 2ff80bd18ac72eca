"""`loupe compare`: recipes on the same images, or finished runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from loupe import ranks
from loupe.cli.clusters import runner_of
from loupe.cli.options import (
    Cluster,
    Columns,
    Device,
    FollowLinks,
    Images,
    Json,
    Output,
    Processes,
    Quiet,
    SkipDamaged,
    Verify,
    print_json,
)
from loupe.cli.processes import start_processes
from loupe.errors import ConfigError


def compare(
    what: Annotated[
        list[str], typer.Argument(help="DATA to train on, as for loupe train; or at least two finished runs.")
    ],
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    recipes: Annotated[
        str | None, typer.Option(help="Recipe names or YAML files, separated by commas. Default: a ladder of recipes.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network of the pretrained recipes.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Pretrained weights: timm (download), none, a file, a run, hf-hub:NAME or local-dir:DIR."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each recipe, on the same split.")] = 1,
    folds: Annotated[int, typer.Option(min=0, help="Cross-validation folds; 0 trains on one split.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Value of any recipe key, in every recipe.")
    ] = None,
    open_test: Annotated[
        bool, typer.Option("--open-test", help="Evaluate every recipe on test images, not only the chosen one.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the expected time, disk and memory, and stop.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the files. Default: comparison-DATA. A numeric suffix is added if the name exists."),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    cluster: Cluster = None,
    skip_damaged: SkipDamaged = False,
    verify: Verify = False,
    quiet: Quiet = False,
    as_json: Json = False,
    processes: Processes = None,
) -> None:
    """Compare recipes on the same images. Train in order of cost, select on validation images."""
    if cluster and not (processes in (None, 1) and ranks.in_environment().alone):
        raise ConfigError("--cluster trains each candidate in one process: leave out --processes, or --cluster.")
    start_processes(processes)
    from loupe.cli import tables
    from loupe.comparison import compare
    from loupe.evaluate.comparison_results import ComparisonPlan, ComparisonResults

    if len(what) > 1 or os.path.isfile(Path(what[0]) / "recipe.yaml"):  # noqa: PTH113 - pathlib's raises without permission
        reading, options = (columns, images, follow_links, verify, skip_damaged), (recipes, model, weights, settings)
        if any((*reading, *options, folds, plan, cluster)) or seeds > 1:
            raise ConfigError(
                "finished runs are compared without training. Leave out the training options, or give DATA."
            )
        results: ComparisonResults | ComparisonPlan = compare.compare_runs(
            what, output=output, name=name, open_test=open_test, device=device
        )
    else:
        with runner_of(cluster, device=device, quiet=quiet or as_json) as runner:
            results = compare.compare(
                what[0],
                columns=columns,
                images=images,
                follow_links=follow_links,
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
                verify=verify,
                quiet=quiet or as_json,
                runner=runner,
            )
    if as_json:
        print_json(results.to_json())
    elif isinstance(results, ComparisonResults):
        tables.print_comparison(results, output)
