"""`loupe evaluate` and `loupe predict`: a trained classifier on labelled or new images."""

import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe import ranks
from loupe.cli.clusters import parts_runner_of
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
    Tta,
    Verify,
    print_json,
    print_long_json,
)
from loupe.cli.processes import start_processes
from loupe.errors import ConfigError, counted, enumerated
from loupe.log import logger, terminal

if TYPE_CHECKING:
    from loupe.bulk import output as bulk_output
    from loupe.export.predictor import ExportedModel
    from loupe.runs.run import Run


def evaluate(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name; or the folder of an export.")],
    split: Annotated[str, typer.Option(help="Split: val, test or train. Test-set evaluations are counted.")] = "val",
    data: Annotated[
        str | None,
        typer.Option(help="Other labelled images. Those that belong to the run keep its split."),
    ] = None,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    tta: Tta = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    verify: Verify = False,
    quiet: Quiet = False,
    as_json: Json = False,
    processes: Processes = None,
) -> None:
    """Evaluate a trained classifier on a split. With --data: on other labelled images."""
    if split not in {"train", "val", "test"}:
        raise ConfigError(f"--split {split}: give val, test or train.")
    start_processes(processes)
    from loupe.cli import tables
    from loupe.data.remote.redaction import redacted_word
    from loupe.export.folder import is_export
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    if data is None and (columns or images or follow_links):
        raise ConfigError("--columns, --images and --follow-links are of the images in --data, which is missing.")
    opened: Run | ExportedModel
    if is_export(Path(run)):
        if data is None:
            raise ConfigError(f"{run} is an export, without images of its own. Give labelled images with --data.")
        opened = _exported(run, {"--tta": tta, "--device": device != "auto", "--verify": verify}, quiet or as_json)
    else:
        opened = Run(open_run(run, output), device=device, quiet=quiet or as_json, verify=verify, tta=tta)
        _note_views(opened)
    evaluation = opened.evaluate(
        split, data, columns=columns, images=images, follow_links=follow_links, skip_damaged=skip_damaged
    )
    shown = None if data is None else redacted_word(data)
    results = opened.results if isinstance(opened, Run) and data is None and split == "val" else None
    beside = results.folds if results and not results.refit else None
    if as_json:
        of_folds = {} if beside is None else {"out_of_fold": beside.to_json()}
        print_json({"run": str(opened.path), "data": shown, "split": split, **evaluation.to_json(), **of_folds})
        return
    title = f"{results.folds.folds} folds" if results and results.refit and results.folds else split
    tables.print_evaluation(evaluation, title if shown is None else f"{shown} ({split})")
    if results and results.folds:
        tables.print_folds(results)


def predict(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name; or the folder of an export.")],
    paths: Annotated[
        list[str], typer.Argument(help="Images, folders or glob patterns; or one list: CSV, TSV, JSONL or Parquet.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CSV file to write, or for any number of images a Parquet file (OUT.parquet) or a folder of them "
            "(OUT/). Default: predictions.csv, or submission.csv.",
        ),
    ] = None,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    submission: Annotated[
        str | None,
        typer.Option(
            metavar="ID,LABEL",
            help="Write only these columns, as competitions ask for: id,label has the predicted class; id,* the "
            "probability of every class; id,label=CLASS that of one class.",
        ),
    ] = None,
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
    tta: Tta = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    cluster: Cluster = None,
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
    processes: Processes = None,
) -> None:
    """Classify images and write a CSV, or Parquet. Print the number of images of each class."""
    if threshold is not None and wanted_precision is not None:
        raise ConfigError("--threshold and --wanted-precision exclude each other. Give one of them.")
    if tta is not None and wanted_precision is not None:
        raise ConfigError("--wanted-precision is guaranteed for predictions without --tta. Leave one of them out.")
    start_processes(processes)
    from loupe.bulk.shards import tars_in
    from loupe.cli import tables
    from loupe.data.sources.folders import from_paths
    from loupe.data.sources.inference_list import open_inference_list
    from loupe.evaluate.unclassified import check_threshold
    from loupe.export.folder import is_export
    from loupe.rundir import open_run
    from loupe.runs.classify import Tally, check_path, check_top, label, write_csv
    from loupe.runs.run import Run
    from loupe.runs.submission import Submission

    source = _list_in(paths, needed=bool(columns or images))
    table_output = None if to is None else _table_output(to, submission, skip_damaged=skip_damaged)
    if table_output is None and (tars := tars_in(paths)):
        raise ConfigError(
            f"{tars[0]}: predictions of images in tars are written as Parquet. Give --to OUT.parquet, or a folder "
            "(--to OUT/)."
        )
    if cluster is not None and table_output is None:
        raise ConfigError("--cluster writes Parquet: give --to OUT.parquet, or a folder (--to OUT/).")
    file = Path(to or ("predictions.csv" if submission is None else "submission.csv"))
    if table_output is None and submission is None:
        check_path(file)
    elif submission is not None and (threshold or wanted_precision or top > 1):
        raise ConfigError("--submission has one answer for each image: leave out --top and thresholds.")
    opened: Run | ExportedModel
    if is_export(Path(run)):
        opened = _exported(run, {"--tta": tta, "--device": device != "auto"}, quiet or as_json)
    else:
        opened = Run(open_run(run, output), device=device, quiet=quiet or as_json, tta=tta)
        _note_views(opened)
    check_top(top, opened.classes)
    form = None if submission is None else Submission.of(submission, opened.classes)
    if form is not None:
        form.check_path(file, source)
    with terminal(quiet=opened.quiet):
        if opened.temperature != 1:
            logger.info(f"probabilities are calibrated by temperature {opened.temperature:.3g}")
        if wanted_precision is not None:
            chosen = opened.threshold_for(wanted_precision)
            threshold = chosen.value
            logger.info(str(chosen))
    check_threshold(threshold or 0.0, opened.classes)
    options = opened.read_options(columns, images, follow_links)
    if table_output is not None:
        from loupe.cli.predict_table import predict_table, settings_of

        settings = settings_of(opened, threshold=threshold or 0.0, top=top, tta=tta)
        with parts_runner_of(cluster, opened, device=device, tta=tta) as runner:
            predict_table(opened, table_output, paths, source, options, settings, as_json=as_json, runner=runner)
        return
    listed = None if source is None else open_inference_list(source, options)
    with terminal(quiet=opened.quiet):
        for note in listed.table.notes if listed else ():
            logger.info(note)
    table = listed.table if listed else from_paths(paths, follow_links=follow_links)
    ids = listed.by_path() if listed else {}
    if form is not None and not ids:
        form.check_names(table.paths)
    tally, predictions = Tally(opened.classes, as_json, ids), opened.stream(table, skip_damaged=skip_damaged)
    if not ranks.current().is_main:  # it has its share of the images, and rank 0 writes
        deque(predictions, maxlen=0)
        return
    labelled = (
        label(part, top=top, threshold=threshold or 0.0, temperature=opened.temperature) for part in predictions
    )
    if form is not None:
        form.write(file, tally.through(labelled), ids)
        if tally.images < len(ids):
            logger.warning(f"{file} lacks {counted(len(ids) - tally.images, 'row')} of {source}: damaged images.")
    else:
        id_name = listed.id_name if listed else None
        write_csv(file, tally.through(labelled), opened.classes, top=top, id_name=id_name, ids=ids)
    if as_json:
        head = {**({"tta": tta} if tta else {}), "temperature": opened.temperature, "threshold": threshold or 0.0}
        print_long_json(head, "images", tally.to_json(), {"counts": tally.counts()})
    else:
        tables.print_histogram(tally.counts(), file)


def _table_output(to: str, submission: str | None, *, skip_damaged: bool) -> "bulk_output.Output | None":
    """Parquet file or folder that `--to` names; None for a CSV file.

    Raises:
        ConfigError: it cannot be written, or an option is given that only CSV files have.
    """
    from loupe.bulk.output import output_of

    output = output_of(to)
    if output is None:
        return None
    if submission is not None:
        raise ConfigError(f"--to {to}: --submission writes CSV. Give a file such as submission.csv, or leave it out.")
    if skip_damaged:
        raise ConfigError(
            f"--to {to}: damaged images are rows of Parquet files, with the reason. Leave --skip-damaged out, and take "
            "the rows whose reason is null."
        )
    if not ranks.current().alone:
        raise ConfigError(f"--to {to}: Parquet is written by one process. Leave out --processes, or write CSV.")
    output.check()
    return output


def _exported(folder: str, of_runs: Mapping[str, object], quiet: bool) -> "ExportedModel":
    """Exported model in a folder.

    Raises:
        ConfigError: an option that only runs have is given.
    """
    from loupe.export.predictor import ExportedModel

    if given := [option for option, value in of_runs.items() if value]:
        them = "it" if len(given) == 1 else "them"
        raise ConfigError(f"{enumerated(given)}: not for exported models. Leave {them} out, or give the run.")
    return ExportedModel(Path(folder), quiet=quiet)


def _note_views(run: "Run") -> None:
    """Log the views of a test-time augmentation, and a warning if the network may never have seen mirrored images."""
    if run.tta is None:
        return
    from loupe.config.network import BackboneSpec
    from loupe.models.test_time import AUGMENTATIONS

    with terminal(quiet=run.quiet):
        logger.info(f"Each prediction is the mean over {len(AUGMENTATIONS[run.tta])} views of the image ({run.tta}).")
        flipped = any(stage.augment.horizontal_flip for stage in run.recipe.stages)
        if not flipped and not isinstance(run.recipe.model, BackboneSpec):
            logger.warning(
                "this network was trained without mirrored images (horizontal_flip): compare `loupe evaluate` on "
                "validation images with and without --tta."
            )


def _list_in(paths: list[str], *, needed: bool) -> Path | None:
    """The list of images among the paths, which is the only one of them; None without one."""
    from loupe.data.remote.redaction import redacted_word
    from loupe.data.sources.rows import is_list  # imported lazily: PyArrow

    named = [Path(os.path.expanduser(path)) for path in paths]  # noqa: PTH111 - pathlib's raises for an unknown user
    lists = [path for path in named if is_list(path)]
    if lists and len(paths) > 1:
        raise ConfigError(f"{redacted_word(str(lists[0]))} is a list of images: give it alone.")
    if needed and not lists and not all(path.lower().endswith(".tar") for path in paths):
        raise ConfigError("--columns and --images are for a list of images: a CSV, TSV, JSONL or Parquet file.")
    return lists[0] if lists else None
