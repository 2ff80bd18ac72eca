"""The command line: thin. It parses, calls, and shows; each command imports what it needs when it runs."""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from loupe import listings
from loupe.console import printable
from loupe.errors import LoupeError
from loupe.options import Data, Device, Json, Output, Quiet, SkipDamaged, print_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train, compare and ship image classifiers.",
)

INTERRUPTED = 130


@app.command()
def train(
    data: Annotated[str | None, Data.__metadata__[0]] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name, a YAML file, or auto (the default): chosen by the images.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A network in place of the recipe's.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the backbone: timm (its hub), none, a file, hf-hub:NAME or local-dir:DIR.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="The (highest) learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, as stages.0.lr=3e-4.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    output: Output = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's name. Default: the data's and the recipe's.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted.")] = None,
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a classifier on labelled images, evaluate it, and write a report."""
    if data is None and resume is None:
        raise LoupeError("give DATA to train on, or --resume RUN to go on with a run.")
    from loupe import run as runner

    if resume is not None:
        _refuse_with_resume(
            recipe, model, weights, epochs, batch_size, lr, seed, precision, settings, name, skip_damaged or None
        )
        done = runner.resume(resume, data, output=output, device=device, quiet=quiet or as_json)
    else:
        done = runner.train(
            data,
            recipe=recipe,
            model=model,
            weights=weights,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            precision=precision,
            settings=settings or [],
            device=device or "auto",
            output=output,
            name=name,
            skip_damaged=skip_damaged,
            quiet=quiet or as_json,
        )
    if as_json:
        print_json(done.results)
    else:
        from loupe import tables

        tables.print_results(done.results, done.path)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's directory, or its name.")],
    split: Annotated[str, typer.Option(help="val or test. Each look at test is counted.")] = "val",
    data: Annotated[str | None, typer.Option(help="Other labelled images in place of the run's own.")] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a trained classifier on a split of its data, or on other images."""
    if split not in {"train", "val", "test"}:
        raise LoupeError(f"--split is val or test (or train); got {split!r}.")
    from loupe import tables
    from loupe.ledger import open_run
    from loupe.trained import Run

    done = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    block = done.evaluate(split, data, skip_damaged=skip_damaged)
    if as_json:
        print_json({"run": str(done.path), "data": data, "split": split, **block})
    else:
        tables.print_block(block, split if data is None else f"{data} ({split})")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A run's directory, or its name.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    to: Annotated[Path, typer.Option(help="The file to write.")] = Path("predictions.csv"),
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 1,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Below this probability an image stays unclassified.")
    ] = None,
    wanted_precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Leaves so many images unclassified that, of the others, this share is right, as 0.99; the threshold "
            "is chosen by the run's validation images.",
        ),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify images; write a CSV, and show how many fell into each class."""
    if threshold is not None and wanted_precision is not None:
        raise LoupeError("--threshold and --wanted-precision both say what stays unclassified. Give one of them.")
    from loupe import tables
    from loupe.data.folders import from_paths
    from loupe.labelling import label, write_csv
    from loupe.ledger import open_run
    from loupe.trained import Run

    done = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    if done.temperature != 1:
        done.console.say(f"probabilities are calibrated by temperature {done.temperature:.3g}")
    if wanted_precision is not None:
        chosen = done.threshold_for(wanted_precision)
        threshold = chosen.value
        done.console.say(str(chosen))
    predictions = done.predictions(from_paths(paths), skip_damaged=skip_damaged)
    labelled = label(predictions, top=top, threshold=threshold or 0.0, temperature=done.temperature)
    write_csv(to, labelled)
    if as_json:
        print_json(labelled.to_json())
    else:
        tables.print_histogram(labelled.counts(), to)


@app.command()
def check(data: Data, as_json: Json = False, quiet: Quiet = False) -> None:
    """Look for damaged, duplicated, leaking and unbalanced images. Exit code 1 on damage or leakage."""
    from rich.console import Console as RichConsole

    from loupe.console import Console
    from loupe.data.check import check as examine
    from loupe.data.content import content_hashes
    from loupe.data.sources import open_table

    console = Console(quiet=quiet or as_json)
    table = open_table(data, console=console)
    for note in table.notes:
        console.say(note)
    report = examine(table, content_hashes(table, console), console)
    if as_json:
        print_json(report.to_json())
    else:
        report.render(RichConsole(highlight=False))
    raise typer.Exit(0 if report.ok else 1)


for listing in (listings.runs, listings.recipes, listings.models, listings.cache):
    app.command()(listing)


@app.command()
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
    """Run the published experiments and set published beside measured; the same command goes on after a stop."""
    from loupe import reproduce as experiments
    from loupe import tables

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


def main() -> None:
    """The entry point: what a person can put right is one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a class name or a bar that the terminal's encoding lacks is no error
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped.", file=sys.stderr)
        code = INTERRUPTED
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Prints an error that a person can put right and returns the exit code; raises any other again."""
    if isinstance(error, LoupeError) and not os.environ.get("LOUPE_DEBUG"):
        interrupted = type(error).__name__ == "InterruptedRunError"  # by name, so that its module need not be loaded
        print(printable(str(error)) if interrupted else f"error: {printable(str(error))}", file=sys.stderr)
        return INTERRUPTED if interrupted else 1
    if hasattr(error, "format_message"):  # wrong usage, in the parser's own words
        print(f"error: {error.format_message()} See: loupe --help", file=sys.stderr)
        return 2
    raise error


def _refuse_with_resume(*given: Any) -> None:
    if any(value is not None and value != [] for value in given):
        raise LoupeError(
            "--resume goes on with the run as it was begun. Give it alone, or with --device, --output, --quiet, "
            "--json, and DATA where the images have moved."
        )
