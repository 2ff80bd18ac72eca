"""`loupe blend`: one run of several trained runs, without training."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Json, Output, Quiet, print_json
from loupe.errors import ConfigError
from loupe.log import terminal


def blend(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Trained runs: folders or names.")],
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE,...",
            help="Share of each run, for example 2,1,1. Default: greedy selection by the validation log loss.",
        ),
    ] = None,
    soup: Annotated[
        bool,
        typer.Option(
            "--soup",
            help="Average the weights of runs with the same start into one network. Default: a mean of probabilities.",
        ),
    ] = False,
    output: Output = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the new run. Default: DATA-blend.")] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    open_test: Annotated[
        bool, typer.Option("--open-test", help="Also evaluate test images. Default: they stay unused.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make one run of several, without training.

    Its network is the weighted mean of their probabilities, or of their weights.
    """
    if soup and shares is not None:
        raise ConfigError("--soup and --shares exclude each other: all runs of a soup have the same share.")
    with terminal(quiet=quiet or as_json):
        from loupe import rundir
        from loupe.cli.tables import print_results
        from loupe.runs.run import Run
        from loupe.search import blend as blends

        members = [Run(rundir.open_run(run, output), device=device) for run in runs]
        given = None if shares is None else _numbers(shares)
        silent = quiet or as_json
        if soup:
            made = blends.soup(members, output=output, name=name, open_test=open_test, device=device, quiet=silent)
        else:
            made = blends.blend(
                members, given, output=output, name=name, open_test=open_test, device=device, quiet=silent
            )
        if as_json:
            print_json(made.results.to_json())
        else:
            print_results(made.results, made.path)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shares takes numbers with commas between, for example 2,1,1; got {text!r}.") from None
