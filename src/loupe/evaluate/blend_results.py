"""Verdict on a run that was made of others without training, typed, as results.json holds it."""

from loupe.evaluate.paired import Difference
from loupe.records import Part, Seconds


class BlendVerdict(Part):
    """Verdict on a run that was made of others, beside the best of them.

    Attributes:
        difference: its validation accuracy minus that of the best single run.
        cross_fitted: True if the shares of each judged image were selected on other images. False for shares that were
            given, and for a mean of weights, whose runs the same images chose.
        predict_seconds: time of a prediction of one image, from decoded pixels.
        predict_seconds_of_best: that of the best single run, measured by turns.
        text: verdict in words.
        remark: what else is to be known of its predictions.
    """

    difference: Difference
    cross_fitted: bool
    predict_seconds: Seconds
    predict_seconds_of_best: Seconds
    text: str
    remark: str | None = None
