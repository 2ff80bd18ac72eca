"""Which images are missed, ranked; and accuracy by group."""

import numpy as np

from builders import predictions, simulated
from loupe.evaluate import metrics
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.groups import by_group, losses, ranked


def test_mistakes_are_ranked_by_loss_not_by_confidence():
    # The last is less sure of its mistake (0.6 against 0.7), but gives the true class less.
    p = np.array([[0.9, 0.05, 0.05], [0.29, 0.7, 0.01], [0.04, 0.36, 0.6], [0.2, 0.2, 0.6]])
    part = predictions([0, 0, 0, -1], np.log(p))
    assert ranked(part).tolist() == [2, 1]
    np.testing.assert_allclose(losses(part)[:3], -np.log(p[:3, 0]), rtol=1e-6)
    assert np.isnan(losses(part)[3])


def test_nothing_missed_gives_nothing():
    part = predictions([0, 1, -1], 5 * np.eye(3)[[0, 1, 2]])
    assert ranked(part).tolist() == []


def test_groups_have_their_accuracy_with_its_interval():
    part = simulated(np.random.default_rng(1), 100, 3)
    part = predictions(np.append(part.label, [-1] * 10), np.vstack([part.logits_NK, np.ones((10, 3))]))
    groups = ["b"] * 40 + ["a"] * 50 + ["tiny"] * 4 + [None] * 6 + ["b"] * 10
    block = by_group(part, groups)
    assert [(row.group, row.images) for row in block.rows] == [("a", 50), ("b", 40)]
    right = part.predicted == part.label
    for row, mine in zip(block.rows, (right[40:90], right[:40]), strict=True):
        low, high = metrics.wilson(int(mine.sum()), len(mine))
        assert row.accuracy == Estimate(value=mine.mean(), low=low, high=high)
    assert (block.left_out.groups, block.left_out.images) == (1, 4)


def test_no_groups_and_too_many_are_null_with_the_reason():
    part = simulated(np.random.default_rng(2), 60, 3)
    assert by_group(part, [None] * 60).to_json() == {"rows": None, "why": "the images have no groups"}
    many = by_group(part, [str(i) for i in range(60)])
    assert many.rows is None and "60 groups" in many.why and "at most 50" in many.why


def test_the_accuracy_of_a_class_has_its_interval():
    part = simulated(np.random.default_rng(3), 200, 3)
    for k, row in enumerate(metrics.evaluate(part).per_class):
        mine = part.predicted[part.label == k] == k
        assert (row.recall_low, row.recall_high) == metrics.wilson(int(mine.sum()), len(mine))
    without = metrics.evaluate(part.select(part.label != 1)).per_class[1]
    assert (without.recall, without.recall_low, without.recall_high) == (None, None, None)
