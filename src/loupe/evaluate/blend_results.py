"""Verdict on a run that was made of others, or that learned from another, typed, as results.json holds it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import FiniteFloat

from loupe.errors import counted
from loupe.records import Part, Seconds, Whole

if TYPE_CHECKING:
    from loupe.evaluate.paired import Difference  # it loads SciPy, which takes a while

SURE = 0.05  # p-value below which a difference is called significant


class Gain(Part):
    """Accuracy of a run minus that of another, on the same images.

    Attributes:
        best: name of the other run: of a blend or a soup, the best single run; of a student, its teacher.
        value: difference, as a fraction.
        low, high: limits of the 95 % interval over images.
        p: p-value of the exact McNemar test.
        images: number of images.
    """

    best: str
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    p: FiniteFloat
    images: Whole


class BlendVerdict(Part):
    """Verdict on a run that was made of others, beside the best of them, or on a student beside its teacher.

    Attributes:
        difference: its gain in validation accuracy.
        cross_fitted: True if the shares of each judged image were selected on other images. False for shares that were
            given, and for a mean of weights, whose runs the same images chose.
        predict_seconds: time of a prediction of one image, from decoded pixels.
        best_predict_seconds: that of the other run, measured by turns.
        text: verdict in words.
        remark: what else is to be known of its predictions.
    """

    difference: Gain
    cross_fitted: bool
    predict_seconds: Seconds
    best_predict_seconds: Seconds
    text: str
    remark: str | None = None

    @classmethod
    def of(
        cls,
        difference: "Difference",
        seconds: Sequence[float],
        how: str = "",
        *,
        remark: str | None = None,
        cross_fitted: bool = False,
    ) -> Self:
        """Verdict from a paired difference of accuracies, and the times of a prediction of both runs.

        Args:
            difference: accuracy of the judged run, its `second`, minus that of its `first`.
            seconds: of the judged run, and of the other.
            how: what the validation images chose, in words that begin with a comma.
        """
        values = difference.value, difference.low, difference.high
        return cls(
            difference=Gain(
                best=difference.first,
                value=values[0],
                low=values[1],
                high=values[2],
                p=difference.p,
                images=difference.images,
            ),
            cross_fitted=cross_fitted,
            predict_seconds=seconds[0],
            best_predict_seconds=seconds[1],
            text=gain(difference, seconds[0] / seconds[1], how),
            remark=remark,
        )


def points(difference: "Difference") -> str:
    """Difference in points with its interval."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def gain(difference: "Difference", times: float, how: str = "") -> str:
    """Gain of a run beside another, and what it costs.

    Args:
        times: time of a prediction, as a multiple of that of the other run.
        how: what the validation images chose, in words that begin with a comma.
    """
    chance = "" if difference.p < SURE else ", a difference that may be chance,"
    text = f"{points(difference)}{chance} for {times:.1f} times the time of a prediction, beside {difference.first}"
    return f"{text} on {counted(difference.images, 'validation image')}{how}."
