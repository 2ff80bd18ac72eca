"""`loupe train`: a new run, a resumed run, or a run repeated against another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loupe import ranks
from loupe.cli import search
from loupe.cli.options import (
    Columns,
    Data,
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
from loupe.cli.search import AllowBlend, PredictWithin, Size, TimeLimit
from loupe.errors import ConfigError
from loupe.log import terminal


def train(
    data: Annotated[str | None, Data.__metadata__[0]] = None,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe: a name, a YAML file, or auto. Default: auto, chosen from the images.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network in place of the recipe's. List: loupe models.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Pretrained weights: timm (download), none, a file, a run, hf-hub:NAME or local-dir:DIR."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of epochs; with optimizer logistic: number of L2 strengths."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per training step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed for the split, weights, shuffling and augmentation.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Precision: auto, fp32, bf16 or fp16.")] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train the delivered head on training and validation images together; validation figures are then "
            "of 5 folds. For recipes that train only a head on frozen features.",
        ),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Trained run, for example a blend, whose probabilities are learned beside the labels: its folder or "
            "its name (distillation)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of any recipe key, for example stages.0.lr=3e-4."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.")] = None,
    output: Output = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: DATA-RECIPE.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Interrupted run to continue.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run to repeat. Lists every figure that differs; then the exit code is 1."),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="TRACKER",
            help="Tracker for settings, metrics and results: mlflow, tensorboard, trackio or wandb. Default: none.",
        ),
    ] = None,
    time_limit: TimeLimit = None,
    predict_within: PredictWithin = None,
    size: Size = None,
    allow_blend: AllowBlend = False,
    skip_damaged: SkipDamaged = False,
    verify: Verify = False,
    quiet: Quiet = False,
    as_json: Json = False,
    processes: Processes = None,
) -> None:
    """Train a classifier on labelled images. Evaluate it and write a report."""
    if time_limit is not None:
        search.train_within(
            data,
            time_limit,
            predict_within=predict_within,
            size=size,
            allow_blend=allow_blend,
            read=(columns, images, follow_links),
            model=model,
            weights=weights,
            seed=seed,
            settings=settings,
            device=device,
            output=output,
            name=name,
            skip_damaged=skip_damaged,
            verify=verify,
            quiet=quiet,
            as_json=as_json,
            refused={
                "--resume": resume,
                "--against": against,
                "--recipe": recipe,
                "--epochs": epochs,
                "--batch-size": batch_size,
                "--lr": lr,
                "--precision": precision,
                "--refit": refit or None,
                "--teacher": teacher,
                "--track": track,
                "--processes": processes,
            },
        )
        return
    search.refuse_without_limit(predict_within, size, allow_blend=allow_blend)
    if data is None and resume is None and against is None:
        raise ConfigError("DATA is missing. Give the images to train on, or --resume RUN to continue a run.")
    start_processes(processes)
    from loupe.runs import parents, repeat
    from loupe.runs import train as runner

    joined = ranks.current()
    if against is not None and joined.local_count < joined.count:
        raise ConfigError("--against compares runs on one machine. Leave it out, or start all processes on one.")
    earlier = None if against is None else joined.from_main(lambda: repeat.earlier_run(against, output))
    with repeat.resume_with_comparison(earlier):
        if resume is not None:
            if epochs is not None:
                joined.from_main(lambda: parents.refuse_if_finished(resume, output, epochs))
            _refuse_with_resume(
                *(columns, recipe, model, weights, epochs, batch_size, lr, seed, precision, settings, name),
                skip_damaged or None,
                refit or None,
                teacher,
            )
            done = runner.resume(
                resume,
                data,
                images=images,
                follow_links=follow_links,
                output=output,
                device=device,
                verify=verify,
                track=track,
                quiet=quiet or as_json,
            )
        else:
            options = repeat.RepeatOptions(
                data,
                recipe,
                device,
                skip_damaged,
                columns=columns,
                images=images,
                follow_links=follow_links,
                settings=tuple(settings or ()),
            )
            if earlier is not None:
                with terminal(quiet=quiet or as_json):
                    options = repeat.complete(options, earlier)
            done = runner.train(
                options.data,
                columns=options.columns,
                images=options.images,
                follow_links=options.follow_links,
                recipe=options.recipe,
                model=model,
                weights=weights,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                seed=seed,
                precision=precision,
                refit=refit or None,
                teacher=teacher,
                settings=options.settings,
                device=options.device or "auto",
                output=output,
                name=name,
                skip_damaged=options.skip_damaged,
                open_test=options.open_test,
                verify=verify,
                track=track,
                quiet=quiet or as_json,
            )
    report = None
    if earlier is not None:
        run = repeat.open_test_as(done, earlier).directory
        report = joined.from_main(lambda: repeat.compare(run, earlier))
    if as_json:
        print_json(done.results.to_json() | ({} if report is None else {"against": report.to_json()}))
    else:
        from loupe.cli import diff_table, tables

        tables.print_results(done.results, done.path)
        if report is not None:
            diff_table.print_report(report)
    if report is not None and not report.same:
        raise typer.Exit(1)


def _refuse_with_resume(*given: Any) -> None:
    if any(value is not None and value != [] for value in given):
        raise ConfigError(
            "--resume continues a run with its own recipe. Give it alone, or with --device, --output, --verify, "
            "--track, --quiet, --json, --against, and DATA, --images or --follow-links if the images have moved."
        )
