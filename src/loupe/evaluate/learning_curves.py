"""What the learning curves say, by stated rules: overfitting, underfitting, unfinished, not learning.

The last stage is judged. Curves are smoothed by a centred mean over three epochs; the noise of the validation loss is
estimated from how far each epoch lies from the mean of its neighbours (median absolute deviation). The first rule that
applies gives the verdict:

* `unjudged`: no validation images, or fewer than five epochs.
* `not-learning`: neither accuracy is above the share of the commonest class by three standard errors.
* `unstable`: the noise of the validation loss is above 15 % of the loss.
* `overfitting`: the validation loss has risen from its lowest by 5 % and by three times its noise, while the training
  loss went on falling. It begins at the lowest.
* `improving`: at a rate that does not fall by schedule, the validation loss fell by 2 %, and by twice its noise, over
  the last quarter. A rate that is lowered to the end makes every curve fall at the end, and proves nothing.
* `memorising`: training accuracy is at least 10 points above validation.
* `underfitting`: training accuracy is at least 3 points below validation.
* `agreeing`: training and validation accuracy are less than 3 points apart.
* `level`: none of these; more of the same epochs would gain little.

Training accuracy is measured on augmented images and with dropout, while the weights still change, so that a gap is
rather larger than it looks; and where training lies below validation, these still hold the network back.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loupe.config.network import BackboneSpec, CnnSpec
from loupe.config.optimizer import Cosine, Logistic, OneCycle
from loupe.config.recipe import AugmentSpec, Recipe, Stage

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
NEARLY_ALL = 0.98  # from here on more capacity has little to gain


@dataclass(frozen=True)
class Diagnosis:
    """A verdict, the epoch that it hangs on (over all stages, from 1), the same in words, and what to try next.

    `settings` are the changes to the recipe, as `--set` takes them; `recipe` names another one to try in its place.
    With neither there is nothing to recommend.
    """

    verdict: Verdict
    epoch: int | None
    text: str
    settings: tuple[str, ...] = ()
    recipe: str | None = None


def diagnose(
    history: Sequence[Mapping[str, Any]], recipe: Recipe, *, commonest: float | None, images: int, blocks: int
) -> Diagnosis:
    """Judges the last stage by the rules above.

    Args:
        history: a row for each epoch, as in metrics.csv; what was not measured is None.
        commonest: the share of the commonest class among the validation images; None without any.
        images: the number of validation images.
        blocks: how many the network's trunk has; all but one of them at most can be named by `last-N`.
    """
    number = int(history[-1]["stage"])
    stage, rows = recipe.stages[number - 1], [row for row in history if row["stage"] == number]
    key = f"stages.{number - 1}"
    if commonest is None or rows[-1]["val_loss"] is None:
        text = "There are no validation images, so that the curves cannot show when training should have ended."
        return Diagnosis("unjudged", None, text, ("split.validation=0.1",))
    if isinstance(stage.optimizer, Logistic):
        return _of_strengths(rows, stage.optimizer, key, blocks)
    if len(rows) < FEWEST_EPOCHS:
        text = f"{len(rows)} epochs are too few to judge the curves by; {FEWEST_EPOCHS} are the least."
        return Diagnosis("unjudged", None, text, (f"{key}.epochs={4 * stage.epochs}",))
    curves = _Curves(rows)
    return (
        _not_learning(curves, stage, key, commonest, images)
        or _unstable(curves, stage, key)
        or _overfitting(curves, stage, key, recipe)
        or _improving(curves, stage, key)
        or _by_gap(curves, stage, key, recipe, blocks)
    )


def _of_strengths(rows: Sequence[Mapping[str, Any]], optimizer: Logistic, key: str, blocks: int) -> Diagnosis:
    """Rows are strengths of a penalty, each solved to convergence, and no learning curve."""
    best = min(range(len(rows)), key=lambda i: rows[i]["val_loss"])
    text = (
        f"Of {len(rows)} strengths of the penalty, number {best + 1} has the lowest validation loss (accuracy in "
        f"training {rows[best]['train_accuracy']:.3f}, on validation {rows[best]['val_accuracy']:.3f})"
    )
    wider: tuple[str, ...] = ()
    if best == len(rows) - 1 and len(rows) > 1:
        wider = (f"{key}.optimizer.weakest={optimizer.weakest / 100:g}",)
    elif best == 0 and len(rows) > 1:
        wider = (f"{key}.optimizer.strongest={optimizer.strongest * 100:g}",)
    epoch = int(rows[best]["epoch"])
    if wider:
        return Diagnosis("level", epoch, f"{text}: the best may lie beyond.", wider)
    if rows[best]["val_accuracy"] >= NEARLY_ALL:
        return Diagnosis("level", epoch, f"{text}. Little is left to gain.")
    more = "last-block" if blocks > 1 else "finetune"
    return Diagnosis("level", epoch, f"{text}. To gain more, more than the head has to learn.", recipe=more)


class _Curves:
    """The smoothed curves of one stage, and the noise of its validation loss."""

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
    """Means over three epochs: those around each one; the first and the last take the nearest three."""
    starts = [min(max(0, i - 1), len(values) - 3) for i in range(len(values))]
    return [statistics.fmean(values[start : start + 3]) for start in starts]


def _noise(values: Sequence[float]) -> float:
    """The standard deviation of one epoch's value about a smooth curve, robust against a few jumps.

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
        f"It has not learned: accuracy is {curves.val_accuracy:.3f} on validation and {curves.train_accuracy:.3f} in "
        f"training, where naming the commonest class gives {commonest:.3f}. The learning rate is the first suspect."
    )
    return Diagnosis("not-learning", None, text, (f"{key}.lr={stage.lr / 10:.2g}",))


def _overfitting(curves: _Curves, stage: Stage, key: str, recipe: Recipe) -> Diagnosis | None:
    low, end = curves.val_loss[curves.lowest], curves.val_loss[-1]
    still_falling = curves.train_loss[-1] < curves.train_loss[curves.lowest]
    if end - low <= max(RISE * low, RISE_IN_NOISE * curves.noise) or not still_falling:
        return None
    epoch = curves.epochs[curves.lowest]
    text = (
        f"Overfitting begins around epoch {epoch}: from there validation loss rises from {low:.3f} to {end:.3f}, while "
        f"training loss falls from {curves.train_loss[curves.lowest]:.3f} to {curves.train_loss[-1]:.3f}."
    )
    return Diagnosis("overfitting", epoch, text, _more_regularisation(stage, key, recipe))


def _unstable(curves: _Curves, stage: Stage, key: str) -> Diagnosis | None:
    share = curves.noise / statistics.fmean(curves.val_loss)
    if share <= UNSTABLE:
        return None
    text = f"Validation loss jumps by about {share:.0%} from epoch to epoch: the learning rate is too high to settle."
    return Diagnosis("unstable", None, text, (f"{key}.lr={stage.lr / 3:.2g}", f"{key}.schedule=one-cycle"))


def _improving(curves: _Curves, stage: Stage, key: str) -> Diagnosis | None:
    before = curves.val_loss[len(curves.val_loss) * 3 // 4 - 1]
    fall = before - curves.val_loss[-1]
    if isinstance(stage.schedule, OneCycle | Cosine) or fall <= max(FALL * before, FALL_IN_NOISE * curves.noise):
        return None
    epoch = curves.epochs[-1]
    text = f"Still improving at the end: over the last quarter of the epochs validation loss fell by {fall:.3f}."
    return Diagnosis("improving", epoch, text, (f"{key}.epochs={2 * stage.epochs}",))


def _by_gap(curves: _Curves, stage: Stage, key: str, recipe: Recipe, blocks: int) -> Diagnosis:
    where = f"training {curves.train_accuracy:.3f}, validation {curves.val_accuracy:.3f}"
    if curves.gap >= GAP:
        text = f"It knows its training images better than others ({where}), without harm to the validation loss so far."
        return Diagnosis("memorising", None, text, _more_regularisation(stage, key, recipe))
    if curves.gap < AGREEMENT and curves.val_accuracy >= NEARLY_ALL:
        text = f"Training and validation agree ({where}), and little is left to gain."
        return Diagnosis("agreeing", None, text)
    if curves.gap <= -AGREEMENT:
        text = f"It has not fitted its training images ({where}): it was held back, or not trained long enough."
        return Diagnosis("underfitting", None, text, _less_regularisation(stage, key, recipe))
    if curves.gap < AGREEMENT:
        text = f"Training and validation agree ({where}): there is room for more capacity, or for longer training."
        return Diagnosis("agreeing", None, text, _more_capacity(stage, key, recipe, blocks))
    epoch = curves.epochs[curves.lowest]
    text = f"Levelled off ({where}; lowest validation loss around epoch {epoch}): more of the same would gain little."
    return Diagnosis("level", epoch, text, _more_regularisation(stage, key, recipe))


def _more_regularisation(stage: Stage, key: str, recipe: Recipe) -> tuple[str, ...]:
    """The best epoch's weights, and augmentation where there is none, else more dropout, else weight decay."""
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
    """Twice the epochs, and half of the strongest dropout."""
    rates = {f"model.hidden.{i}": layer.dropout for i, layer in enumerate(recipe.model.hidden)}
    if isinstance(recipe.model, CnnSpec):
        rates |= {f"model.blocks.{i}": block.dropout for i, block in enumerate(recipe.model.blocks)}
    strongest = max(rates, key=lambda place: rates[place], default=None)
    halved = (f"{strongest}.dropout={rates[strongest] / 2:.2g}",) if strongest and rates[strongest] else ()
    return (f"{key}.epochs={2 * stage.epochs}", *halved)


def _one_more(part: str, blocks: int) -> str:
    """The next larger part of the network: the head, then the last block, then the last two, in the end all."""
    learning = {"head": 0, "last-block": 1}.get(part)
    following = (int(part.removeprefix("last-")) if learning is None else learning) + 1
    if following >= blocks:
        return "all"
    return "last-block" if following == 1 else f"last-{following}"


def _more_capacity(stage: Stage, key: str, recipe: Recipe, blocks: int) -> tuple[str, ...]:
    """Twice the filters of the last block, and twice the epochs; of a backbone, one block more learns."""
    if isinstance(recipe.model, BackboneSpec):
        part = () if stage.part == "all" else (f"{key}.part={_one_more(stage.part, blocks)}",)
        return (*part, f"{key}.epochs={2 * stage.epochs}")
    last = len(recipe.model.blocks) - 1
    filters = [2 * number for number in recipe.model.blocks[last].filters]
    return (f"model.blocks.{last}.filters={filters}", f"{key}.epochs={2 * stage.epochs}")
