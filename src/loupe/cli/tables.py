"""Results as tables in the terminal, on standard output."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from loupe.cli.cells import estimate, plain
from loupe.errors import counted
from loupe.evaluate import metrics
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.evaluate.confidence_results import Calibration
from loupe.evaluate.experiment_results import ExperimentResults
from loupe.evaluate.history import StageResult, kept_row, read_history
from loupe.evaluate.results import Evaluation, RunResults, stages_of
from loupe.evaluate.spread import AccuracySpread
from loupe.log import console
from loupe.report import texts
from loupe.rundir import RunDirectory

HISTOGRAM_WIDTH = 40
HISTOGRAM_CLASSES = 30


def print_results(results: RunResults, path: Path) -> None:
    """Print the summary at the end of a training."""
    out = console()
    stages = stages_of(RunDirectory(path), results)
    shown = results.judged if results.refit else results.splits  # three columns are too wide
    if shown:
        blocks = shown.values()
        table = Table("", *shown, box=None)
        for metric in metrics.METRICS:
            table.add_row(plain(metric.title), *(estimate(block.metric(metric.key)) for block in blocks))
        table.add_row("images", *(f"{block.images:,}" for block in blocks))
        out.print(table)
    else:
        _print_training_figures(results, path)
    if results.folds:
        print_folds(results)
    if results.refit:
        out.print(plain(texts.refitted(results)), soft_wrap=True)
    if results.calibration:
        out.print(plain(_calibration(results.calibration)), soft_wrap=True)
    out.print(
        plain(
            f"{results.network or results.recipe}, {results.parameters.total:,} parameters "
            f"({results.parameters.non_trainable:,} non-trainable); {_training(results, stages)} "
            f"{results.precision} on {results.device}."
        ),
        soft_wrap=True,
    )
    if results.seconds.frozen >= 0.05:
        out.print(f"Frozen features (computed or cached): {results.seconds.frozen:.1f} s.")
    if results.damaged:
        out.print(f"{counted(results.damaged, 'damaged image')} left out.")
    if results.test:
        out.print(f"Test-set evaluations recorded in this folder: {results.test_looks}.")
    if results.parent or results.made_of or results.distilled:
        out.print(plain(texts.started(results)), soft_wrap=True)
    if results.diagnosis:
        advice = f" Try next:\n  {results.diagnosis.next}" if results.diagnosis.next else ""
        out.print(plain(results.diagnosis.text + advice), soft_wrap=True)
    out.print(f"Report: {plain(str(path / 'report.html'))}", soft_wrap=True)


def _print_training_figures(results: RunResults, path: Path) -> None:
    """Print the figures of the training images, where there are no others."""
    out = console()
    row = kept_row(read_history(RunDirectory(path)), results.best_epoch)
    table = Table("", "training", box=None)
    for title, key in (("accuracy", "train_accuracy"), ("loss", "train_loss")):
        figure = row.get(key)
        table.add_row(title, "–" if figure is None else f"{figure:.4f}")
    table.add_row("images", f"{results.images.train:,}")
    out.print(table)
    out.print(texts.unevaluated(results), soft_wrap=True)


def _training(results: RunResults, stages: Sequence[StageResult]) -> str:
    """Length of the stages, the weights that were kept, and the speed."""
    if results.made_of:
        return f"made of {counted(len(results.made_of), 'run')}, nothing trained;"
    row, speed = results.best_epoch or results.epochs, f"{results.images_per_second or 0:,.0f} images/s in"
    if not any(stage.strengths for stage in stages):
        mean = results.seconds.epoch_mean or 0
        return f"{counted(results.epochs, 'epoch')} of {mean:.1f} s, weights of {texts.kept(stages, row)}; {speed}"
    words = [f"{texts.part(stage)} {texts.solved(stage) if stage.strengths else _trained(stage)}" for stage in stages]
    if all(stage.strengths for stage in stages):
        return f"{', then '.join(words)};"
    return f"{', then '.join(words)}; weights of {texts.kept(stages, row)}; {speed}"


def _trained(stage: StageResult) -> str:
    return f"trained for {texts.length([stage], 0)} of {(texts.seconds_per_epoch([stage]) or 0):.1f} s"


def _calibration(calibration: Calibration) -> str:
    """Temperature and its effect on test images, in a sentence."""
    fitted = calibration.temperature
    if fitted.low is None or fitted.high is None:
        return f"Probabilities are not calibrated: {fitted.why}."
    text = f"Calibrated by temperature {fitted.value:.3f} ({texts.temperature_span(fitted.low, fitted.high)})"
    if fitted.low <= 1 <= fitted.high:
        text += ", which cannot be told from 1 (no change)"
    on = texts.fitted_on(calibration)
    if not calibration.test:
        return f"{text}, fitted on {on}."
    loss, error = calibration.test.log_loss, calibration.test.ece
    return (
        f"{text}, fitted on {on}. On test images the log loss goes from {loss.before:.4f} to "
        f"{loss.after:.4f}, the calibration error from {error.before:.4f} to {error.after:.4f}. The table shows "
        "uncalibrated values."
    )


def print_evaluation(block: Evaluation, title: str) -> None:
    """Print one evaluation: metrics with intervals, classes, confusion matrix."""
    out = console()
    views = f", test-time augmentation {block.tta}" if block.tta else ""
    heading = plain(f"{title}: {counted(block.images, 'image')}{views}")
    table = Table(title=heading, box=None, show_header=False, title_justify="left")
    for metric in metrics.METRICS:
        table.add_row(plain(metric.title), estimate(block.metric(metric.key)))
    out.print(table)
    after = block.calibrated
    if after and after.temperature != 1 and after.log_loss is not None and after.ece is not None:
        out.print(
            f"Calibrated by temperature {after.temperature:.3f}: log loss {after.log_loss:.4f}, calibration "
            f"error {after.ece:.4f}.",
            soft_wrap=True,
        )
    classes = Table("class", "precision", "recall", "F1", "images", box=None)
    for row in block.per_class:
        scores = ("–" if score is None else f"{score:.4f}" for score in (row.precision, row.recall, row.f1))
        classes.add_row(plain(row.name), *scores, f"{row.support:,}")
    out.print(classes)
    names = [plain(row.name) for row in block.per_class]
    if len(names) <= 12:
        out.print("\nConfusion matrix: rows are true classes, columns are predicted classes")
        matrix = Table("", *names, box=None)
        for name, counts in zip(names, block.confusion_matrix, strict=True):
            matrix.add_row(name, *map(str, counts))
        out.print(matrix)
    if block.test_looks is not None:
        out.print(f"Test-set evaluations recorded in this folder: {block.test_looks}.")


def print_folds(results: RunResults) -> None:
    """Print the meaning of the figures of the folds, after accuracy and macro-F1 unless these stand in the table."""
    out, block = console(), results.folds
    if block and not results.refit:
        figures = f"accuracy {estimate(block.accuracy)}, macro-F1 {estimate(block.macro_f1)}"
        out.print(f"{block.folds} folds: {figures}.", soft_wrap=True)
    out.print(plain(texts.folded(results)), soft_wrap=True)


def print_experiments(results: ExperimentResults, folder: Path) -> None:
    """Print published beside measured figures."""
    out = console()
    table = Table(box=None)
    table.add_column("experiment", no_wrap=True)
    for name in ("published", "measured, %", "epochs", "s/epoch"):
        table.add_column(name, no_wrap=True)
    table.add_column("")
    for row in results.rows:
        published, measured = row.published, row.measured
        given = "–" if published.accuracy is None else f"{100 * published.accuracy:.2f}"
        if measured is None:
            table.add_row(row.name, given, "–", str(published.epochs), "", plain(row.why or ""))
            continue
        on = "" if measured.judged_on == "test" else " (validation)"
        cells = [_in_percent(measured.accuracy), f"{published.epochs} → {measured.epochs:g}"]
        table.add_row(row.name + on, given, *cells, f"{measured.seconds_per_epoch:.1f}", row.verdict_text)
    out.print(table)
    looks = max((row.measured.test_looks for row in results.rows if row.measured), default=0)
    out.print(f"Test-set evaluations recorded in this folder: at most {looks} of one test split.")
    name = f"experiments-{results.budget}"
    out.print(f"Page: {plain(str(folder / f'{name}.html'))} (also .md, .csv and .json)", soft_wrap=True)


def print_comparison(results: ComparisonResults, folder: Path) -> None:
    """Print the table, the verdicts and the conclusion of `loupe compare`."""
    out = console()
    table = Table(box=None)
    for column in ("recipe", "validation, %", "test, %"):
        table.add_column(column, no_wrap=True)
    table.add_column("time", no_wrap=True, justify="right")
    for row in results.rows:
        measured = row.measured
        if measured is None:
            table.add_row(plain(row.name), "failed")
            continue
        test = _in_percent(measured.test.accuracy) if measured.test else "locked"
        validation = _in_percent(measured.validation.accuracy)
        table.add_row(plain(row.name), validation, test, texts.spent(measured.seconds))
    out.print(table)
    judgement, test_set = results.judgement, results.test
    for verdict in judgement.verdicts.values():
        out.print(plain(verdict), soft_wrap=True)
    out.print(f"\n{plain(judgement.conclusion)}", soft_wrap=True)
    if results.next:
        out.print(results.next, soft_wrap=True)
    opened = f"evaluated for {', '.join(test_set.opened)}" if test_set.opened else "not evaluated"
    selection = f"Selected on validation images. The test images were {opened}."
    out.print(plain(selection), soft_wrap=True)
    out.print(f"Test-set evaluations recorded in this folder: {test_set.looks}.")
    out.print(f"Page: {plain(str(folder / results.name))}.html (also .md, .csv and .json)", soft_wrap=True)


def _in_percent(accuracy: AccuracySpread) -> str:
    return f"{100 * accuracy.value:.1f} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"


def print_histogram(counts: Mapping[str, int], path: Path) -> None:
    """Print the number of images of the classes that occur, as bars: of the 30 most frequent ones."""
    out = console()
    occurring = {name: count for name, count in counts.items() if count}
    shown = set(sorted(occurring, key=lambda name: occurring[name], reverse=True)[:HISTOGRAM_CLASSES])
    table = Table("class", "images", "", box=None)
    for name, count in occurring.items():
        if name in shown:
            bar = "█" * round(HISTOGRAM_WIDTH * count / max(occurring.values()))
            table.add_row(plain(name), f"{count:,}", bar)
    out.print(table)
    if more := len(occurring) - len(shown):
        out.print(f"and {counted(more, 'more class', 'more classes')}")
    out.print(f"Predictions: {plain(str(path))}", soft_wrap=True)
