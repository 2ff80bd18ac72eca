"""Page of a run: one HTML file that needs no network and no server, made from the run directory alone.

It is complete without its scripts, which open the pictures of a confusion cell, sort and filter the misclassified
images, and copy commands.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loupe.data.remote.redaction import redacted_word
from loupe.errors import RunStateError
from loupe.evaluate.history import StageResult, kept_row, read_history
from loupe.evaluate.results import Evaluation, RunResults, results_file, results_of, stages_of
from loupe.files import write_atomic
from loupe.log import command_line, printable, rounded
from loupe.provenance import environment_file, environment_of
from loupe.records import RecordError
from loupe.report import confidence, content, figures, gallery, pictures, texts, training_curves
from loupe.report.receipt import receipt, repeat_command
from loupe.report.template import frame, render
from loupe.rundir import RunDirectory

NOTEBOOK_PX = 800  # height of a cell; longer content scrolls
FIRST_MISSED = 24  # misclassified images; the others are in a closed section
STYLES = ("pictures.css",)
SCRIPTS = ("matrix.js", "missed.js", "copy.js")

_left_out: list[bool] = []


@contextmanager
def left_out() -> Iterator[None]:
    """Context in which no page is written: of many runs, few are looked at. `loupe report RUN` writes it."""
    _left_out.append(True)
    try:
        yield
    finally:
        _left_out.pop()


def write_page(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, from the files that the run has so far, and return its path.

    Inside of `left_out` nothing is written.

    Raises:
        LoupeError: the folder is not a run, or one of its files is damaged or of another version.
    """
    run = RunDirectory(run_dir)
    if not run.file("recipe.yaml").is_file():
        raise RunStateError(f"{run_dir} is not a run: it has no recipe.yaml. Runs are made by: loupe train DATA")
    path = run.file("report.html")
    if _left_out:
        return path
    write_atomic(path, render("report.html", gather(run), styles=STYLES, scripts=SCRIPTS))
    return path


def in_notebook(run_dir: Path) -> str:
    """Result, metrics and learning curves of a run as HTML for a notebook cell, in a frame."""
    return frame(render("notebook.html", gather(RunDirectory(run_dir)), styles=(*STYLES, "cell.css")), NOTEBOOK_PX)


def gather(run: RunDirectory) -> dict[str, Any]:
    """Values of the template, from the files of the run."""
    results = results_of(run)
    history, stages = read_history(run), stages_of(run, results)
    environment = environment_of(run)
    command = [printable(redacted_word(word)) for word in environment.command]
    shown: dict[str, Any] = {
        "name": run.path.resolve().name,
        "results": results,
        "history": history,
        "stages": stages,
        "curves": training_curves.curves(history, stages, results.best_epoch if results else None),
        "length": texts.length(stages, len(history)),
        "lengths": _lengths(results, stages) if results else [],
        "chosen_by": "shares of the runs" if results and results.made_of else _chosen(stages),
        "each": texts.seconds_per_epoch(stages) if stages else results.seconds.epoch_mean if results else None,
        "training": kept_row(history, results.best_epoch) if results else {},
        "unevaluated": texts.unevaluated(results) if results else None,
        "gallery": pictures.read_gallery(run.file("gallery.parquet")),
        "calibrated": gallery.temperature(run.file("gallery.parquet")) != 1,
        "first_missed": FIRST_MISSED,
        "limit_bytes": gallery.PAGE_BYTES,
        "recipe": run.file("recipe.yaml").read_text(encoding="utf-8"),
        "environment": environment if environment_file(run).is_file() else None,
        "command": command_line(command) if command else None,
        "repeat": repeat_command(run.path, environment) if environment_file(run).is_file() else None,
        "part": None,
        "confidence": None,
        "piles": {},
        "missed": None,
    }
    if results is None:
        return shown | {"receipt": receipt(None, environment)}
    try:
        shown |= _from_results(results, shown["gallery"])
        return shown | {"receipt": receipt(results, environment)}
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise RecordError(
            results_file(run), f"figures that do not belong together ({error})", RunResults.REMEDY
        ) from None


def _lengths(results: RunResults, stages: Sequence[StageResult]) -> list[tuple[str, str, str]]:
    """L2 strengths and epochs: a name, their number, and the one that was selected or kept."""
    facts = []
    solved = [stage for stage in stages if stage.strengths]
    epochs = sum(stage.epochs or 0 for stage in stages) if stages else results.epochs
    kept = texts.kept(stages, results.best_epoch) if results.best_epoch else ""
    if solved:
        strength = solved[-1].l2_strength
        verb = "selected" if kept.startswith("epoch") else "kept"
        selected = "" if strength is None else f"{verb}: {rounded(strength)}"
        if results.refit:
            selected = f"refit: {rounded(results.refit.l2_strength)}"
        facts.append(("L2 strengths", f"{sum(stage.strengths or 0 for stage in solved):g}", selected))
    if epochs or not (solved or results.made_of):
        facts.append(("Epochs", f"{epochs:g}", kept.replace("epoch", "kept:") if kept.startswith("epoch") else ""))
    return facts


def _chosen(stages: Sequence[StageResult]) -> str:
    """Choice that validation images make."""
    names = [
        name
        for name, has in (("L2 strength", "strengths"), ("epoch", "epochs"))
        if any(getattr(s, has) for s in stages)
    ]
    return " or the ".join(names) or "epoch"


def evaluated(results: RunResults) -> tuple[str, Evaluation] | tuple[None, None]:
    """Split whose figures stand for the run, and these: test, or without it validation; None without either."""
    return next(((name, block) for name, block in reversed(results.splits.items()) if block.images), (None, None))


def _from_results(results: RunResults, kept: pictures.Gallery) -> dict[str, Any]:
    """Values from results.json: headline, metrics, matrix, sizes and times, of the test split if it was evaluated."""
    classes, spent = results.classes, results.seconds
    part, block = evaluated(results)
    piles = pictures.piles(kept, block, classes) if block else {}
    frozen = {"frozen blocks": spent.frozen} if spent.frozen else {}
    folds = {"folds": spent.folds} if spent.folds else {}
    seconds = {"loading": spent.load, **frozen, "training": spent.train, **folds, "evaluation": spent.evaluate}
    seconds["total"] = spent.total
    images = {"training": results.images.train, "validation": results.images.val, "test": results.images.test}
    return {
        "part": part,
        "block": block,
        "commonest": max(row.support for row in block.per_class) / block.images if block else None,
        "metrics": content.metric_rows(results),
        "matrix": content.matrix(block, classes, piles) if block else None,
        "confusions": content.confusions(block, classes, piles, seed=results.seed) if block else [],
        "missed": block.mistakes if block else None,
        "confidence": confidence.shown(results),
        "piles": piles,
        "reading_order": list(pictures.in_reading_order(piles)),
        "truths": sorted({pile.truth for pile in piles.values() if not pile.hit}),
        "guesses": sorted({pile.guess for pile in piles.values() if not pile.hit}),
        "splits": content.bar_drawing("Images", images, [f"{number:,}" for number in images.values()], figures.FIRST),
        "times": content.bar_drawing(
            "Time", seconds, [texts.duration(value) for value in seconds.values()], figures.SECOND
        ),
    }
