"""Recipes compared on the same images: planned, trained in order of cost, judged on validation, the test opened once.

Candidates that are trained here never see the test images. The judgement is made on validation images; then the test
is opened for the chosen one alone, or for all with `open_test`. Every look is counted in the runs folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from loupe import __version__, provenance, rundir
from loupe.comparison import candidates, files, plan
from loupe.comparison.candidates import Entry
from loupe.comparison.request import ComparisonRequest
from loupe.data.dataset import Dataset, open_dataset
from loupe.devices import choose_device, gpu_name
from loupe.errors import ConfigError, InterruptedRunError, LoupeError, RunStateError
from loupe.evaluate.comparison_results import CandidateRow, Comparison, ComparisonPlan, ComparisonResults, TestOpening
from loupe.evaluate.selection import Judgement, judge
from loupe.log import command_line, logger, terminal
from loupe.runs.finalize import open_test as opened
from loupe.runs.options import RunOptions
from loupe.runs.run import Run


def compare(
    data: Any,
    *,
    recipes: Sequence[str] = (),
    model: str | None = None,
    weights: str | None = None,
    seeds: int = 1,
    folds: int = 0,
    settings: Sequence[str] = (),
    open_test: bool = False,
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    skip_damaged: bool = False,
    plan_only: bool = False,
    quiet: bool = False,
) -> ComparisonResults | ComparisonPlan:
    """Trains recipes on the same split, judges them, and writes NAME as .json, .md, .csv and .html into `output`.

    Finished runs are read and interrupted ones go on, so that the same call again does what is missing, and gives the
    same files where nothing is.

    Args:
        data: as for `loupe.train`.
        recipes: names or YAML files; none stands for the ladder from scratch to the whole pretrained network.
        model, weights: of the recipes that start from a pretrained network.
        seeds: trainings of each, on one and the same split. folds: 2 or more cross-validate each recipe instead, and
            leave the test locked.
        settings: keys of the recipes as KEY=VALUE, for every recipe.
        open_test: open the test images for every candidate, not for the chosen one alone.
        name: of the files; None is `comparison-` and the data's name, with a number where another comparison has that.
        plan_only: time a few batches, say what it will take, and stop.

    Returns:
        the results, as the JSON file holds them; with `plan_only`, each candidate with its expected cost.

    Raises:
        LoupeError: nothing to compare, or something that the caller can put right, as a name that another comparison
            has; a candidate that failed, after the others.
        InterruptedRunError: stopped and saved; the same call goes on.
    """
    request = ComparisonRequest(tuple(recipes), model, weights, seeds, folds, tuple(settings), open_test)
    options = RunOptions(Path(output), device, skip_damaged, quiet)
    with terminal(quiet=quiet):
        files.check_name(name)
        request.check()
        dataset = open_dataset(data)
        entries = plan.resolved(dataset, request)
        asked = Comparison(
            version=__version__,
            name=name or f"comparison-{dataset.name}",
            dataset=dataset.name,
            seeds=seeds,
            folds=folds,
            settings=request.settings,
            command=request.command([entry.asked or entry.name for entry in entries], skip_damaged=skip_damaged),
            environment=_environment(device),
        )
        wanted, before = files.name_of(asked, name, options.output)
        asked = asked.model_copy(update={"name": wanted})
        plan.plan(entries, dataset, request, options)
        if plan_only:
            rows = tuple(candidates.row(entry, [], options.output) for entry in entries)
            return ComparisonPlan(**dict(asked), rows=rows)
        for number, entry in enumerate(entries, 1):
            logger.info(f"\n{number} of {len(entries)}: {entry.name}, {entry.expected}")
            try:
                entry.runs = candidates.runs_of(entry, dataset, request, options)
            except InterruptedRunError:
                raise InterruptedRunError("stopped and saved. The same command goes on where this one ended.") from None
            except LoupeError as error:
                entry.why = str(error)
                logger.warning(f"{entry.name}: {error}")
        failed = [f"{entry.name}: {entry.why}" for entry in entries if entry.why]
        # While a candidate is missing, another may yet be chosen: the test waits for it.
        opening = "none" if folds or failed else "all" if open_test else "chosen"
        results = _results(asked, before, entries, opening, dataset, options.output)
        files.write(results, options.output)
        if failed:
            raise RunStateError(f"{len(failed)} of {len(entries)} candidates failed; the others are done. {failed[0]}")
        return results


def compare_runs(
    runs: Sequence[str | Path],
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> ComparisonResults:
    """Judges finished runs that were validated on the same images; those of one recipe are seeds of one candidate.

    Raises:
        LoupeError: fewer than two candidates, an unfinished run, runs with other validation images, or a name that
            another comparison has.
    """
    files.check_name(name)
    output = Path(output)
    if len({str(run) for run in runs}) < len(runs):
        raise ConfigError("a run is named twice: each counts as a training of its own.")
    found = [Run(rundir.open_run(run, output), device=device, quiet=quiet) for run in runs]
    entries = candidates.grouped(found)
    if len(entries) < 2:
        raise ConfigError("these are runs of one recipe: name two recipes' runs, or DATA to train others.")
    asked = Comparison(
        version=__version__,
        name=name or "comparison",
        dataset=found[0].results.dataset,
        seeds=max(len(entry.runs) for entry in entries),
        folds=0,
        settings=(),
        command=command_line(
            ["loupe", "compare", *sorted(run.directory.name for run in found), *(["--open-test"] if open_test else [])]
        ),
        environment=_environment(device),
    )
    wanted, before = files.name_of(asked, name, output)
    asked = asked.model_copy(update={"name": wanted})
    results = _results(asked, before, entries, "all" if open_test else "none", None, output)
    files.write(results, output)
    return results


def _results(
    asked: Comparison,
    before: ComparisonResults | None,
    entries: Sequence[Entry],
    opening: str,
    dataset: Dataset | None,
    output: Path,
) -> ComparisonResults:
    """The judgement on validation images, what opening the test then shows, and a row for each candidate, by cost.

    What was timed `before` for the same runs stays, with the environment in which it was timed.
    """
    done = sorted((entry for entry in entries if entry.runs), key=lambda entry: entry.order)
    failed = [entry for entry in entries if not entry.runs]
    if not done:
        raise RunStateError(f"no candidate came to its end. {entries[0].name}: {entries[0].why}")
    judgement = judge([candidates.candidate(entry, "val") for entry in done])
    open_before = tuple(entry.name for entry in done if any(_opened_itself(run) for run in entry.runs))
    for entry in done:
        if opening == "all" or (opening == "chosen" and entry.name == judgement.chosen):
            entry.runs = [opened(run, dataset) if run.results.images.test else run for run in entry.runs]
    seen = [entry for entry in done if all(run.results.test for run in entry.runs)]
    rows_before = {row.name: row for row in before.rows} if before else {}
    rows = tuple(candidates.row(entry, seen, output, rows_before.get(entry.name)) for entry in [*done, *failed])
    results = ComparisonResults(
        **dict(asked),
        images=done[0].runs[0].results.images.counts,
        rows=rows,
        judgement=judgement,
        next=_next(judgement, done),
        test=TestOpening(
            opened=tuple(entry.name for entry in seen),
            opened_before=open_before,
            looks=_looks(done),
            judgement=judge([candidates.candidate(entry, "test") for entry in seen]) if len(seen) > 1 else None,
        ),
    )
    if before and before.version == asked.version and all(_same_runs(row, rows_before.get(row.name)) for row in rows):
        return results.model_copy(update={"environment": before.environment})
    return results


def _looks(done: Sequence[Entry]) -> int:
    """Number of looks at the test splits of these candidates, each counted in its runs folder."""
    every = [run for entry in done for run in entry.runs]
    looked = {(run.path.parent.resolve(), run.results.split_hash) for run in every if run.results.split_hash}
    return sum(rundir.count_looks(folder, identity) for folder, identity in looked)


def _same_runs(row: CandidateRow, before: CandidateRow | None) -> bool:
    other = before.measured if before else None
    return (row.measured.runs if row.measured else None) == (other.runs if other else None)


def _opened_itself(run: Run) -> bool:
    """Whether a run was trained to look at its test images, and so did before anything was compared."""
    return run.results.test is not None and provenance.environment_of(run.directory).open_test


def _next(judgement: Judgement, done: Sequence[Entry]) -> str | None:
    """What would tell more, where the best is not taken for want of evidence."""
    if judgement.best == judgement.chosen or any(entry.has_folds for entry in done):
        return None
    return "More images tell more: loupe compare DATA --folds 5 validates once on each that is not locked away."


def _environment(device: str) -> dict[str, Any]:
    place = choose_device(device)
    return provenance.environment(str(place), gpu_name(place), torch.get_num_threads()).to_json()
