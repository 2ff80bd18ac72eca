"""Reproduction of the published experiments: train each, and tabulate published beside measured figures."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loupe import __version__, provenance, rundir
from loupe.comparison.trainings import InTurn, Training, TrainingRunner
from loupe.config import overrides as settings
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.devices import choose_device, gpu_name
from loupe.errors import ConfigError, LoupeError, RunStateError, counted, sentences, unknown_name
from loupe.evaluate.experiment_results import ExperimentFigures, ExperimentResults, ExperimentRow
from loupe.evaluate.spread import accuracy_over_seeds, over_seeds
from loupe.files import write_atomic
from loupe.log import command_line, logger, terminal
from loupe.models.pretrained import missing_weights
from loupe.recipes import catalog, choice
from loupe.recipes.published.experiments import EXPERIMENTS
from loupe.recipes.published.publication import Published
from loupe.recipes.training_summary import training_summary
from loupe.report import experiments_page as page
from loupe.report import experiments_tables
from loupe.runs.options import RunOptions
from loupe.runs.run import Run

BUDGETS = ("quick", "published")
SPREAD = ("macro_f1", "micro_f1", "roc_auc", "log_loss")


@dataclass(frozen=True)
class Planned:
    """One experiment with its recipe and its data, or with the reason `why` it cannot be run."""

    published: Published
    recipe: Recipe | None = None
    data: str | None = None
    why: str | None = None


def reproduce(
    names: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    budget: str = "quick",
    seeds: int = 1,
    changes: Iterable[str] = (),
    device: str = "auto",
    output: str | Path = "runs",
    quiet: bool = False,
    runner: TrainingRunner | None = None,
) -> ExperimentResults:
    """Run the published experiments and write experiments-BUDGET.json, .md, .csv and .html into `output`.

    Finished runs are read and interrupted ones resumed: the same call again does what is missing. The files are
    written after each experiment.

    Args:
        names: names of the experiments; empty for all.
        data: folder with `cifar10` and `cats_vs_dogs`; None downloads CIFAR-10 and skips photographs.
        budget: `published` for the published number of epochs, `quick` for the same layers in far fewer epochs.
        seeds: trainings of each experiment, with seeds from 0.
        changes: settings as KEY=VALUE, for every recipe; they are stated with the results.
        device, output: as for `loupe.train`.
        quiet: print nothing.
        runner: place of the trainings. Default: this process, one after the other.

    Returns:
        results, as in the JSON file: a row for each experiment.

    Raises:
        ConfigError: an unknown name, or a named experiment that cannot be run.
        RunStateError: an experiment failed; the others are finished.
        InterruptedRunError: stopped and saved; the same call resumes.
    """
    changes, output = list(changes), Path(output)
    if budget not in BUDGETS:
        raise ConfigError(f"--budget {budget}: give quick or published.")
    plan = [_plan(name, data, budget, changes, named=bool(names)) for name in names or EXPERIMENTS]
    results = ExperimentResults(
        version=__version__,
        budget=budget,
        seeds=seeds,
        settings=tuple(changes),
        command=_command(names, data, budget, seeds, changes),
        environment=provenance.environment(
            str(choose_device(device)), gpu_name(choose_device(device)), torch.get_num_threads()
        ).to_json(),
        rows=(),
    )
    with terminal(quiet=quiet):
        _announce(plan, budget, seeds)
        options, rows, failed = RunOptions(output, device, quiet=quiet), dict[int, ExperimentRow](), list[str]()
        for number, row in _rows(plan, seeds, options, runner or InTurn()):
            if isinstance(row, LoupeError):
                failed.append(f"{plan[number].published.name}: {row}")
                row = unmeasured_row(plan[number], f"failed: {row}")
            rows[number] = row
            done = tuple(_with_looks(rows[place], output) for place in sorted(rows))
            results = results.model_copy(update={"rows": done})
            _write(results, output)
    if failed:
        raise RunStateError(
            f"{len(failed)} of {counted(len(plan), 'experiment')} failed; the others are finished. {failed[0]}"
        )
    return results


def _command(names: Sequence[str], data: str | Path | None, budget: str, seeds: int, changes: Sequence[str]) -> str:
    """Command that repeats the table on any machine, with $LOUPE_DATA for the folder of the data."""
    settings = [part for change in changes for part in ("--set", change)]
    command = command_line(["loupe", "reproduce", *names, "--budget", budget, "--seeds", str(seeds), *settings])
    return f"{command} --data $LOUPE_DATA" if data else command


def _plan(name: str, data: str | Path | None, budget: str, changes: Sequence[str], *, named: bool) -> Planned:
    """Plan of one experiment.

    Raises:
        ConfigError: the name is unknown, or a `named` experiment cannot be run; others are left out with the reason.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    published = EXPERIMENTS[name]
    source, missing = _data(published, data)
    why = missing or _weights_missing(published, budget)
    if why and named:
        raise ConfigError(sentences(f"experiment {name} cannot be run: {why}", _weights_remedy(published) or ""))
    if why:
        return Planned(published, why=f"not measured: {why}")
    recipe = catalog.recipe(name if budget == "published" else f"{name}-quick")
    return Planned(published, settings.override(recipe, changes), source)


def _weights_missing(published: Published, budget: str) -> str | None:
    """Reason why an experiment with a pretrained network cannot be run; None if it can."""
    model = catalog.recipe(published.name).model
    if not isinstance(model, BackboneSpec):
        return None
    if choice.weights_problem(model.backbone):
        return f"the weights of {published.weights} are not available"
    return "it has no quick form (--budget published runs it)" if budget == "quick" else None


def _data(published: Published, folder: str | Path | None) -> tuple[str | None, str | None]:
    """Source of the images, or the reason why they are missing."""
    if folder is None:
        if published.dataset == "cifar10":
            return "cifar10", None
        return None, f"give the folder that contains {published.dataset} with --data DIR"
    path = Path(folder) / published.dataset
    return (str(path), None) if path.exists() else (None, f"there is no {path}")


def _announce(plan: Sequence[Planned], budget: str, seeds: int) -> None:
    runnable = [planned for planned in plan if planned.recipe]
    other = "published" if budget == "quick" else "quick"
    logger.info(
        f"{len(runnable)} of {counted(len(plan), 'experiment')} can be run, with {counted(seeds, 'seed')} each, "
        f"budget {budget} (the other: --budget {other}). Finished runs are read, not trained again."
    )
    for planned in plan:
        if planned.why:
            logger.info(f"{planned.published.name}: {planned.why}")
    for text in dict.fromkeys(_weights_remedy(planned.published) for planned in plan if planned.why):
        if text:
            logger.info(text)


def _weights_remedy(published: Published) -> str | None:
    """Reason why pretrained weights are missing, and how to get them; None if they are not."""
    model = catalog.recipe(published.name).model
    if not isinstance(model, BackboneSpec) or not choice.weights_problem(model.backbone):
        return None
    return missing_weights(model.backbone)


def _rows(
    plan: Sequence[Planned], seeds: int, options: RunOptions, runner: TrainingRunner
) -> Iterator[tuple[int, ExperimentRow | LoupeError]]:
    """Number of each experiment with its row, or with the error with which it failed; unmeasured ones first."""
    groups, datasets = dict[int, list[Training]](), dict[str, Dataset]()
    for number, planned in enumerate(plan):
        if planned.recipe is None:
            yield number, unmeasured_row(planned, planned.why)
            continue
        try:
            groups[number] = _trainings(planned, seeds, options, datasets)
        except LoupeError as error:
            yield number, error
    runner.announce([training for group in groups.values() for training in group], options)
    numbers = list(groups)
    for place, result in runner.run(list(groups.values()), options):
        number = numbers[place]
        yield number, result if isinstance(result, LoupeError) else experiment_row(plan[number], result)


def _trainings(planned: Planned, seeds: int, options: RunOptions, datasets: dict[str, Dataset]) -> list[Training]:
    """Trainings of an experiment, one for each seed; opened data are kept in `datasets`."""
    assert planned.recipe is not None and planned.data is not None
    if planned.data not in datasets:
        datasets[planned.data] = open_dataset(planned.data)
    found = []
    for seed in range(seeds):
        name, recipe = f"{planned.recipe.name}-seed{seed}", planned.recipe.model_copy(update={"seed": seed})
        found.append(Training(datasets[planned.data], recipe, name, heading=f"\n{name}, in {options.output}"))
    return found


def experiment_row(planned: Planned, runs: Sequence[Run]) -> ExperimentRow:
    """Row of an experiment, from its runs."""
    measured = _measured(planned, runs)
    published = planned.published.accuracy
    verdict = None if published is None else "reached" if measured.accuracy.value >= published else "missed"
    return unmeasured_row(planned, None).model_copy(update={"measured": measured, "verdict": verdict})


def unmeasured_row(planned: Planned, why: str | None) -> ExperimentRow:
    """Row without figures, with the reason."""
    return ExperimentRow(
        name=planned.published.name,
        recipe=planned.recipe.name if planned.recipe else None,
        published=planned.published,
        why=why,
        measured=None,
        verdict=None,
    )


def _measured(planned: Planned, runs: Sequence[Run]) -> ExperimentFigures:
    """Means over the seeds, with their spread; the interval of the mean accuracy is Wilson's over the images."""
    results = [run.results for run in runs]
    judged = [result.splits.get(planned.published.judged_on) for result in results]
    blocks = [block for block in judged if block]
    assert planned.recipe is not None
    hashes = {result.split_hash for result in results if result.split_hash}
    return ExperimentFigures(
        runs=tuple(run.directory.name for run in runs),
        seeds=tuple(result.seed for result in results),
        judged_on=planned.published.judged_on,
        images=blocks[0].images,
        accuracy=accuracy_over_seeds(blocks),
        **{key: over_seeds([block.metric(key) for block in blocks]) for key in SPREAD},
        parameters=results[0].parameters,
        epochs=statistics.fmean(result.epochs for result in results),
        seconds_per_epoch=statistics.median(result.seconds.epoch_mean or 0.0 for result in results),
        seconds=statistics.fmean(result.seconds.total for result in results),
        split_hashes=tuple(sorted(hashes)),
        test_looks=0,
        settings=training_summary(planned.recipe),
        diagnosis=results[0].diagnosis.text if results[0].diagnosis else None,
    )


def _with_looks(row: ExperimentRow, output: Path) -> ExperimentRow:
    """Row with the test-set evaluations recorded for its test splits until now, those of later experiments included."""
    if row.measured is None:
        return row
    looks = sum(rundir.count_looks(output, split_hash) for split_hash in row.measured.split_hashes)
    return row.model_copy(update={"measured": row.measured.model_copy(update={"test_looks": looks})})


def _write(results: ExperimentResults, output: Path) -> None:
    """Write the table as JSON, Markdown, CSV and HTML; each file is replaced atomically."""
    output.mkdir(parents=True, exist_ok=True)
    name = f"experiments-{results.budget}"
    results.write(output / f"{name}.json")
    write_atomic(output / f"{name}.md", experiments_tables.markdown(results))
    experiments_tables.write_csv(output / f"{name}.csv", results)
    page.write_page(output / f"{name}.html", results)
