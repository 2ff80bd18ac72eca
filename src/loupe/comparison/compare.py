"""Comparison of recipes on the same images: estimate costs, train in order of cost, select on validation images.

Candidates are trained without their test images and selected on validation images. Then the chosen one is evaluated on
the test images, or all with `open_test`. Every test-set evaluation is recorded in the runs folder. Over several ranks,
each candidate is trained by all of them in turn; rank 0 plans, selects and writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loupe import __version__, provenance, ranks, rundir
from loupe.comparison import candidates, files, plan
from loupe.comparison.planned import PlannedComparison
from loupe.comparison.request import ComparisonRequest
from loupe.comparison.results import results_of
from loupe.comparison.trainings import InTurn, TrainingRunner
from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.data.dataset import open_dataset
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.devices import choose_device, gpu_name
from loupe.errors import ConfigError, LoupeError, RunStateError, counted, sentences
from loupe.evaluate.comparison_results import Comparison, ComparisonPlan, ComparisonResults
from loupe.log import command_line, logger, terminal
from loupe.recipes.resolve import Settings
from loupe.runs import parents
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def compare(
    data: Any,
    *,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    recipes: Sequence[str | Recipe] = (),
    model: str | None = None,
    weights: str | Path | None = None,
    seeds: int = 1,
    folds: int = 0,
    settings: Settings = (),
    open_test: bool = False,
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    skip_damaged: bool = False,
    plan_only: bool = False,
    verify: bool = False,
    quiet: bool = False,
    runner: TrainingRunner | None = None,
) -> ComparisonResults | ComparisonPlan:
    """Train recipes on the same split, compare them, and write NAME.json, .md, .csv and .html into `output`.

    Finished runs are read and interrupted ones resumed: the same call again does what is missing, and writes the same
    files if nothing is.

    Args:
        data, columns, images, follow_links: as for `loupe.train`.
        recipes: names, YAML files or recipes (`loupe.recipe`); empty for the ladder of recipes, from scratch to the
            whole pretrained network.
        model, weights: network and weights for the recipes with a pretrained network.
        seeds: trainings of each recipe, all on the same split.
        folds: cross-validation folds for each recipe, at least 2; test images are then not evaluated. 0: none.
        settings: values of recipe keys as KEY=VALUE or as a mapping, for every recipe.
        open_test: evaluate every candidate on the test images, not only the chosen one.
        device, output, skip_damaged: as for `loupe.train`.
        name: name of the files. Default: comparison-DATA, with a numeric suffix if another comparison has that name.
        plan_only: only estimate the costs, from a few timed batches.
        verify: hash every image anew, without remembered hashes.
        quiet: print nothing.
        runner: place of the trainings. Default: this process, one after the other.

    Returns:
        results, as in the JSON file; with `plan_only`, each candidate with its expected cost.

    Raises:
        ConfigError: fewer than two recipes, an unknown name, finished runs as data, options that exclude each other,
            or a taken `name`.
        DataError: the images cannot be used.
        RunStateError: a candidate failed; the others are finished.
        InterruptedRunError: stopped and saved; the same call resumes.
    """
    if isinstance(data, list | tuple) and any(isinstance(one, Run) for one in data):
        raise ConfigError("the data are finished runs. Compare these with loupe.compare_runs, or give labelled images.")
    read = ReadOptions.of(columns, images, follow_links)
    words = tuple(replace(read, images=Path("IMAGES") if read.images else None).words)
    start = parents.named(weights, Path(output))
    changes = overrides.texts(settings)
    request = ComparisonRequest(tuple(recipes), model, start, seeds, folds, changes, open_test, words)
    options, runner = RunOptions(Path(output), device, skip_damaged, quiet), runner or InTurn()
    with ranks.joined() as joined, terminal(quiet=quiet):
        files.check_name(name)
        request.check()
        dataset = open_dataset(data, read, verify=verify)
        resolved = joined.from_main(lambda: plan.resolve_candidates(dataset, request))
        comparison = Comparison(
            version=__version__,
            name=name or f"comparison-{dataset.name}",
            dataset=dataset.name,
            seeds=seeds,
            folds=folds,
            settings=request.settings,
            command=request.command(
                [entry.recipe_argument or entry.name for entry in resolved], skip_damaged=skip_damaged
            ),
            environment=_environment(device),
        )
        comparison, before = joined.from_main(lambda: files.named(comparison, name, options.output))
        dataset.compute_hashes()
        entries = joined.from_main(
            lambda: plan.estimate_costs(resolved, dataset, request, options, processes=joined.count)
        )
        groups = [candidates.trainings(entry, dataset, request) for entry in entries]
        for number, (entry, group) in enumerate(zip(entries, groups, strict=True), 1):
            group[0] = replace(group[0], heading=f"\n{number} of {len(entries)}: {entry.name}, {entry.expected}")
        runner.announce([training for group in groups for training in group], options)
        if plan_only:
            rows = tuple(candidates.row(entry, [], options.output) for entry in entries)
            return PlannedComparison(
                **dict(comparison),
                images=joined.from_main(lambda: plan.images_of(entries, dataset)),
                rows=rows,
                missing={entry.name: entry.missing for entry in entries},
                total=sentences(plan.total_text(entries, request.trainings_each)),
            )
        for number, result in runner.run(groups, options):
            entry = entries[number]
            if isinstance(result, LoupeError):
                entry.why = str(result)
                logger.warning(f"{entry.name}: {result}")
            else:
                entry.runs = result
        failed = [f"{entry.name}: {entry.why}" for entry in entries if entry.why]
        # While a candidate is missing, another may still be chosen, so the test images stay unused.
        opening = "none" if folds or failed else "all" if open_test else "chosen"
        results = results_of(comparison, before, entries, opening, dataset, options.output, joined)
        joined.from_main(lambda: _check_failed(failed, len(entries)))
        return results


def _check_failed(failed: Sequence[str], candidates: int) -> None:
    """Check that no candidate has failed.

    Raises:
        RunStateError: one has; `failed` names each with the reason.
    """
    if failed:
        raise RunStateError(
            f"{len(failed)} of {counted(candidates, 'candidate')} failed; the others are finished. {failed[0]}"
        )


def compare_runs(
    runs: Sequence[str | Path | Run],
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> ComparisonResults:
    """Compare finished runs with the same validation images; runs of one recipe are seeds of one candidate.

    Unlike `compare`, it evaluates no test images, unless `open_test` is given.

    Args:
        runs: finished runs, their paths, or their names in `output`.
        output, name, open_test, device, quiet: as for `compare`.

    Raises:
        ConfigError: fewer than two candidates, a run that is named twice, or a taken `name`.
        RunStateError: a run is missing or unfinished, or has other validation images.
    """
    files.check_name(name)
    output = Path(output)
    if len({str(run.path if isinstance(run, Run) else run) for run in runs}) < len(runs):
        raise ConfigError("--runs names a run twice. Name each run once.")
    with ranks.joined() as joined:
        opened = [
            run if isinstance(run, Run) else Run(rundir.open_run(run, output), device=device, quiet=quiet)
            for run in runs
        ]
        entries = candidates.group_by_recipe(opened)
        if len(entries) < 2:
            raise ConfigError(
                f"--runs names runs of one recipe, {entries[0].recipe.name}. Name runs of two recipes, or give DATA "
                "and --recipes to train others."
            )
        names = sorted(run.directory.name for run in opened)
        comparison = Comparison(
            version=__version__,
            name=name or "comparison",
            dataset=opened[0].results.dataset,
            seeds=max(len(entry.runs) for entry in entries),
            folds=0,
            settings=(),
            command=command_line(["loupe", "compare", *names, *(["--open-test"] if open_test else [])]),
            environment=_environment(device),
        )
        comparison, before = joined.from_main(lambda: files.named(comparison, name, output))
        return results_of(comparison, before, entries, "all" if open_test else "none", None, output, joined)


def _environment(device: str) -> dict[str, Any]:
    chosen = choose_device(device)
    return provenance.environment(str(chosen), gpu_name(chosen), torch.get_num_threads()).to_json()
