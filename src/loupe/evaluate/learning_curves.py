"""Diagnosis of learning curves by fixed rules: overfitting, underfitting, unfinished training, no learning.

The last stage is judged. Curves are smoothed by a centred mean over three epochs. The noise of the validation loss is
estimated from the deviations of each epoch from the mean of its neighbours (median absolute deviation). The first rule
that applies gives the verdict:

* `unjudged`: no validation images, or fewer than five epochs.
* `not-learning`: no accuracy exceeds the frequency of the most common class by three standard errors.
* `unstable`: the noise of the validation loss is above 15 % of the loss.
* `overfitting`: the validation loss has risen from its minimum by 5 % and by three times its noise, while the training
  loss kept falling. It begins at the minimum.
* `improving`: with a learning rate that does not decay, the validation loss fell by 2 %, and by twice its noise, over
  the last quarter of the epochs. A rate that decays to the end lowers every curve at the end, and is no evidence.
* `memorising`: training accuracy is at least 10 points above validation.
* `underfitting`: training accuracy is at least 3 points below validation.
* `agreeing`: training and validation accuracy are less than 3 points apart.
* `level`: none of these; more epochs would gain little.

Training accuracy is measured on augmented images, with dropout and while the weights change. So the true gap is larger
than the measured one, and a training accuracy below validation means that these still limit the network.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loupe.config.network import BackboneSpec, CnnSpec
from loupe.config.optimizer import Cosine, Logistic, OneCycle
from loupe.config.recipe import AugmentSpec, Recipe, Stage
from loupe.errors import counted

Verdict = Literal[
    "unjudged",
    "not-learning",
    "overfitting",
    "unstable",
    "improving",
    "memorising",
    "underfitting",
    "agreeing",
    "level",
]
FEWEST_EPOCHS = 5
RISE, RISE_IN_NOISE = 0.05, 3.0
FALL, FALL_IN_NOISE = 0.02, 2.0
UNSTABLE = 0.15
GAP, AGREEMENT = 0.10, 0.03
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


def diagnose(
    history: Sequence[Mapping[str, Any]], recipe: Recipe, *, commonest: float | None, images: int, blocks: int
) -> Diagnosis:
    """Diagnose the last stage by the rules above.

    Args:
        history: one row for each epoch, as in metrics.csv; values that were not measured are None.
        recipe: recipe of the run.
        commonest: frequency of the most common class among the validation images; None without any.
        images: number of validation images.
        blocks: number of blocks of the trunk; `last-N` names at most all but one.
    """
    number = int(history[-1]["stage"])
    stage, rows = recipe.stages[number - 1], [row for row in history if row["stage"] == number]
    key = f"stages.{number - 1}"
    if commonest is None or rows[-1]["val_loss"] is None:
        text = "There are no validation images. The curves cannot show when training should have ended."
        return Diagnosis("unjudged", None, text, ("split.validation=0.1",))
    if isinstance(stage.optimizer, Logistic):
        return _diagnose_strengths(rows, stage.optimizer, key, blocks)
    if len(rows) < FEWEST_EPOCHS:
        text = f"The curves cover {counted(len(rows), 'epoch')}; a diagnosis needs at least {FEWEST_EPOCHS}."
        return Diagnosis("unjudged", None, text, (f"{key}.epochs={4 * stage.epochs}",))
    curves = _Curves(rows)
    return (
        _not_learning(curves, stage, key, commonest, images)
        or _unstable(curves, stage, key)
        or _overfitting(curves, stage, key, recipe)
        or _improving(curves, stage, key)
        or _by_gap(curves, stage, key, recipe, blocks)
    )


def _diagnose_strengths(rows: Sequence[Mapping[str, Any]], optimizer: Logistic, key: str, blocks: int) -> Diagnosis:
    """Diagnosis of a solved head, whose rows are L2 strengths and not epochs of a learning curve."""
    best = min(range(len(rows)), key=lambda i: rows[i]["val_loss"])
    accuracies = f"training accuracy {rows[best]['train_accuracy']:.3f}, validation {rows[best]['val_accuracy']:.3f}"
    text = (
        f"L2 strength {best + 1} of {len(rows)} has the lowest validation loss ({accuracies})"
        if len(rows) > 1
        else f"The head was solved with one L2 strength ({accuracies})"
    )
    wider: tuple[str, ...] = ()
    if best == len(rows) - 1 and len(rows) > 1:
        wider = (f"{key}.optimizer.weakest={optimizer.weakest / 100:g}",)
    elif best == 0 and len(rows) > 1:
        wider = (f"{key}.optimizer.strongest={optimizer.strongest * 100:g}",)
    epoch = int(rows[best]["epoch"])
    if wider:
        return Diagnosis("level", epoch, f"{text}. It is at the end of the range; a wider range may be better.", wider)
    if rows[best]["val_accuracy"] >= NEARLY_ALL:
        return Diagnosis("level", epoch, f"{text}. There is little left to gain.")
    more = "last-block" if blocks > 1 else "finetune"
    return Diagnosis("level", epoch, f"{text}. A higher accuracy needs more trainable blocks.", recipe=more)


class _Curves:
    """Smoothed curves of one stage, and the noise of its validation loss."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.epochs = [int(row["epoch"]) for row in rows]
        raw = [float(row["val_loss"]) for row in rows]
        self.val_loss = _smooth(raw)
        self.train_loss = _smooth([float(row["train_loss"]) for row in rows])
        self.val_accuracy = statistics.fmean(row["val_accuracy"] for row in rows[-3:])
        self.train_accuracy = statistics.fmean(row["train_accuracy"] for row in rows[-3:])
        self.noise = _noise(raw)
        self.lowest = min(range(len(raw)), key=lambda i: self.val_loss[i])

    @property
    def gap(self) -> float:
        return self.train_accuracy - self.val_accuracy


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred means over three epochs; the first and the last epoch use the nearest three."""
    starts = [min(max(0, i - 1), len(values) - 3) for i in range(len(values))]
    return [statistics.fmean(values[start : start + 3]) for start in starts]


def _noise(values: Sequence[float]) -> float:
    """Standard deviation of one epoch's value around a smooth curve, robust against a few outliers.

    The difference from the mean of two neighbours has 1.5 times the variance of one value.
    """
    residuals = [b - (a + c) / 2 for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    centre = statistics.median(residuals)
    return 1.4826 * statistics.median(abs(value - centre) for value in residuals) / math.sqrt(1.5)


def _not_learning(curves: _Curves, stage: Stage, key: str, commonest: float, images: int) -> Diagnosis | None:
    margin = 3 * math.sqrt(commonest * (1 - commonest) / images)
    if max(curves.val_accuracy, curves.train_accuracy) > commonest + margin:
        return None
    text = (
        f"Not learning: validation accuracy is {curves.val_accuracy:.3f} and training accuracy "
        f"{curves.train_accuracy:.3f}. Always predicting the most common class gives {commonest:.3f}. Try another "
        "learning rate first."
    )
    return Diagnosis("not-learning", None, text, (f"{key}.lr={stage.lr / 10:.2g}",))


def _overfitting(curves: _Curves, stage: Stage, key: str, recipe: Recipe) -> Diagnosis | None:
    low, end = curves.val_loss[curves.lowest], curves.val_loss[-1]
    still_falling = curves.train_loss[-1] < curves.train_loss[curves.lowest]
    if end - low <= max(RISE * low, RISE_IN_NOISE * curves.noise) or not still_falling:
        return None
    epoch = curves.epochs[curves.lowest]
    text = (
        f"Overfitting begins around epoch {epoch}. From there the validation loss rises from {low:.3f} to {end:.3f}, "
        f"while the training loss falls from {curves.train_loss[curves.lowest]:.3f} to {curves.train_loss[-1]:.3f}."
    )
    return Diagnosis("overfitting", epoch, text, _more_regularisation(stage, key, recipe))


def _unstable(curves: _Curves, stage: Stage, key: str) -> Diagnosis | None:
    share = curves.noise / statistics.fmean(curves.val_loss)
    if share <= UNSTABLE:
        return None
    text = f"The validation loss varies by about {share:.0%} from epoch to epoch: the learning rate is too high."
    schedule = () if isinstance(stage.schedule, OneCycle) else (f"{key}.schedule=one-cycle",)
    return Diagnosis("unstable", None, text, (f"{key}.lr={stage.lr / 3:.2g}", *schedule))


def _improving(curves: _Curves, stage: Stage, key: str) -> Diagnosis | None:
    before = curves.val_loss[len(curves.val_loss) * 3 // 4 - 1]
    fall = before - curves.val_loss[-1]
    if isinstance(stage.schedule, OneCycle | Cosine) or fall <= max(FALL * before, FALL_IN_NOISE * curves.noise):
        return None
    epoch = curves.epochs[-1]
    text = f"Still improving: over the last quarter of the epochs the validation loss fell by {fall:.3f}."
    return Diagnosis("improving", epoch, text, (f"{key}.epochs={2 * stage.epochs}",))


def _by_gap(curves: _Curves, stage: Stage, key: str, recipe: Recipe, blocks: int) -> Diagnosis:
    accuracies = f"training accuracy {curves.train_accuracy:.3f}, validation {curves.val_accuracy:.3f}"
    if curves.gap >= GAP:
        text = (
            f"Memorising: training accuracy is far above validation ({accuracies}). The validation loss is not rising."
        )
        return Diagnosis("memorising", None, text, _more_regularisation(stage, key, recipe))
    if curves.gap < AGREEMENT and curves.val_accuracy >= NEARLY_ALL:
        text = f"Training and validation agree, and there is little left to gain ({accuracies})."
        return Diagnosis("agreeing", None, text)
    if curves.gap <= -AGREEMENT:
        text = f"Underfitting ({accuracies}): the regularisation is too strong, or the training too short."
        return Diagnosis("underfitting", None, text, _less_regularisation(stage, key, recipe))
    if curves.gap < AGREEMENT:
        text = f"Training and validation agree ({accuracies}). More capacity or longer training may help."
        return Diagnosis("agreeing", None, text, _more_capacity(stage, key, recipe, blocks))
    epoch = curves.epochs[curves.lowest]
    text = f"Levelled off: lowest validation loss around epoch {epoch} ({accuracies}). More epochs would gain little."
    return Diagnosis("level", epoch, text, _more_regularisation(stage, key, recipe))


def _more_regularisation(stage: Stage, key: str, recipe: Recipe) -> tuple[str, ...]:
    """Settings: weights of the best epoch; augmentation if there is none, else more dropout, else weight decay."""
    keep = ("keep=best",) if recipe.keep == "last" else ()
    return keep + _regularise(stage, key, recipe)


def _regularise(stage: Stage, key: str, recipe: Recipe) -> tuple[str, ...]:
    if stage.augment == AugmentSpec():  # shifts suit every kind of image; flips do not
        return tuple(f"{key}.augment.{change}" for change in ("width_shift=0.1", "height_shift=0.1"))
    if isinstance(recipe.model, CnnSpec):
        last = len(recipe.model.blocks) - 1
        dropout = recipe.model.blocks[last].dropout
        if dropout < 0.3:
            return (f"model.blocks.{last}.dropout={dropout + 0.2:.2g}",)
    return (f"{key}.weight_decay={3 * stage.weight_decay if stage.weight_decay else 1e-2:.2g}",)


def _less_regularisation(stage: Stage, key: str, recipe: Recipe) -> tuple[str, ...]:
    """Settings: twice the epochs, and half of the highest dropout rate."""
    rates = {f"model.hidden.{i}": layer.dropout for i, layer in enumerate(recipe.model.hidden)}
    if isinstance(recipe.model, CnnSpec):
        rates |= {f"model.blocks.{i}": block.dropout for i, block in enumerate(recipe.model.blocks)}
    strongest = max(rates, key=rates.__getitem__, default=None)
    halved = (f"{strongest}.dropout={rates[strongest] / 2:.2g}",) if strongest and rates[strongest] else ()
    return (f"{key}.epochs={2 * stage.epochs}", *halved)


def _one_more_block(part: str, blocks: int) -> str:
    """Next larger trainable part: the head, the last block, the last two, and so on to all."""
    trainable = {"head": 0, "last-block": 1}.get(part)
    larger = (int(part.removeprefix("last-")) if trainable is None else trainable) + 1
    if larger >= blocks:
        return "all"
    return "last-block" if larger == 1 else f"last-{larger}"


def _more_capacity(stage: Stage, key: str, recipe: Recipe, blocks: int) -> tuple[str, ...]:
    """Settings: twice the epochs, and twice the filters of the last block or one more trainable block of a backbone."""
    if isinstance(recipe.model, BackboneSpec):
        part = () if stage.part == "all" else (f"{key}.part={_one_more_block(stage.part, blocks)}",)
        return (*part, f"{key}.epochs={2 * stage.epochs}")
    last = len(recipe.model.blocks) - 1
    filters = [2 * number for number in recipe.model.blocks[last].filters]
    return (f"model.blocks.{last}.filters={filters}", f"{key}.epochs={2 * stage.epochs}")
