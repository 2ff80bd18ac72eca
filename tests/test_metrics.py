"""Every metric against scikit-learn or arithmetic; its interval against plain resampling, and against the truth."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from loupe.evaluate import metrics
from loupe.evaluate.predictions import Predictions


def predictions(label, logits_NK, classes=None) -> Predictions:
    images, count = logits_NK.shape
    names = tuple(str(i) for i in range(images))
    return Predictions(
        names,
        names,
        np.asarray(label, np.int64),
        logits_NK.astype(np.float32),
        classes or tuple(f"c{i}" for i in range(count)),
    )


def simulated(random, images: int, classes: int, skill: float = 1.5, share=None) -> Predictions:
    label = random.choice(classes, size=images, p=share)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), label] += skill
    return predictions(label, logits)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rounding", [None, 0])
def test_values_are_those_of_scikit_learn(classes, rounding):
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    part = simulated(np.random.default_rng(classes), 400, classes, share=share)
    if rounding is not None:  # many equal scores
        part = predictions(part.label, part.logits_NK.round(rounding))
    block = metrics.evaluate(part, resamples=50)
    truth, guess, probability = part.label, part.predicted, part.probabilities_NK
    scores = probability[:, 1] if classes == 2 else probability
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "macro_f1": sk.f1_score(truth, guess, average="macro"),
        "micro_f1": sk.f1_score(truth, guess, average="micro"),
        "weighted_f1": sk.f1_score(truth, guess, average="weighted"),
        "roc_auc": sk.roc_auc_score(truth, scores, multi_class="ovr", average="macro"),
        "log_loss": sk.log_loss(truth, probability),
    }
    for name, value in expected.items():
        assert block[name]["value"] == pytest.approx(value, abs=1e-12), name
        assert block[name]["low"] <= block[name]["value"] <= block[name]["high"], name
    assert block["confusion_matrix"] == sk.confusion_matrix(truth, guess).tolist()
    columns = sk.precision_recall_fscore_support(truth, guess)
    for k, row in enumerate(block["per_class"]):
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx([c[k] for c in columns])
    assert block["images"] == 400
    json.dumps(block, allow_nan=False)


def test_wilson_gives_the_published_intervals():
    # Newcombe 1998, Statistics in Medicine 17, table I: score method without continuity correction.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert metrics.wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    assert metrics.wilson(20, 20)[1] == 1.0


def test_calibration_error_by_hand():
    # Ten answers at 0.95, eight right; ten at 0.55, all right: half of |0.8 - 0.95| and half of |1 - 0.55|.
    probability = np.repeat([[0.95, 0.05], [0.55, 0.45]], 10, axis=0)
    label = np.array([0] * 8 + [1] * 2 + [0] * 10)
    assert metrics.calibration_error(probability, label) == pytest.approx(0.5 * 0.15 + 0.5 * 0.45)
    # Gaps of opposite sign cancel within a bin. Bins are closed on the right: 0.6 is in the one below 0.61.
    probability = np.array([[0.6, 0.4], [0.61, 0.39]])
    assert metrics.calibration_error(probability, np.array([0, 1])) == pytest.approx((0.4 + 0.61) / 2)
    probability = np.array([[0.62, 0.38], [0.61, 0.39]])
    assert metrics.calibration_error(probability, np.array([0, 1])) == pytest.approx((0.61 - 0.38) / 2)


def test_calibration_error_agrees_with_bins_made_another_way():
    part = simulated(np.random.default_rng(5), 500, 4)
    confidence, correct = part.probabilities_NK.max(axis=1), part.predicted == part.label
    edges = np.linspace(0, 1, 16)
    inside = [(confidence > low) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    gaps = [mask.mean() * abs(correct[mask].mean() - confidence[mask].mean()) for mask in inside if mask.any()]
    assert metrics.calibration_error(part.probabilities_NK, part.label) == pytest.approx(sum(gaps), abs=1e-12)


def test_weighted_areas_are_those_of_scikit_learn():
    random = np.random.default_rng(1)
    part = simulated(random, 120, 3)
    scores = part.probabilities_NK.round(1)  # ties within and across classes
    weights = random.integers(0, 4, size=(120, 7)).astype(np.float32)
    areas = metrics.roc_auc(part.label, scores, weights)
    for r in range(7):
        for k in range(3):
            expected = sk.roc_auc_score(part.label == k, scores[:, k], sample_weight=weights[:, r])
            assert areas[k, r] == pytest.approx(expected, abs=1e-12)


def test_an_area_without_weight_on_one_side_is_nan():
    label, scores = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    areas = metrics.roc_auc(label, scores, np.array([[1, 1], [1, 0], [0, 1]], np.float32))
    assert np.isnan(areas[:, 0]).all()
    assert areas[:, 1].tolist() == [1.0, 1.0]


def test_intervals_are_those_of_resampling_images_one_by_one():
    part = simulated(np.random.default_rng(7), 300, 3)
    block = metrics.evaluate(part, resamples=2000)
    random, draws = np.random.default_rng(99), {"macro_f1": [], "weighted_f1": [], "roc_auc": [], "log_loss": []}
    for _ in range(150):
        rows = random.integers(300, size=300)
        truth, guess, probability = part.label[rows], part.predicted[rows], part.probabilities_NK[rows]
        draws["macro_f1"].append(sk.f1_score(truth, guess, average="macro"))
        draws["weighted_f1"].append(sk.f1_score(truth, guess, average="weighted"))
        draws["roc_auc"].append(sk.roc_auc_score(truth, probability, multi_class="ovr"))
        draws["log_loss"].append(sk.log_loss(truth, probability))
    for name, values in draws.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert [block[name]["low"], block[name]["high"]] == pytest.approx([low, high], abs=0.2 * (high - low)), name


def test_the_same_seed_gives_the_same_intervals_however_the_work_is_cut(monkeypatch):
    part = simulated(np.random.default_rng(3), 200, 4)
    whole = metrics.evaluate(part, resamples=64, seed=5)
    assert metrics.evaluate(part, resamples=64, seed=6)["macro_f1"] != whole["macro_f1"]
    monkeypatch.setattr(metrics, "_CHUNK", 1000)
    cut = metrics.evaluate(part, resamples=64, seed=5)
    for name in ("macro_f1", "weighted_f1", "roc_auc", "log_loss"):
        assert list(cut[name].values()) == pytest.approx(list(whole[name].values()), abs=1e-12)


def test_a_missing_class_makes_averages_over_classes_undefined_with_the_reason():
    part = simulated(np.random.default_rng(2), 100, 3)
    part = part.select(part.label != 1)
    block = metrics.evaluate(part, resamples=50)
    for name in ("macro_f1", "roc_auc"):
        assert block[name] == {"value": None, "why": "there are no images of the class c1"}
    assert block["accuracy"]["value"] == sk.accuracy_score(part.label, part.predicted)
    assert block["weighted_f1"]["value"] == pytest.approx(sk.f1_score(part.label, part.predicted, average="weighted"))
    assert block["per_class"][1]["recall"] is None
    assert block["per_class"][1]["why"] == "it has no images here"


def test_nothing_labelled_makes_everything_undefined():
    for part in (predictions([-1, -1], np.zeros((2, 3))), predictions([], np.zeros((0, 3)))):
        block = metrics.evaluate(part)
        for name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "roc_auc", "log_loss", "ece"):
            assert block[name] == {"value": None, "why": "there are no labelled images"}
        assert block["images"] == 0
        assert block["confusion_matrix"] == [[0] * 3] * 3


def test_unlabelled_images_count_for_nothing():
    part = simulated(np.random.default_rng(4), 50, 3)
    more = predictions(np.append(part.label, [-1] * 9), np.vstack([part.logits_NK, np.ones((9, 3))]))
    assert metrics.evaluate(more, resamples=50) == metrics.evaluate(part, resamples=50)


def test_one_class_alone():
    block = metrics.evaluate(predictions([0, 0], np.zeros((2, 1))))
    assert block["roc_auc"] == {"value": None, "why": "it needs at least two classes"}
    assert block["accuracy"]["value"] == 1.0


def test_no_interval_is_claimed_where_resampling_cannot_show_one():
    logits = 10 * np.eye(3)[np.arange(30) % 3]
    block = metrics.evaluate(predictions(np.arange(30) % 3, logits))
    for name in ("macro_f1", "weighted_f1", "roc_auc"):
        assert (block[name]["value"], block[name]["low"], block[name]["high"]) == (1.0, None, None)
        assert "every resample" in block[name]["why"]
    assert block["accuracy"]["low"] == pytest.approx(metrics.wilson(30, 30)[0])
    assert block["micro_f1"] == block["accuracy"]


def test_a_class_that_is_never_predicted_has_no_precision():
    block = metrics.evaluate(predictions([0, 1, 1], np.array([[1.0, 0], [1, 0], [1, 0]])))
    row = block["per_class"][1]
    assert (row["precision"], row["recall"], row["f1"], row["support"]) == (None, 0.0, 0.0, 2)
    assert row["why"] == "it was never predicted"


def test_many_classes_stay_small_in_memory():
    """Resampled confusion matrices of 300 classes would take 144 MB."""
    label = np.arange(300)
    part = predictions(label, np.random.default_rng(0).normal(size=(300, 300)) + 4 * np.eye(300))
    tracemalloc.start()
    block = metrics.evaluate(part, resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert block["macro_f1"]["low"] <= block["macro_f1"]["value"] <= block["macro_f1"]["high"]


@pytest.mark.parametrize(("trials", "p"), [(1000, 0.5), (1000, 0.9), (1000, 0.99), (180, 0.7), (180, 0.95)])
def test_wilson_covers_the_truth_by_exact_calculation(trials, p):
    outcomes = np.arange(trials + 1)
    low, high = np.array([metrics.wilson(int(count), trials) for count in outcomes]).T
    assert 0.93 <= stats.binom.pmf(outcomes, trials, p)[(low <= p) & (p <= high)].sum() <= 0.97


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Of simulated test sets, 95 % intervals hold the value of the whole population in 93 to 97 %."""
    random = np.random.default_rng(12)
    names = ("accuracy", "macro_f1", "weighted_f1", "roc_auc", "log_loss")
    whole = metrics.evaluate(simulated(random, 1_000_000, 4), resamples=2)
    held = dict.fromkeys(names, 0)
    trials = 1000
    for trial in range(trials):
        block = metrics.evaluate(simulated(random, 1000, 4), resamples=400, seed=trial)
        for name in names:
            held[name] += block[name]["low"] <= whole[name]["value"] <= block[name]["high"]
    assert all(0.93 * trials <= count <= 0.97 * trials for count in held.values()), held


@pytest.mark.slow
def test_the_interval_of_macro_f1_covers_the_truth_with_many_small_classes():
    """100 classes of 20 images, where plain percentiles cover in about 78 %."""
    random = np.random.default_rng(12)
    truth = metrics.evaluate(simulated(random, 300_000, 100, skill=3.0), resamples=2)["macro_f1"]["value"]
    held = 0
    for trial in range(150):
        macro = metrics.evaluate(simulated(random, 2000, 100, skill=3.0), resamples=300, seed=trial)["macro_f1"]
        held += macro["value"] is not None and macro["low"] <= truth <= macro["high"]
    assert held >= 0.9 * 150
