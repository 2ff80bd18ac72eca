"""`loupe evaluate` and `loupe predict`: a trained classifier on labelled or new images."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Device, Json, Output, Quiet, SkipDamaged, Verify, print_json
from loupe.errors import ConfigError
from loupe.log import logger, terminal


def evaluate(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    split: Annotated[str, typer.Option(help="Split: val, test or train. Test-set evaluations are counted.")] = "val",
    data: Annotated[
        str | None,
        typer.Option(help="Other labelled images. Those that belong to the run keep its split."),
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    verify: Verify = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate a trained classifier on a split. With --data: on other labelled images."""
    if split not in {"train", "val", "test"}:
        raise ConfigError(f"--split {split}: give val, test or train.")
    from loupe.cli import tables
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    opened = Run(open_run(run, output), device=device, quiet=quiet or as_json, verify=verify)
    evaluation = opened.evaluate(split, data, skip_damaged=skip_damaged)
    if as_json:
        print_json({"run": str(opened.path), "data": data, "split": split, **evaluation.to_json()})
    else:
        tables.print_evaluation(evaluation, split if data is None else f"{data} ({split})")


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
            help="Guaranteed share of correct predictions among the classified images, for example 0.99. Chooses the "
            "threshold on validation images.",
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
    from loupe.runs.classify import check_path, check_threshold, check_top, label, write_csv
    from loupe.runs.run import Run

    check_path(to)
    opened = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    check_top(top, opened.classes)
    with terminal(quiet=opened.quiet):
        if opened.temperature != 1:
            logger.info(f"probabilities are calibrated by temperature {opened.temperature:.3g}")
        if wanted_precision is not None:
            chosen = opened.threshold_for(wanted_precision)
            threshold = chosen.value
            logger.info(str(chosen))
    check_threshold(threshold or 0.0, opened.classes)
    predictions = opened.predictions(from_paths(paths), skip_damaged=skip_damaged)
    labelled = label(predictions, top=top, threshold=threshold or 0.0, temperature=opened.temperature)
    write_csv(to, labelled)
    if as_json:
        print_json(labelled.to_json())
    else:
        tables.print_histogram(labelled.counts(), to)
