"""Every metric against scikit-learn or arithmetic; its interval against plain resampling, and against the truth."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from builders import predictions, simulated
from loupe.evaluate import inference, metrics
from loupe.evaluate.estimate import Estimate, wilson


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rounding", [None, 0])
def test_values_are_those_of_scikit_learn(classes, rounding):
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    part = simulated(np.random.default_rng(classes), 400, classes, share=share)
    if rounding is not None:  # many equal scores
        part = predictions(part.label, part.logits_NK.round(rounding))
    block = metrics.evaluate(part)
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
        assert block.metric(name).value == pytest.approx(value, abs=1e-12), name
        assert block.metric(name).low <= block.metric(name).value <= block.metric(name).high, name
    np.testing.assert_array_equal(block.confusion_matrix, sk.confusion_matrix(truth, guess))
    columns = sk.precision_recall_fscore_support(truth, guess)
    for k, row in enumerate(block.per_class):
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx([c[k] for c in columns])
    assert block.images == 400
    json.dumps(block.to_json(), allow_nan=False)


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


def test_areas_and_their_mean_without_each_image_are_those_of_scikit_learn():
    part = simulated(np.random.default_rng(1), 60, 3)
    label, scores = part.label, part.probabilities_NK.round(1)  # ties within and across classes

    def areas(rows):
        return [sk.roc_auc_score(label[rows] == k, scores[rows, k]) for k in range(3)]

    found, without = metrics.roc_auc(label, scores)
    assert found == pytest.approx(areas(np.arange(60)), abs=1e-12)
    assert without == pytest.approx([np.mean(areas(np.delete(np.arange(60), i))) for i in range(60)], abs=1e-12)


def test_an_area_without_images_on_one_side_is_nan():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert np.isnan(metrics.roc_auc(np.array([0, 0, 0]), scores)[0]).all()
    areas, without = metrics.roc_auc(np.array([0, 0, 1]), scores)
    assert areas.tolist() == [1.0, 1.0]
    assert without[:2].tolist() == [1.0, 1.0]
    assert np.isnan(without[2])  # without the last image no area is left


@pytest.mark.slow
def test_intervals_are_those_of_resampling_images_one_by_one():
    part = simulated(np.random.default_rng(7), 300, 3)
    block = metrics.evaluate(part)
    random, draws = np.random.default_rng(99), {"macro_f1": [], "weighted_f1": [], "roc_auc": [], "log_loss": []}
    for _ in range(75):
        rows = random.integers(300, size=300)
        truth, guess, probability = part.label[rows], part.predicted[rows], part.probabilities_NK[rows]
        draws["macro_f1"].append(sk.f1_score(truth, guess, average="macro"))
        draws["weighted_f1"].append(sk.f1_score(truth, guess, average="weighted"))
        draws["roc_auc"].append(sk.roc_auc_score(truth, probability, multi_class="ovr"))
        draws["log_loss"].append(sk.log_loss(truth, probability))
    for name, values in draws.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert [block.metric(name).low, block.metric(name).high] == pytest.approx(
            [low, high], abs=0.2 * (high - low)
        ), name


def test_a_missing_class_makes_averages_over_classes_undefined_with_the_reason():
    part = simulated(np.random.default_rng(2), 100, 3)
    part = part.select(part.label != 1)
    block = metrics.evaluate(part)
    for name in ("macro_f1", "roc_auc"):
        assert block.metric(name) == Estimate(value=None, why="there are no images of the class c1")
    assert block.accuracy.value == sk.accuracy_score(part.label, part.predicted)
    assert block.weighted_f1.value == pytest.approx(sk.f1_score(part.label, part.predicted, average="weighted"))
    assert block.per_class[1].recall is None
    assert block.per_class[1].why == "it has no images here"


def test_nothing_labelled_makes_everything_undefined():
    for part in (predictions([-1, -1], np.zeros((2, 3))), predictions([], np.zeros((0, 3)))):
        block = metrics.evaluate(part)
        for name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "roc_auc", "log_loss", "ece"):
            assert block.metric(name) == Estimate(value=None, why="there are no labelled images")
        assert block.images == 0
        assert block.confusion_matrix == ((0,) * 3,) * 3


def test_unlabelled_images_count_for_nothing():
    part = simulated(np.random.default_rng(4), 50, 3)
    more = predictions(np.append(part.label, [-1] * 9), np.vstack([part.logits_NK, np.ones((9, 3))]))
    assert metrics.evaluate(more) == metrics.evaluate(part)


def test_one_class_alone():
    block = metrics.evaluate(predictions([0, 0], np.zeros((2, 1))))
    assert block.roc_auc == Estimate(value=None, why="it needs at least two classes")
    assert block.accuracy.value == 1.0


def test_perfect_test_images_leave_room_for_errors_not_seen():
    label = np.array([0] * 5 + [1] * 10 + [2] * 15)
    block = metrics.evaluate(predictions(label, 10 * np.eye(3)[label]))
    assert block.accuracy.low == pytest.approx(wilson(30, 30)[0])
    assert block.micro_f1 == block.accuracy
    assert block.weighted_f1 == block.accuracy
    for name in ("macro_f1", "roc_auc"):  # every class counts alike, and the rarest has five images
        found = block.metric(name)
        assert (found.value, found.low, found.high) == (1.0, pytest.approx(wilson(15, 15)[0]), 1.0)
    two = metrics.evaluate(predictions(label[:15], 10 * np.eye(2)[label[:15]]))
    area = two.roc_auc
    assert (area.value, area.low, area.high) == (1.0, pytest.approx(wilson(5, 5)[0]), 1.0)


def test_where_the_images_cannot_tell_there_is_no_interval_and_a_reason():
    same = metrics.evaluate(predictions([0, 1, 0, 1], np.zeros((4, 2))))
    assert same.log_loss.value == pytest.approx(np.log(2))
    assert (same.log_loss.low, same.log_loss.high) == (None, None)
    assert "every image" in same.log_loss.why
    assert same.roc_auc.low < 0.5 < same.roc_auc.high
    alone = metrics.evaluate(predictions([0, 0, 1], np.array([[2.0, 0], [0, 1], [0, 0]]))).roc_auc
    assert alone == Estimate(value=0.5, low=None, high=None, why="no interval: a class has a single image")


def test_a_class_that_is_never_predicted_has_no_precision():
    block = metrics.evaluate(predictions([0, 1, 1], np.array([[1.0, 0], [1, 0], [1, 0]])))
    row = block.per_class[1]
    assert (row.precision, row.recall, row.f1, row.support) == (None, 0.0, 0.0, 2)
    assert row.why == "it was never predicted"


def test_many_classes_stay_small_in_memory():
    """Resampled confusion matrices of 300 classes would take 144 MB."""
    label = np.arange(300)
    part = predictions(label, np.random.default_rng(0).normal(size=(300, 300)) + 4 * np.eye(300))
    tracemalloc.start()
    block = metrics.evaluate(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert block.macro_f1.low <= block.macro_f1.value <= block.macro_f1.high


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "skill", "images"), [(4, 1.5, 1000), (2, 3.3, 1000), (10, 3.0, 180)])
def test_intervals_cover_the_truth(classes, skill, images):
    """Of simulated test sets, also those of a network that is nearly always right, and of small ones."""
    random = np.random.default_rng(12)
    names = ("accuracy", "macro_f1", "weighted_f1", "roc_auc", "log_loss")
    whole = metrics.evaluate(simulated(random, 500_000, classes, skill))
    held = dict.fromkeys(names, 0)
    trials = 1000
    for _ in range(trials):
        block = metrics.evaluate(simulated(random, images, classes, skill))
        for name in names:
            held[name] += block.metric(name).low <= whole.metric(name).value <= block.metric(name).high
    assert all(0.93 * trials <= count <= 0.975 * trials for count in held.values()), held


@pytest.mark.slow
def test_the_interval_of_macro_f1_covers_the_truth_with_many_small_classes():
    """100 classes of 20 images, where plain percentiles of the bootstrap cover in about 78 %."""
    random = np.random.default_rng(12)
    truth = metrics.evaluate(simulated(random, 300_000, 100, skill=3.0)).macro_f1.value
    held = 0
    for _ in range(150):
        macro = metrics.evaluate(simulated(random, 2000, 100, skill=3.0)).macro_f1
        held += macro.value is not None and macro.low <= truth <= macro.high
    assert held >= 0.9 * 75


def test_macro_f1_of_validation_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for classes in (2, 3, 7, 40):
        label_N = rng.integers(0, classes, 30)  # of 40 classes, some have no images and are not predicted
        logits_NK = rng.normal(size=(30, classes)).astype(np.float32)
        expected = sk.f1_score(label_N, logits_NK.argmax(axis=1), average="macro", zero_division=0.0)
        assert inference.scores(logits_NK, label_N)["val_macro_f1"] == expected
