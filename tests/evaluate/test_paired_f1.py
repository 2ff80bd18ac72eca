"""Paired test of macro-F1: against scikit-learn, all exchanges by hand, and simulated classifiers."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from loupe.errors import DataError
from loupe.evaluate.paired import Candidate
from loupe.evaluate.paired_f1 import macro_f1, macro_f1_difference, matched_predictions
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.selection import judge


def predictions_of(label_N, predicted_N, classes=("a", "b", "c")) -> Predictions:
    logits_NK = np.eye(len(classes), dtype=np.float32)[np.asarray(predicted_N)]
    rows = tuple(str(i) for i in range(len(label_N)))
    return Predictions(rows, rows, np.asarray(label_N), logits_NK, classes)


def noisy(label_N, error: float, rng, classes: int = 3) -> np.ndarray:
    wrong_N = rng.random(len(label_N)) < error
    return np.where(wrong_N, (label_N + rng.integers(1, classes, len(label_N))) % classes, label_N)


def test_the_difference_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    label_N = rng.choice(3, 200, p=[0.8, 0.15, 0.05])
    predicted = {name: noisy(label_N, error, rng)[None] for name, error in (("x", 0.3), ("y", 0.1))}
    f1 = {name: f1_score(label_N, one[0], average="macro") for name, one in predicted.items()}
    found = macro_f1_difference("x", "y", label_N, predicted)
    assert found.value == pytest.approx(f1["y"] - f1["x"]) and found.low < found.value < found.high
    assert macro_f1(label_N, predicted["x"]) == pytest.approx(f1["x"])
    assert macro_f1_difference("y", "x", label_N, predicted) == found.mirrored()


@pytest.mark.slow
def test_few_differing_images_are_exchanged_in_all_ways():
    rng = np.random.default_rng(1)
    label_N = np.repeat([0, 1, 2], [30, 8, 4])
    x = noisy(label_N, 0.2, rng)
    y = x.copy()
    rows = rng.choice(len(label_N), 8, replace=False)
    y[rows] = (x[rows] + 1) % 3
    differ = np.flatnonzero(x != y)
    assert 3 <= len(differ) <= 8

    def gain(first, second):
        return f1_score(label_N, second, average="macro") - f1_score(label_N, first, average="macro")

    count = 0
    for swaps in itertools.product([False, True], repeat=len(differ)):
        first, second = x.copy(), y.copy()
        chosen = differ[list(swaps)]
        first[chosen], second[chosen] = y[chosen], x[chosen]
        count += abs(gain(first, second)) >= abs(gain(x, y)) - 1e-12
    found = macro_f1_difference("x", "y", label_N, {"x": x[None], "y": y[None]})
    assert found.p == count / 2 ** len(differ)


def test_equal_predictions_differ_by_nothing():
    label_N = np.array([0, 0, 1, 2])
    found = macro_f1_difference("x", "y", label_N, {"x": label_N[None], "y": np.tile(label_N, (3, 1))})
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    with pytest.raises(DataError):
        macro_f1_difference("x", "y", label_N[:0], {"x": label_N[None, :0], "y": label_N[None, :0]})


def test_images_and_classes_are_matched_by_name():
    label_N, predicted_N = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])
    one = Candidate("one", (predictions_of(label_N, predicted_N),), 1.0)
    order, other = [3, 1, 0, 2], predictions_of(label_N, predicted_N)
    turned = Predictions(
        tuple(other.path[i] for i in order),
        tuple(other.content[i] for i in order),
        2 - label_N[order],
        other.logits_NK[order][:, ::-1],
        ("c", "b", "a"),
    )
    label, predicted = matched_predictions([one, Candidate("two", (turned,), 1.0)])
    assert label.tolist() == label_N.tolist()
    assert predicted["one"].tolist() == predicted["two"].tolist() == [predicted_N.tolist()]


def test_candidates_on_unbalanced_images_are_judged_by_macro_f1_too():
    rng = np.random.default_rng(0)
    label_N = np.repeat([0, 1, 2], [400, 40, 40])
    always = np.where(rng.random(480) < 0.95, 0, label_N)  # the frequent class nearly always
    fair = np.where((label_N == 0) & (rng.random(480) < 0.16), 1, label_N)
    given = [
        Candidate("always", (predictions_of(label_N, always),), 1.0),
        Candidate("fair", (predictions_of(label_N, fair),), 2.0),
    ]
    found = judge(given)
    [one] = found.macro_f1
    assert (one.first, one.second) == ("always", "fair") and one.low > 0.2 and one.p_corrected < 0.001
    assert "Macro-F1 against always: fair +" in found.conclusion and "significant" in found.conclusion
    balanced = [one.predictions[0].predicted[320:] for one in given]
    few = [
        Candidate(name, (predictions_of(label_N[320:], row),), 1.0) for name, row in zip("ab", balanced, strict=True)
    ]
    assert not judge(few).macro_f1


@pytest.mark.slow
def test_the_test_has_its_size_and_the_interval_its_coverage():
    """400 pairs of equally good classifiers, whose errors differ: at most as many rejections as chance allows.

    The interval's coverage is that of the mean over images of the same classes; the truth is 0 by symmetry.
    """
    rng = np.random.default_rng(0)
    label_N = np.repeat([0, 1, 2], [150, 20, 10])
    rejected = covered = 0
    for trial in range(400):
        predicted = {name: noisy(label_N, 0.25, rng)[None] for name in "xy"}
        found = macro_f1_difference("x", "y", label_N, predicted, exchanges=499, resamples=500, seed=trial)
        rejected += found.p <= 0.05
        covered += found.low <= 0 <= found.high
    from scipy.stats import binom

    assert binom.sf(rejected - 1, 400, 0.05) > 0.001 and binom.cdf(rejected, 400, 0.05) > 0.001
    assert covered >= binom.ppf(0.001, 400, 0.92)
