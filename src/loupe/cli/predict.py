"""`loupe evaluate` and `loupe predict`: a trained classifier on labelled or new images."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Device, Json, Output, Quiet, SkipDamaged, print_json
from loupe.errors import ConfigError
from loupe.log import logger, terminal


def evaluate(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    split: Annotated[str, typer.Option(help="Split: val, test or train. Test-set evaluations are counted.")] = "val",
    data: Annotated[
        str | None,
        typer.Option(help="Other labelled images. Images of the run stay in their split."),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a trained classifier on a split. With --data, on other labelled images."""
    if split not in {"train", "val", "test"}:
        raise ConfigError(f"--split is val, test or train; got {split!r}.")
    from loupe.cli import tables
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    done = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    block = done.evaluate(split, data, skip_damaged=skip_damaged)
    if as_json:
        print_json({"run": str(done.path), "data": data, "split": split, **block.to_json()})
    else:
        tables.print_block(block, split if data is None else f"{data} ({split})")


def predict(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders or glob patterns.")],
    to: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
    top: Annotated[int, typer.Option(min=1, help="Number of classes listed for each image.")] = 1,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability below which an image stays unclassified.")
    ] = None,
    wanted_precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Guaranteed share of correct images among those classified, for example 0.99. The threshold is "
            "chosen on validation images.",
        ),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify images and write a CSV. Print the number of images of each class."""
    if threshold is not None and wanted_precision is not None:
        raise ConfigError("--threshold and --wanted-precision exclude each other. Give one of them.")
    from loupe.cli import tables
    from loupe.data.sources.folders import from_paths
    from loupe.rundir import open_run
    from loupe.runs.classify import check_place, check_threshold, check_top, label, write_csv
    from loupe.runs.run import Run

    check_place(to)
    done = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    check_top(top, done.classes)
    with terminal(quiet=done.quiet):
        if done.temperature != 1:
            logger.info(f"probabilities are calibrated by temperature {done.temperature:.3g}")
        if wanted_precision is not None:
            chosen = done.threshold_for(wanted_precision)
            threshold = chosen.value
            logger.info(str(chosen))
    check_threshold(threshold or 0.0, done.classes)
    predictions = done.predictions(from_paths(paths), skip_damaged=skip_damaged)
    labelled = label(predictions, top=top, threshold=threshold or 0.0, temperature=done.temperature)
    write_csv(to, labelled)
    if as_json:
        print_json(labelled.to_json())
    else:
        tables.print_histogram(labelled.counts(), to)
