"""Selective classification: the curve, its area, and a promise of precision that holds on images not yet seen."""

import json

import numpy as np
import pytest
from scipy import stats

from builders import predictions, simulated
from loupe.errors import LoupeError
from loupe.evaluate import calibration, metrics, selective


def with_confidence(confidence, right):
    """Two classes: images of these confidences (above one half), right where said."""
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, bool)
    logits = np.zeros((len(right), 2))
    logits[:, 0] = np.log(confidence / (1 - confidence))
    return predictions(np.where(right, 0, 1), logits)


def test_the_area_by_hand_and_by_all_orders_of_ties():
    # Kept one by one: risks 0, 1/2, 1/3, 1/2.
    part = with_confidence([0.99, 0.9, 0.8, 0.7], [True, False, True, False])
    assert selective.area(part) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    random = np.random.default_rng(0)
    confidence, right = random.choice([0.6, 0.7, 0.9], 60), random.random(60) < 0.7
    areas = []
    for _ in range(4000):
        order = np.lexsort((random.random(60), -confidence))
        areas.append(((~right[order]).cumsum() / np.arange(1, 61)).mean())
    spread = np.std(areas) / np.sqrt(len(areas))
    assert selective.area(with_confidence(confidence, right)) == pytest.approx(np.mean(areas), abs=4 * spread)


def test_the_points_of_the_curve_are_what_a_threshold_keeps():
    part = simulated(np.random.default_rng(1), 333, 3)
    part = predictions(part.label, part.logits_NK.round(1))  # confidences that tie
    block = selective.curve(part, 0.8)
    sure, right = calibration.confidence(part, 0.8), part.predicted == part.label
    for point in block.points:
        kept = sure >= point.threshold
        assert point.coverage == pytest.approx(kept.mean())
        assert point.risk == pytest.approx(1 - right[kept].mean())
        assert (point.low, point.high) == metrics.wilson(int((~right[kept]).sum()), int(kept.sum()))
    assert block.points[-1].coverage == 1.0 and 30 < len(block.points) <= selective.CURVE_POINTS
    assert block.area.value == pytest.approx(selective.area(part, 0.8))
    assert block.area.low < block.area.value < block.area.high


def test_the_interval_of_the_area_is_that_of_resampled_images():
    part, random = simulated(np.random.default_rng(2), 300, 3), np.random.default_rng(9)
    draws = [selective.area(part.select(random.integers(300, size=300))) for _ in range(200)]
    area = selective.curve(part, 1.0).area
    assert area.high - area.low == pytest.approx(np.subtract(*np.quantile(draws, [0.975, 0.025])), rel=0.25)


def test_a_threshold_passes_its_own_binomial_test_and_keeps_what_ties():
    part = simulated(np.random.default_rng(3), 2000, 3, skill=3.0)
    part = predictions(part.label, part.logits_NK.round(1))
    found = selective.threshold_for(part, 0.97, 0.9)
    kept = calibration.confidence(part, 0.9) >= found.value
    right = (part.predicted == part.label)[kept]
    assert (found.kept, found.correct, found.images) == (kept.sum(), right.sum(), 2000)
    # Clopper and Pearson's lower bound at the level of one start of eight.
    bound = stats.beta.ppf(0.05 / 8, found.correct, found.kept - found.correct + 1)
    assert 0.97 <= bound < found.precision
    assert 0.3 < found.coverage < 1
    assert "at least 0.97" in str(found)


def test_lower_precision_keeps_more_and_what_all_reach_keeps_all():
    part = simulated(np.random.default_rng(4), 2000, 3, skill=3.0)
    found = [selective.threshold_for(part, wanted) for wanted in (0.8, 0.95, 0.98)]
    assert [threshold.kept for threshold in found] == sorted((threshold.kept for threshold in found), reverse=True)
    assert (found[0].value, found[0].kept) == (0.0, 2000)


def test_flawless_images_promise_what_their_number_allows():
    # Without a mistake n images show p where p^n is at most 5 %: for 0.99, 299 of them.
    for images, reachable in ((298, False), (299, True)):
        part = with_confidence(np.linspace(0.6, 0.99, images), np.ones(images))
        assert (selective.threshold_for(part, 0.99) is not None) == reachable
        assert selective.highest_precision(part) == pytest.approx(0.05 ** (1 / images), abs=1e-3)


def test_a_mistake_at_the_top_does_not_end_the_search():
    right = np.ones(2000, bool)
    right[:3] = False  # surest of all, and wrong
    part = with_confidence(np.linspace(0.999, 0.6, 2000), right)
    assert selective.threshold_for(part, 0.99).kept == 2000


def test_what_cannot_be_promised_is_none_and_the_highest_that_can_is_promised():
    part = simulated(np.random.default_rng(5), 400, 3)
    assert selective.threshold_for(part, 0.999) is None
    highest = selective.highest_precision(part)
    assert selective.threshold_for(part, highest) is not None
    assert 0.5 < highest < 0.999
    nothing = predictions([-1, -1], np.zeros((2, 3)))
    assert selective.threshold_for(nothing, 0.5) is None and selective.highest_precision(nothing) == 0
    for wanted in (0.0, 1.0, 1.2):
        with pytest.raises(LoupeError, match="above 0 and below 1"):
            selective.threshold_for(part, wanted)


@pytest.mark.parametrize(("images", "wanted"), [(400, 0.9), (2000, 0.95)])
def test_the_promise_holds_on_images_not_seen(images, wanted):
    """Broken in at most 5 % of the draws; a point estimate of the precision would break it in about half."""
    random = np.random.default_rng(6)
    population = simulated(random, 40_000, 3, skill=3.0)
    sure, right = calibration.confidence(population, 1.0), population.predicted == population.label
    broken, found, draws = 0, 0, 100
    for _ in range(draws):
        rows = random.integers(len(population), size=images)
        chosen = selective.threshold_for(predictions(population.label[rows], population.logits_NK[rows]), wanted)
        if chosen is not None:
            found += 1
            broken += right[sure >= chosen.value].mean() < wanted
    assert found > 0.9 * draws
    assert broken <= stats.binom.ppf(0.999, draws, 0.05)


def test_the_report_shows_thresholds_of_validation_on_test():
    random = np.random.default_rng(7)
    val, test = (simulated(random, 500, 3, skill=3.5) for _ in range(2))
    block = selective.report(0.9, {"val": val, "test": test})
    json.dumps(block.to_json(), allow_nan=False)
    assert [row.precision for row in block.thresholds] == list(selective.TARGETS)
    for row in block.thresholds:
        found = selective.threshold_for(val, row.precision, 0.9)
        if found is None:
            assert row.threshold is None and row.why and row.precision > block.highest_precision
            continue
        assert row.validation.coverage.value == found.coverage
        kept = calibration.confidence(test, 0.9) >= found.value
        assert row.test.precision.value == (test.predicted == test.label)[kept].mean()
    # 0.995 takes 598 images without a mistake.
    assert block.thresholds[-1].threshold is None and block.thresholds[0].threshold is not None
    alone = selective.report(1.0, {"test": test})
    assert alone.thresholds is None and "no validation images" in alone.why
    assert alone.validation is None and alone.test.images == 500
