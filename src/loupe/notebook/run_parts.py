"""Displays of the parts of a finished run: learning curves, confusion matrix, misclassified images, layers."""

from pathlib import Path
from typing import Any

from loupe.errors import RunStateError, counted
from loupe.evaluate.results import RunResults
from loupe.notebook.display import Display, display
from loupe.notebook.layers import layers_display
from loupe.report import content, texts
from loupe.report.run_page import FIRST_MISSED, STYLES, gather
from loupe.rundir import RunDirectory

MOST_PX = 1200  # a higher display scrolls


def curves(run: Path) -> Display:
    """Loss and accuracy over the epochs, for training and validation."""
    shown = gather(RunDirectory(run))
    results: RunResults = shown["results"]
    drawn = len(shown["curves"])
    diagnosis = results.diagnosis.text if results.diagnosis else ""
    text = f"{shown['name']}: learning curves of {shown['length']}. {diagnosis}".strip()
    return display("cell_curves.html", shown, text=text, height_px=200 + 400 * drawn + (170 if diagnosis else 0))


def confusion(run: Path) -> Display:
    """Confusion matrix and most frequent errors of the test images, or of the validation images without a test.

    Raises:
        RunStateError: neither were evaluated.
    """
    shown = _evaluated(run)
    results, block = shown["results"], shown["block"]
    classes = results.classes
    errors = content.confusions(block, classes, {}, seed=results.seed)
    shown |= {"matrix": content.matrix(block, classes, {}), "confusions": errors, "piles": {}}
    listed = "; ".join(f"{one.truth} taken for {one.guess}: {one.count:,}" for one in errors[:5])
    text = f"{shown['name']}: {block.mistakes:,} of {counted(block.images, shown['part'] + ' image')} misclassified"
    numbers = len(classes) <= content.MOST_CELLS_WITH_NUMBERS
    height_px = 230 + (54 if numbers else 26) * len(classes) + (90 + 22 * len(errors) if len(classes) > 2 else 0)
    text = f"{text}. Most frequent: {listed}." if listed else f"{text}."
    return display("cell_confusion.html", shown, text=text, height_px=min(MOST_PX, height_px), styles=STYLES)


def missed(run: Path) -> Display:
    """Misclassified images, those with the highest loss first.

    Raises:
        RunStateError: no images were evaluated.
    """
    shown = _evaluated(run) | {"piles": {}}
    pictures = shown["gallery"]["missed"]
    lines = -(-min(len(pictures), FIRST_MISSED) // 6)
    text = f"{shown['name']}: {counted(shown['missed'], 'misclassified image')} of the {shown['part']} split"
    height_px = 180 + 300 * lines
    return display("cell_missed.html", shown, text=text, height_px=min(MOST_PX, height_px), styles=STYLES)


def layers(run: Path, results: RunResults) -> Display:
    """Layers with their output shapes and parameters, and a flag for those that the last stage trained."""
    return layers_display(RunDirectory(run).path.resolve().name, results.parameters, results.layers)


def published(run: Path) -> Display:
    """Figures of the published experiment that the recipe repeats, beside those of the run.

    Raises:
        RunStateError: the recipe repeats no published experiment.
    """
    shown = gather(RunDirectory(run))
    results: RunResults = shown["results"]
    found = results.published
    if found is None:
        raise RunStateError(
            f"recipe {results.recipe} repeats no published experiment. For those that do: loupe recipes"
        )
    accuracy = texts.percent(found.accuracy)
    if found.accuracy_to is not None:
        accuracy = texts.between(found.accuracy, found.accuracy_to, as_percent=True) or accuracy
    block = {"test": results.test, "validation": results.validation}[found.judged_on]
    measured = [("not evaluated", "")]
    if block and block.images:
        interval = texts.interval(block.accuracy, as_percent=True) or ""
        measured = [(texts.percent(block.accuracy.value), f"{interval}, {counted(block.images, 'image')}")]
    rows: list[tuple[str, str, str, str]] = [(f"Accuracy, {found.judged_on} images", accuracy, *measured[0])]
    rows += [
        ("Epochs", f"{found.epochs:,}", shown["length"], _kept(results)),
        ("Parameters", _count(found.parameters), texts.count(results.parameters.total), ""),
        ("Time per epoch", texts.duration(found.seconds_per_epoch), texts.duration(shown["each"]), results.device),
        ("Total time", texts.duration(found.seconds), texts.duration(results.seconds.total), ""),
    ]
    text = f"{found.name}: published {accuracy}, measured {measured[0][0]} ({measured[0][1]})"
    shown |= {"rows": rows, "published": found}
    return display("cell_published.html", shown, text=text, height_px=430)


def _kept(results: RunResults) -> str:
    kept = texts.kept(results.stages, results.best_epoch) if results.best_epoch else ""
    return f"kept: {kept}" if kept else ""


def _count(value: int | None) -> str:
    return texts.UNDEFINED if value is None else texts.count(value)


def _evaluated(run: Path) -> dict[str, Any]:
    """Values of a run with figures of images that it was not trained on."""
    shown = gather(RunDirectory(run))
    if not shown.get("part"):
        raise RunStateError(f"{run} has no predictions to show. {texts.unevaluated(shown['results'])}")
    return shown
