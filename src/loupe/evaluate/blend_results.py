"""Verdict on a run that was made of others without training, typed, as results.json holds it."""

from pydantic import FiniteFloat

from loupe.records import Part, Seconds, Whole


class Gain(Part):
    """Accuracy of a run minus that of the best single run, on the same images.

    Attributes:
        best: name of the best single run.
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
    """Verdict on a run that was made of others, beside the best of them.

    Attributes:
        difference: its gain in validation accuracy.
        cross_fitted: True if the shares of each judged image were selected on other images. False for shares that were
            given, and for a mean of weights, whose runs the same images chose.
        predict_seconds: time of a prediction of one image, from decoded pixels.
        best_predict_seconds: that of the best single run, measured by turns.
        text: verdict in words.
        remark: what else is to be known of its predictions.
    """

    difference: Gain
    cross_fitted: bool
    predict_seconds: Seconds
    best_predict_seconds: Seconds
    text: str
    remark: str | None = None
