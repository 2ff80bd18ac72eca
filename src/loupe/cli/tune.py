"""`loupe tune`: a search for better settings of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import (
    Columns,
    Data,
    Device,
    FollowLinks,
    Images,
    Json,
    Output,
    Quiet,
    SkipDamaged,
    Verify,
    print_json,
)


def tune(
    data: Data,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    recipe: Annotated[str | None, typer.Option(help="Recipe name or YAML file. Default: chosen by the images.")] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Recipe key and its values: LOW..HIGH, LOW..HIGH:log or VALUE,VALUE. `stages.*.KEY` stands for every "
            "stage that trains in steps. Default: the recipe's own space.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Number of trials. The first has the recipe's own values.")] = 30,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time for search and confirmation, for example 20m. Default: none.", show_default=False
        ),
    ] = None,
    confirm: Annotated[
        int, typer.Option(help="Other seeds on which the best settings are compared with the recipe's own; 0: none.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the trainings and the search.")] = 0,
    model: Annotated[str | None, typer.Option(help="Network in place of the recipe's.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Pretrained weights: timm (download), none, a file, a run, hf-hub:NAME or local-dir:DIR."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Value of any recipe key, in every trial.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the files. Default: tune-DATA-RECIPE. A numeric suffix is added if it is taken."),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    verify: Verify = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for better settings of a recipe. Confirm them on seeds that the search has not used."""
    from loupe.cli.tune_table import print_tuned
    from loupe.tuning import tune

    results = tune.tune(
        data,
        columns=columns,
        images=images,
        follow_links=follow_links,
        recipe=recipe,
        search=search or [],
        model=model,
        weights=weights,
        settings=settings or [],
        trials=trials,
        time_limit=time_limit,
        confirm=confirm,
        seed=seed,
        device=device,
        output=output,
        name=name,
        skip_damaged=skip_damaged,
        verify=verify,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(results.to_json())
    else:
        print_tuned(results, output)
