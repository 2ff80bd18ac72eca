"""Verdicts on accuracies alone, by the number of images that they are of; and those on a head that was solved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loupe.errors import counted
from loupe.evaluate.advice import Advice
from loupe.evaluate.chance import LabelCounts, lowest_accuracy

Verdict = Literal[
    "unjudged",
    "undecided",
    "all-correct",
    "not-learning",
    "overfitting",
    "unstable",
    "improving",
    "memorising",
    "underfitting",
    "agreeing",
    "level",
]
Row = Mapping[str, Any]
FOLDS = 5
NEARLY_ALL = 0.98  # from this accuracy on, more capacity gains little


@dataclass(frozen=True)
class Diagnosis:
    """Verdict on the learning curves, with a recommendation.

    Attributes:
        verdict: rule that applies.
        epoch: epoch of the evidence, over all stages, from 1; None where no single epoch is.
        text: verdict in words.
        settings: recommended changes of the recipe, in the form of `--set`.
        recipe: name of a recommended recipe; without one and without settings there is no recommendation.
    """

    verdict: Verdict
    epoch: int | None
    text: str
    settings: tuple[str, ...] = ()
    recipe: str | None = None


def by_folds(training: LabelCounts) -> str:
    """Sentence on cross-validation, with as many folds as the rarest class allows; else on more images."""
    folds = FOLDS if training.rarest is None else min(FOLDS, training.rarest)
    if folds < 2:
        return "More images of every class can."
    return f"To validate on every image outside the test split: loupe compare DATA --folds {folds}"


def all_correct(kept: Row, training: LabelCounts, validation: LabelCounts, choices: int) -> Diagnosis:
    """Verdict on an accuracy of 1, which more training cannot raise on these images; they chose one of `choices`."""
    images, lowest = validation.images, lowest_accuracy(validation.images, choices)
    text = (
        f"{'All' if images > 1 else 'The'} {counted(images, 'validation image')} {'are' if images > 1 else 'is'} "
        f"classified correctly (training accuracy {kept['train_accuracy']:.3f} of {training.images:,}). So the "
        f"accuracy on images like these is above {_below(lowest)} with 95 % confidence"
    )
    if validation.exceeded_by(1.0):
        return Diagnosis("all-correct", int(kept["epoch"]), f"{text}. Only more validation images can tell more.")
    fits = "The network tells its training images apart. " if training.exceeded_by(kept["train_accuracy"]) else ""
    text += (
        f"; always predicting the most common class gives {validation.share:.3f}. {fits}Whether it tells other images "
        f"apart cannot be told: {_other_images(validation)}."
    )
    return Diagnosis("undecided", int(kept["epoch"]), text)


def _below(limit: float) -> str:
    """Limit with three decimals, never rounded up."""
    return f"{math.floor(limit * 1000) / 1000:.3f}"


def _other_images(counts: LabelCounts) -> str:
    """Words for the images that decide: those of the classes that are not the most common one."""
    others, images = counts.images - counts.commonest, counts.images
    if not others:
        return "all validation images are of one class" if images > 1 else "one validation image is of one class"
    return f"only {others:,} of {images:,} validation images {'is' if others == 1 else 'are'} of other classes"


def chance(
    accuracies: tuple[float, float],
    training: LabelCounts,
    validation: LabelCounts,
    accuracies_text: str,
    settings: tuple[str, ...],
    remedy: str = "Try another learning rate first.",
    recipe: str | None = None,
) -> Diagnosis | None:
    """Verdict on accuracies of training and validation that are not clearly above chance; None if one is."""
    train, val = accuracies
    if training.exceeded_by(train) or validation.exceeded_by(val):
        return None
    shares = f"Always predicting the most common class gives {training.share:.3f} and {validation.share:.3f}"
    text = f"{accuracies_text}. {shares}: the network is not clearly better."
    if training.excludes_learning(train) and val < (1 + validation.share) / 2:
        advised = remedy if settings or recipe else ""
        return Diagnosis("not-learning", None, f"Not learning: {text} {advised}".rstrip(), settings, recipe)
    needed = training.images_to_decide()
    more = f" About {needed:,} training images with these shares would." if needed and needed > training.images else ""
    text = f"Whether the network learns cannot be told from {counted(training.images, 'training image')}: {text}{more}"
    return Diagnosis("undecided", None, text)


def diagnose_strengths(
    rows: Sequence[Row], kept: Row, advice: Advice, training: LabelCounts, validation: LabelCounts
) -> Diagnosis:
    """Diagnosis of a solved head, whose rows are L2 strengths and not epochs of a learning curve."""
    index, epoch = next((i for i, row in enumerate(rows) if row is kept), len(rows) - 1), int(kept["epoch"])
    both = rates(kept["train_accuracy"], training, kept["val_accuracy"], validation)
    more = "last-block" if advice.blocks > 1 else "finetune"
    accuracies = (float(kept["train_accuracy"]), float(kept["val_accuracy"]))
    undecided = chance(
        accuracies, training, validation, both, (), "The frozen features may not tell these classes apart.", more
    )
    if undecided:
        return undecided
    if not validation.exceeded_by(accuracies[1]):
        text = (
            f"The head fits its training images ({both}). Whether it does better on others than always predicting the "
            f"most common class, which gives {validation.share:.3f}, cannot be told. {by_folds(training)}"
        )
        return Diagnosis("undecided", epoch, text, recipe=more if validation.decides else None)
    stage = advice.stage
    strength_S = [row["l2_strength"] if stage.is_open else stage.l2_strength(i) for i, row in enumerate(rows)]
    place = 1 + sum(strength > strength_S[index] for strength in strength_S)
    text = (
        f"L2 strength {place} of {len(rows)} was selected ({both})"
        if len(rows) > 1
        else f"The head was solved with one L2 strength ({both})"
    )
    if wider := advice.wider_strengths(index, strength_S):
        said = "It is at the end of the range that the recipe names; a wider range may be better."
        return Diagnosis("level", epoch, f"{text}. {said}", wider)
    if kept["val_accuracy"] >= NEARLY_ALL:
        return Diagnosis("level", epoch, f"{text}. There is little left to gain on these images.")
    return Diagnosis("level", epoch, f"{text}. A higher accuracy may need more trainable blocks.", recipe=more)


def rates(train: float, training: LabelCounts, val: float, validation: LabelCounts) -> str:
    """Both accuracies with the numbers of images that they are of."""
    return f"training accuracy {train:.3f} of {training.images:,}, validation {val:.3f} of {validation.images:,} images"
