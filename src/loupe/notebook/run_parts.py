"""Displays of the parts of a finished run: learning curves, confusion matrix, misclassified images, layers."""

from loupe.errors import RunStateError, counted
from loupe.evaluate.history import read_history
from loupe.evaluate.results import Evaluation, RunResults, stages_of
from loupe.notebook.display import Display, display
from loupe.notebook.layers import layers_display
from loupe.report import content, gallery, pictures, texts, training_curves
from loupe.report.run_page import FIRST_MISSED, STYLES, evaluated
from loupe.rundir import RunDirectory

MOST_PX = 1200  # a higher display scrolls
OF_PUBLISHED = {"micro_f1": "F1 (micro)", "roc_auc": "AUC", "log_loss": "Loss"}  # besides accuracy


def curves(run: RunDirectory, results: RunResults) -> Display:
    """Loss and accuracy over the epochs, for training and validation."""
    history, stages = read_history(run), stages_of(run, results)
    drawn = training_curves.curves(history, stages, results.best_epoch)
    diagnosis = results.diagnosis.text if results.diagnosis else ""
    text = f"{_name(run)}: learning curves of {texts.length(stages, len(history))}. {diagnosis}".strip()
    shown = {"name": _name(run), "results": results, "curves": drawn}
    height_px = 160 + 330 * len(drawn) + (210 if diagnosis else 0)
    return display("cell_curves.html", shown, text=text, height_px=height_px, styles=STYLES)


def confusion(run: RunDirectory, results: RunResults) -> Display:
    """Confusion matrix and most frequent errors of the test images, or of the validation images without a test.

    Raises:
        RunStateError: neither were evaluated.
    """
    part, block = _evaluated(run, results)
    classes = results.classes
    errors = content.confusions(block, classes, {}, seed=results.seed)
    shown = {
        "name": _name(run),
        "results": results,
        "part": part,
        "matrix": content.matrix(block, classes, {}),
        "confusions": errors,
        "piles": {},
    }
    listed = "; ".join(f"{one.truth} taken for {one.guess}: {one.count:,}" for one in errors[:5])
    text = f"{_name(run)}: {block.mistakes:,} of {counted(block.images, part + ' image')} misclassified"
    text = f"{text}. Most frequent: {listed}." if listed else f"{text}."
    numbers = len(classes) <= content.MOST_CELLS_WITH_NUMBERS
    height_px = 230 + (54 if numbers else 26) * len(classes) + (90 + 22 * len(errors) if len(classes) > 2 else 0)
    return display("cell_confusion.html", shown, text=text, height_px=min(MOST_PX, height_px), styles=STYLES)


def missed(run: RunDirectory, results: RunResults) -> Display:
    """First misclassified images of the same split, those with the highest loss first.

    Raises:
        RunStateError: no images were evaluated.
    """
    part, block = _evaluated(run, results)
    file = run.file("gallery.parquet")
    first = pictures.read_gallery(file)["missed"][:FIRST_MISSED]
    shown = {
        "name": _name(run),
        "results": results,
        "part": part,
        "block": block,
        "gallery": {"missed": first},
        "calibrated": gallery.temperature(file) != 1,
        "first_missed": FIRST_MISSED,
        "missed": block.mistakes,
        "piles": {},
    }
    text = f"{_name(run)}: {counted(block.mistakes, 'misclassified image')} of the {part} split"
    height_px = 180 + 300 * -(-len(first) // 6)
    return display("cell_missed.html", shown, text=text, height_px=min(MOST_PX, height_px), styles=STYLES)


def layers(run: RunDirectory, results: RunResults) -> Display:
    """Layers with their output shapes and parameters, and a flag for those that the last stage trained."""
    return layers_display(_name(run), results.parameters, results.layers)


def published(run: RunDirectory, results: RunResults) -> Display:
    """Figures of the published experiment that the recipe repeats, beside those of the run.

    Raises:
        RunStateError: the recipe repeats no published experiment.
    """
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
    history, stages = read_history(run), stages_of(run, results)
    each = texts.seconds_per_epoch(stages) if stages else results.seconds.epoch_mean
    rows: list[tuple[str, str, str, str]] = [(f"Accuracy, {found.judged_on} images", accuracy, *measured[0])]
    rows += [
        (title, texts.number(value), texts.estimate(block.metric(key)), texts.interval(block.metric(key)) or "")
        for key, title in OF_PUBLISHED.items()
        if block and (value := getattr(found, key)) is not None
    ]
    rows += [
        ("Epochs", f"{found.epochs:,}", texts.length(stages, len(history)), _kept(results)),
        ("Parameters", _count(found.parameters), texts.count(results.parameters.total), ""),
        ("Time per epoch", texts.duration(found.seconds_per_epoch), texts.duration(each), results.device),
        ("Total time", texts.duration(found.seconds), texts.duration(results.seconds.total), ""),
    ]
    text = f"{found.name}: published {accuracy}, measured {measured[0][0]} ({measured[0][1]})"
    shown = {"name": _name(run), "rows": rows, "published": found}
    return display("cell_published.html", shown, text=text, height_px=280 + 38 * len(rows))


def _kept(results: RunResults) -> str:
    kept = texts.kept(results.stages, results.best_epoch) if results.best_epoch else ""
    return f"kept: {kept}" if kept else ""


def _count(value: int | None) -> str:
    return texts.UNDEFINED if value is None else texts.count(value)


def _evaluated(run: RunDirectory, results: RunResults) -> tuple[str, Evaluation]:
    """Split of the figures of a run, and these.

    Raises:
        RunStateError: there are none.
    """
    part, block = evaluated(results)
    if part is None or block is None:
        raise RunStateError(f"{run.path} has no predictions to show. {texts.unevaluated(results)}")
    return part, block


def _name(run: RunDirectory) -> str:
    return run.path.resolve().name
