"""Distillation: a network learns the probabilities of a trained run, its teacher, beside the labels.

A teacher may be any run: a blend of several networks, whose probabilities one network then learns, or a single one that
is too large or too slow. It predicts the training images once, as they are, and its calibrated probabilities have a
share in the target of every view of an image.

Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", at temperature 1.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from loupe import ranks, rundir
from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.class_names import same_form
from loupe.data.pixels.prepare import Images
from loupe.data.splits.split import Split
from loupe.errors import ConfigError, LoupeError, RunStateError, counted, enumerated, sentences
from loupe.evaluate.blend_results import BlendVerdict
from loupe.evaluate.paired import difference_of_hits
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.evaluate.results import results_file
from loupe.log import logger, terminal
from loupe.provenance import TeacherRun, environment_of, of_file
from loupe.report import run_page
from loupe.rundir import RunDirectory
from loupe.runs import parents
from loupe.runs.predict_time import predict_seconds
from loupe.runs.run import Run
from loupe.training.train_step import Teaching

Floats = npt.NDArray[np.float32]

CERTAIN = 0.99  # mean probability of the label in training images, from which on a teacher says little beside it


def absolute(teacher: str | Path | None, runs: Path) -> str | None:
    """Folder of the teacher, given by its folder or by its name in the runs folder.

    Raises:
        RunStateError: there is no such run.
    """
    return None if teacher is None else str(rundir.open_run(teacher, runs).path.absolute())


def check(recipe: Recipe, classes: Sequence[str]) -> None:
    """Check, before any image is decoded, that a recipe can learn from its teacher.

    Raises:
        ConfigError: it solves heads alone, or the teacher has other classes.
        RunStateError: there is no such run, or it is not finished.
    """
    if recipe.teacher is None:
        if recipe.teacher_share != Recipe.model_fields["teacher_share"].default:
            raise ConfigError("teacher_share is the share of a teacher, and there is none. Give --teacher RUN too.")
        return
    if all(stage.is_solved for stage in recipe.stages):
        raise ConfigError(
            f"recipe {recipe.name} only solves a head, which learns from labels alone. Leave out --teacher, or choose "
            "a recipe that trains in steps, for example last-block or small-images."
        )
    teacher = _run(recipe.teacher)
    names = [{same_form(name) for name in one} for one in (classes, teacher.classes)]
    if names[0] != names[1]:
        other = enumerated(sorted(names[0] ^ names[1]), most=5)
        raise ConfigError(f"the teacher {teacher.path} has other classes than these images: {other}.")


def _run(folder: str, device: str = "auto") -> Run:
    directory = rundir.open_run(folder)
    if not results_file(directory).is_file():
        raise RunStateError(f"the teacher {directory.path} is not finished. Resume it, or give another --teacher.")
    return Run(directory, device=device, quiet=True)


def record(recipe: ResolvedRecipe, split: Split, content: Sequence[str]) -> TeacherRun | None:
    """Record of the teacher, for environment.json; None without one.

    A warning is logged if it was trained on images that are to evaluate the new run.
    """
    if recipe.teacher is None:
        return None
    teacher = _run(recipe.teacher)
    shown, remedy = f"the teacher {teacher.directory.name}", parents.remedy_of(teacher.directory)
    seen = parents.seen(teacher.path, shown, split, content, remedy=remedy)
    return TeacherRun(
        name=teacher.directory.name,
        path=str(teacher.path.absolute()),
        weights=of_file(_weights(teacher)),
        network=teacher.recipe.model.name,
        share=recipe.teacher_share,
        seen_validation=seen["val"],
        seen_test=seen["test"],
    )


def _weights(run: Run) -> Path:
    return run.directory.model / "weights.safetensors"


def weights_hash(recipe: Recipe) -> str | None:
    """SHA-256 of the weights of a recipe's teacher; None without one.

    Raises:
        RunStateError: there is no such run, or it is not finished.
    """
    return None if recipe.teacher is None else of_file(_weights(_run(recipe.teacher)))


def check_unchanged(recipe: Recipe, run: RunDirectory) -> None:
    """Check that the teacher of an interrupted run is the one that it was begun with.

    Raises:
        RunStateError: it has other weights, or is gone.
    """
    recorded = environment_of(run).teacher
    if recipe.teacher is None or recorded is None:
        return
    try:
        weights = weights_hash(recipe)
    except (LoupeError, OSError) as error:
        raise RunStateError(f"the teacher of {run.path} cannot be read: {error} Restore it.") from None
    if weights != recorded.weights:
        raise RunStateError(
            f"the teacher {recipe.teacher} has other weights than when {run.path} was begun. Restore it, or train "
            "again with another --name."
        )


def teaching(
    recipe: ResolvedRecipe, images: Images, split: Split, device: torch.device | str = "auto"
) -> Teaching | None:
    """Calibrated probabilities of the teacher for the training and validation images; None without a teacher.

    Raises:
        LoupeError: its files cannot be read, or its images cannot be prepared.
    """
    if recipe.teacher is None:
        return None
    teacher, classes = _run(recipe.teacher, str(device)), images.table.classes
    rows_M = np.concatenate([split.train, split.val])
    with terminal(quiet=True):
        found = teacher.predictions(images.table.select(rows_M))  # by all ranks together
    probability_NK = np.zeros((len(images.table), len(classes)), np.float32)
    probability_NK[rows_M] = ranks.current().from_main(lambda: _probabilities(teacher, found, classes))
    label_M, own_MK = images.table.labels[split.train], probability_NK[split.train]
    right = (own_MK.argmax(axis=1) == label_M).mean()
    sure = float(own_MK[np.arange(len(label_M)), label_M].mean())
    logger.info(
        f"teacher {teacher.path}: its probabilities have a share of {recipe.teacher_share:g} in the targets of "
        f"{counted(len(label_M), 'training image')}, of which it classifies {right:.1%} "
        f"correctly. {_certainty(sure)}"
    )
    return Teaching(torch.from_numpy(probability_NK), recipe.teacher_share)


def _certainty(sure: float) -> str:
    told = f"Its mean probability of the label is {sure:.3f}"
    return f"{told}: it says little that the labels do not." if sure > CERTAIN else f"{told}."


def _probabilities(teacher: Run, found: Predictions, classes: Sequence[str]) -> Floats:
    """Calibrated probabilities [N, K] in the order of other classes."""
    place = {same_form(name): number for number, name in enumerate(found.classes)}
    calibrated_NK = found.calibrated(teacher.temperature).probabilities_NK
    return np.asarray(calibrated_NK[:, [place[same_form(name)] for name in classes]], np.float32)


def judge(directory: RunDirectory, taught: Teaching, images: Images, split: Split, device: torch.device | str) -> None:
    """Add the verdict on a student beside its teacher to the results of its run, and write its page again.

    A teacher that is gone by then, or can no longer be read, is told in the log.
    """
    student = Run(directory, device=str(device), quiet=True)
    if student.results.distilled is not None or not len(split.val):
        return
    try:
        teacher = _run(str(student.recipe.teacher), str(device))
        seconds = predict_seconds(student, teacher)
    except (LoupeError, OSError) as error:
        logger.warning(f"not compared with its teacher: {error}")
        return
    own = read_splits(directory.file("predictions.csv"))["val"]
    row_of = {images.content[row]: row for row in split.val.tolist()}
    theirs_NK = taught.probability_NK.numpy()[[row_of[digest] for digest in own.content]]
    name = teacher.directory.name
    names = f"the teacher {name}" if name == directory.name else name, directory.name
    hits = [(one_NK.argmax(axis=1) == own.label)[None] for one_NK in (theirs_NK, own.logits_NK)]
    difference = difference_of_hits(*names, dict(zip(names, hits, strict=True)))
    verdict = BlendVerdict.of(difference, seconds, remark=_remark(directory))
    student.results.model_copy(update={"distilled": verdict}).write(results_file(directory))
    run_page.write_page(directory.path)
    logger.info(f"distilled: {sentences(verdict.text, verdict.remark or '')}")


def _remark(directory: RunDirectory) -> str | None:
    """Remark on a comparison that favours the teacher, as it was trained on some of these images."""
    record = environment_of(directory).teacher
    if record is None or record.seen_validation == 0:
        return None
    if record.seen_validation is None:
        return "Not all training images of the teacher are known: some may be among these."
    return f"The teacher was trained on {record.seen_validation:,} of these images, so that this favours it."
