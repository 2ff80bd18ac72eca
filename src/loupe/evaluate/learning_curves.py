"""Diagnosis of learning curves by fixed rules: overfitting, underfitting, unfinished training, no learning.

The last stage is judged. Curves are smoothed by a centred mean over three epochs. The noise of the validation loss is
estimated from the deviations of each epoch from the mean of its neighbours (median absolute deviation). Accuracies are
means of the last three epochs, each judged by the number of images that it was measured on. The first rule that applies
gives the verdict:

* `unjudged`: no validation images, or fewer than five epochs.
* `all-correct`: the kept weights classify every validation image correctly.
* `not-learning`: training accuracy is significantly below the middle between the share of the most common class and 1,
  and neither accuracy is significantly above that share (`chance.py`).
* `undecided`: neither this nor learning is significant, or there are fewer than 20 validation images.
* `unstable`: the noise of the validation loss is above 15 % of the loss, and validation accuracy is significantly above
  the share of the most common class. `undecided` where it is not: memorised images with random labels do the same.
* `overfitting`: the validation loss has risen from its minimum by 5 % and by three times its noise, while the training
  loss kept falling. It begins at the minimum.
* `improving`: with a learning rate that does not decay, the validation loss fell by 2 %, and by twice its noise, over
  the last quarter of the epochs. A rate that decays to the end lowers every curve at the end, and is no evidence.
* `memorising`: training accuracy is at least 10 points above validation.
* `underfitting`: training accuracy is at least 3 points below validation.
* `agreeing`: training and validation accuracy are less than 3 points apart.
* `level`: none of these; more epochs would gain little.

A loss of N validation images that varies by less than 1 / √N of itself is no evidence. A gap has to be significant, and
an agreement needs an interval of the gap within 10 points; else the verdict is `undecided`.

Training accuracy is measured on augmented images, with dropout and while the weights change. So the true gap is larger
than the measured one, and a training accuracy below validation means that these still limit the network.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from loupe.config.optimizer import Cosine, OneCycle
from loupe.config.recipe import Recipe
from loupe.errors import counted
from loupe.evaluate.advice import Advice
from loupe.evaluate.chance import LabelCounts, gap_interval
from loupe.evaluate.verdicts import (
    NEARLY_ALL,
    Diagnosis,
    Row,
    all_correct,
    by_folds,
    chance,
    diagnose_strengths,
    rates,
)

FEWEST_EPOCHS = 5
FEWEST_IMAGES = 20
RISE, RISE_IN_NOISE = 0.05, 3.0
FALL, FALL_IN_NOISE = 0.02, 2.0
LEAST_CHANGE = 0.005  # of a loss: smaller changes are those of a loss near 0
STILL_FALLING = 0.01
UNSTABLE = 0.15
GAP, AGREEMENT = 0.10, 0.03


def diagnose(
    history: Sequence[Row],
    recipe: Recipe,
    *,
    training: LabelCounts,
    validation: LabelCounts | None,
    blocks: int,
    kept_epoch: int | None = None,
) -> Diagnosis:
    """Diagnose the last stage by the rules above.

    Args:
        history: one row for each epoch, as in metrics.csv; values that were not measured are None.
        recipe: recipe of the run.
        training: labels of the training images.
        validation: labels of the validation images; None without any.
        blocks: number of blocks of the trunk; `last-N` names at most all but one.
        kept_epoch: epoch of the kept weights, over all stages; None: the last.
    """
    number = int(history[-1]["stage"])
    rows = [row for row in history if row["stage"] == number]
    kept = history[(kept_epoch or len(history)) - 1]
    advice = Advice(recipe, number - 1, blocks, ends_best=kept is history[-1])
    solved = recipe.stages[number - 1].is_solved
    if validation is None or rows[-1]["val_loss"] is None:
        return _unvalidated(advice, training, solved=solved)
    if solved and kept_epoch is None:
        kept = min(rows, key=lambda row: float(row["val_loss"]))
    if round(kept["val_accuracy"] * validation.images) == validation.images:
        return all_correct(kept, training, validation, len(history) if recipe.keeps == "best" else 1)
    if solved:
        return diagnose_strengths(rows, kept, advice, training, validation)
    if len(rows) < FEWEST_EPOCHS:
        text = f"The curves cover {counted(len(rows), 'epoch')}; a diagnosis needs at least {FEWEST_EPOCHS}."
        ended = len(rows) < advice.stage.planned_epochs  # by patience
        return Diagnosis("unjudged", None, text, () if ended else advice.more_epochs(factor=4))
    in_steps = [row for row in history if not recipe.stages[int(row["stage"]) - 1].is_solved]
    numbers = {int(row["epoch"]): number for number, row in enumerate(in_steps, 1)}
    curves = _Curves(rows, training, validation, numbers, numbers.get(int(kept["epoch"])))
    return (
        chance(curves.accuracies, training, validation, curves.rates, advice.other_rate())
        or _few_images(curves)
        or _unstable(curves, advice)
        or _overfitting(curves, advice)
        or _improving(curves, advice)
        or _by_gap(curves, advice)
    )


def _unvalidated(advice: Advice, training: LabelCounts, *, solved: bool) -> Diagnosis:
    settings = advice.validation_images() if training.commonest > 1 else ()  # each class keeps a training image
    text = "There are no validation images. " + (
        "How well the head does on other images cannot be told."
        if solved
        else "The curves cannot show when training should have ended."
    )
    if not settings:
        text += f" {counted(training.images, 'training image')} left none for validation: more images would."
    return Diagnosis("unjudged", None, text, settings)


class _Curves:
    """Smoothed curves of one stage, and the noise of its validation loss."""

    def __init__(
        self,
        rows: Sequence[Row],
        training: LabelCounts,
        validation: LabelCounts,
        numbers: Mapping[int, int],
        kept: int | None,
    ) -> None:
        """Smooth the curves.

        Args:
            numbers: number of each epoch by its row of metrics.csv: L2 strengths are rows too, but no epochs.
            kept: number of the kept epoch; None where the weights of a solved head were kept.
        """
        self.epochs = [int(row["epoch"]) for row in rows]
        self.folds = by_folds(training)
        self.numbers, self.kept, self.images = numbers, kept, validation.images
        raw = [float(row["val_loss"]) for row in rows]
        self.val_loss = _smooth(raw)
        self.train_loss = _smooth([float(row["train_loss"]) for row in rows])
        self.val_accuracy = statistics.fmean(row["val_accuracy"] for row in rows[-3:])
        self.train_accuracy = statistics.fmean(row["train_accuracy"] for row in rows[-3:])
        self.share, self.generalises = validation.share, validation.exceeded_by(self.val_accuracy)
        self.rates = rates(self.train_accuracy, training, self.val_accuracy, validation)
        self.gap_low, self.gap_high = gap_interval(
            self.train_accuracy, training.images, self.val_accuracy, validation.images
        )
        self.noise = _noise(raw)
        self.lowest = min(range(len(raw)), key=lambda i: self.val_loss[i])

    @property
    def accuracies(self) -> tuple[float, float]:
        return self.train_accuracy, self.val_accuracy

    @property
    def gap(self) -> float:
        return self.train_accuracy - self.val_accuracy

    def least_change(self, share: float, noises: float, loss: float) -> float:
        """Smallest change of the validation loss that is evidence."""
        return max(LEAST_CHANGE, share * loss, noises * self.noise, loss / math.sqrt(self.images))


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


def _few_images(curves: _Curves) -> Diagnosis | None:
    if curves.images >= FEWEST_IMAGES:
        return None
    text = (
        f"{counted(curves.images, 'validation image')} cannot tell overfitting from underfitting ({curves.rates}); at "
        f"least {FEWEST_IMAGES} can. {curves.folds}"
    )
    return Diagnosis("undecided", None, text)


def _unstable(curves: _Curves, advice: Advice) -> Diagnosis | None:
    loss = statistics.fmean(curves.val_loss)
    if curves.noise <= max(LEAST_CHANGE, UNSTABLE * loss, loss / math.sqrt(curves.images)):
        return None
    varies = f"The validation loss varies by about {curves.noise / loss:.0%} from epoch to epoch"
    if curves.generalises:
        return Diagnosis("unstable", None, f"{varies}: the learning rate is probably too high.", advice.steadier())
    text = (
        f"{varies}, and validation accuracy is not clearly above that of always predicting the most common class "
        f"({curves.rates}; {curves.share:.3f}). Whether the learning rate is too high, or the images do not show their "
        f"labels, cannot be told. {curves.folds}"
    )
    return Diagnosis("undecided", None, text)


def _overfitting(curves: _Curves, advice: Advice) -> Diagnosis | None:
    low, end = curves.val_loss[curves.lowest], curves.val_loss[-1]
    train_low, train_end = curves.train_loss[curves.lowest], curves.train_loss[-1]
    if end - low <= curves.least_change(RISE, RISE_IN_NOISE, low) or train_end >= (1 - STILL_FALLING) * train_low:
        return None
    epoch = curves.epochs[curves.lowest]
    text = (
        f"Overfitting begins around epoch {curves.numbers[epoch]}. From there the validation loss rises from {low:.3g} "
        f"to {end:.3g}, while the training loss falls from {train_low:.3g} to {train_end:.3g}."
    )
    settings = advice.keep_best() if curves.val_accuracy >= NEARLY_ALL else advice.more_regularisation()
    return Diagnosis("overfitting", epoch, text, settings)


def _improving(curves: _Curves, advice: Advice) -> Diagnosis | None:
    before = curves.val_loss[len(curves.val_loss) * 3 // 4 - 1]
    fall = before - curves.val_loss[-1]
    decays = isinstance(advice.stage.schedule, OneCycle | Cosine)
    if decays or fall <= curves.least_change(FALL, FALL_IN_NOISE, before):
        return None
    epoch = curves.epochs[-1]
    text = f"Still improving: over the last quarter of the epochs the validation loss fell by {fall:.3g}."
    settings = advice.more_epochs()
    if not settings:
        best = f"epoch is {curves.kept} of {curves.numbers[epoch]}"
        kept = "weights are those of the solved head" if curves.kept is None else best
        text += f" Yet the best {kept}, so that more epochs may gain nothing."
    return Diagnosis("improving", epoch, text, settings)


def _by_gap(curves: _Curves, advice: Advice) -> Diagnosis:
    both = curves.rates
    if curves.gap >= GAP and curves.gap_low > 0:
        text = f"Memorising: training accuracy is far above validation ({both})."
        return Diagnosis("memorising", None, text, advice.more_regularisation())
    if abs(curves.gap) < AGREEMENT and curves.val_accuracy >= NEARLY_ALL:
        return Diagnosis("agreeing", None, f"There is little left to gain on these images ({both}).")
    if curves.gap <= -AGREEMENT and curves.gap_high < 0:
        text = f"Underfitting ({both}): the regularisation is too strong, or the training too short."
        return Diagnosis("underfitting", None, text, advice.less_regularisation())
    if abs(curves.gap) < AGREEMENT and curves.gap_low > -GAP and curves.gap_high < GAP:
        longer = " or longer training" if advice.more_epochs() else ""
        text = f"Training and validation agree ({both}). More capacity{longer} may help."
        return Diagnosis("agreeing", None, text, advice.more_capacity())
    if curves.gap >= AGREEMENT and curves.gap_low > 0:
        return _level(curves, advice)
    text = (
        f"Training and validation cannot be told apart, nor said to agree ({both}): the difference may be anything "
        f"from {100 * curves.gap_low:+.0f} to {100 * curves.gap_high:+.0f} points. {curves.folds}"
    )
    return Diagnosis("undecided", None, text)


def _level(curves: _Curves, advice: Advice) -> Diagnosis:
    epoch, last = curves.epochs[curves.lowest], curves.epochs[-1]
    if curves.lowest < len(curves.epochs) - 2:
        around = f"epoch {curves.numbers[epoch]} of {curves.numbers[last]}"
        text = f"Levelled off: lowest validation loss around {around} ({curves.rates})."
        return Diagnosis("level", epoch, f"{text} More epochs would gain little.", advice.more_regularisation())
    text = (
        f"The validation loss is lowest at the end, where the learning rate is lowest too ({curves.rates}). Whether "
        "more epochs would gain anything cannot be told from this."
        if isinstance(advice.stage.schedule, OneCycle | Cosine)
        else f"Levelled off: the validation loss hardly falls any more ({curves.rates})."
    )
    return Diagnosis("level", epoch, text, advice.more_regularisation())
