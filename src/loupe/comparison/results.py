"""Results of a comparison: select on validation images, evaluate test images, and write a row for each candidate."""

from collections.abc import Sequence
from pathlib import Path

from loupe import provenance, rundir
from loupe.comparison import candidates, files
from loupe.comparison.candidates import Entry
from loupe.comparison.finished import FinishedComparison
from loupe.data.dataset import Dataset
from loupe.data.splits.folds import LEAST_FOLDS, most_folds
from loupe.errors import RunStateError
from loupe.evaluate.chance import LabelCounts
from loupe.evaluate.comparison_results import CandidateRow, Comparison, ComparisonResults, TestOpening
from loupe.evaluate.selection import Judgement, can_tell, judge
from loupe.ranks import Ranks
from loupe.runs import finalize
from loupe.runs.run import Run


def results_of(
    comparison: Comparison,
    before: ComparisonResults | None,
    entries: Sequence[Entry],
    opening: str,
    dataset: Dataset | None,
    output: Path,
    joined: Ranks,
) -> ComparisonResults:
    """Select on validation images, evaluate the test images of the selected, and write a row for each candidate.

    Of several ranks, rank 0 selects, measures and writes.

    Args:
        comparison: identity of the comparison.
        before: earlier results; timings of the same runs are kept, with their environment.
        entries: candidates.
        opening: candidates to evaluate on test images: `none`, `chosen` or `all`.
        dataset: data of the runs; None to open it from where the runs have it.
        output: folder of the results file.
        joined: ranks that evaluate the test images.
    """
    done = sorted((entry for entry in entries if entry.runs), key=lambda entry: entry.order)
    failed = [entry for entry in entries if not entry.runs]
    if not done:
        raise RunStateError(f"all candidates failed. {entries[0].name}: {entries[0].why}")
    judgement = joined.from_main(lambda: judge([candidates.candidate(entry, "val") for entry in done]))
    open_before = joined.from_main(
        lambda: tuple(entry.name for entry in done if any(_evaluated_test(run) for run in entry.runs))
    )
    for entry in done:
        if opening == "all" or (opening == "chosen" and entry.name == judgement.chosen):
            entry.runs = [finalize.open_test(run, dataset) if run.results.images.test else run for run in entry.runs]

    def written() -> ComparisonResults:
        results = _measured(comparison, before, done, failed, judgement, open_before, dataset, output)
        files.write(results, output)
        return results

    return joined.from_main(written)


def _measured(
    comparison: Comparison,
    before: ComparisonResults | None,
    done: Sequence[Entry],
    failed: Sequence[Entry],
    judgement: Judgement,
    open_before: tuple[str, ...],
    dataset: Dataset | None,
    output: Path,
) -> ComparisonResults:
    """Results with a row for each candidate; other arguments as for `results_of`.

    Args:
        done, failed: candidates with runs, and without.
        judgement: selection on validation images.
        open_before: candidates whose test images had been evaluated before.
    """
    seen = [entry for entry in done if all(run.results.test for run in entry.runs)]
    rows_before = {row.name: row for row in before.rows} if before else {}
    rows = tuple(candidates.row(entry, seen, output, rows_before.get(entry.name)) for entry in [*done, *failed])
    results = FinishedComparison(
        **dict(comparison),
        images=done[0].runs[0].results.images.counts,
        rows=rows,
        judgement=judgement,
        next=_next(judgement, done, dataset),
        test=TestOpening(
            opened=tuple(entry.name for entry in seen),
            opened_before=open_before,
            looks=_looks(done),
            judgement=judge([candidates.candidate(entry, "test") for entry in seen]) if len(seen) > 1 else None,
        ),
    )
    same = before and before.version == comparison.version
    if before and same and all(_same_runs(row, rows_before.get(row.name)) for row in rows):
        return results.model_copy(update={"environment": before.environment})
    return results


def _looks(done: Sequence[Entry]) -> int:
    """Number of test-set evaluations recorded for the test splits of these candidates."""
    runs = [run for entry in done for run in entry.runs]
    splits = {(run.path.parent.resolve(), run.results.split_hash) for run in runs if run.results.split_hash}
    return sum(rundir.count_looks(folder, split_hash) for folder, split_hash in splits)


def _same_runs(row: CandidateRow, before: CandidateRow | None) -> bool:
    """True if both rows measured the same runs."""
    other = before.measured if before else None
    return (row.measured.runs if row.measured else None) == (other.runs if other else None)


def _evaluated_test(run: Run) -> bool:
    """True if the training itself evaluated the test images, before any comparison."""
    return run.results.test is not None and provenance.environment_of(run.directory).open_test


def _next(judgement: Judgement, done: Sequence[Entry], dataset: Dataset | None) -> str | None:
    """Next step where more validation images may change the choice: folds, as many as the rarest class allows."""
    if len(done) < 2 or any(entry.has_folds for entry in done):
        return None
    results = done[0].runs[0].results
    of_class = [row.support for row in results.validation.per_class] if results.validation else [0]
    decides = LabelCounts(max(1, sum(of_class)), max(of_class)).decides
    if judgement.best == judgement.chosen and can_tell(results.images.val, len(done)) and decides:
        return None
    split_file = done[0].runs[0].directory.file("split.csv")
    group = done[0].recipe.split.group
    folds = most_folds(split_file, dataset.table, dataset.hashes, group=group) if dataset else most_folds(split_file)
    if folds < LEAST_FOLDS:
        return "For more evidence, add images: a class has too few for cross-validation."
    return f"For more evidence, validate on every image outside the test split: loupe compare DATA --folds {folds}"
