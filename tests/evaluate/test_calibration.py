"""Temperature scaling: the optimum, where there is none, what never changes, and the bins of the diagram."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from builders import predictions, simulated
from loupe.evaluate import calibration, metrics


def sharpened(seed: int, images: int, factor: float, classes: int = 4):
    """Logits that are `factor` times those of a calibrated network: labels are drawn from the softmax of the logits."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(images, classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) > random.uniform(size=(images, 1))).argmax(axis=1)
    return predictions(label, factor * logits)


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 500.0])
def test_the_temperature_is_the_minimum_of_the_log_loss_and_the_factor_of_the_logits(factor):
    part = sharpened(0, 3000, factor)
    fitted = calibration.fit_temperature(part)

    def loss(log_t):
        logits = part.logits_NK.astype(np.float64) / np.exp(log_t)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return log_loss(part.label, p / p.sum(axis=1, keepdims=True), labels=range(4))

    middle = np.log(factor)
    best = minimize_scalar(loss, bounds=(middle - 2, middle + 2), method="bounded", options={"xatol": 1e-10})
    assert fitted.value == pytest.approx(np.exp(best.x), rel=1e-6)
    assert fitted.low < factor < fitted.high
    assert fitted.high / fitted.low < 1.2
    assert fitted.why is None and fitted.images == 3000


def test_its_interval_is_that_of_resampled_images():
    part, random = sharpened(1, 400, 1.7), np.random.default_rng(5)
    fitted = calibration.fit_temperature(part)
    draws = [calibration.fit_temperature(part.select(random.integers(400, size=400))).value for _ in range(200)]
    assert np.log(fitted.high / fitted.low) == pytest.approx(2 * 1.96 * np.log(draws).std(), rel=0.15)


def test_unlabelled_images_count_for_nothing():
    part = sharpened(2, 500, 1.5)
    more = predictions(np.append(part.label, [-1] * 40), np.vstack([part.logits_NK, np.ones((40, 4))]))
    assert calibration.fit_temperature(more) == calibration.fit_temperature(part)
    assert calibration.compare(more, 1.5) == calibration.compare(part, 1.5)


def test_few_mistakes_or_none_leave_the_temperature_at_one_with_the_reason():
    eye = 9 * np.eye(3)[np.arange(300) % 3]
    flawless = calibration.fit_temperature(predictions(np.arange(300) % 3, eye))
    assert (flawless.value, flawless.low, flawless.mistakes) == (1.0, None, 0)
    assert "no validation image" in flawless.why
    for missed in (calibration.FEWEST_MISTAKES - 1, calibration.FEWEST_MISTAKES):
        label = np.arange(300) % 3
        label[:missed] = (label[:missed] + 1) % 3
        fitted = calibration.fit_temperature(predictions(label, eye))
        assert fitted.mistakes == missed
        assert (fitted.value == 1.0) == (missed < calibration.FEWEST_MISTAKES)
        assert (fitted.why is not None) == (missed < calibration.FEWEST_MISTAKES)


def test_logits_that_say_nothing_have_no_temperature():
    part = simulated(np.random.default_rng(0), 300, 3)
    backwards = calibration.fit_temperature(predictions(part.label, -part.logits_NK))
    same = calibration.fit_temperature(predictions(part.label, np.zeros((300, 3))))
    assert backwards.value == same.value == 1.0
    assert "no minimum" in backwards.why and "no minimum" in same.why
    assert calibration.fit_temperature(predictions([], np.zeros((0, 3)))) == calibration.Temperature()
    assert "no validation images" in calibration.Temperature().why


@pytest.mark.parametrize("temperature", [0.05, 0.7, 30.0])
def test_no_prediction_changes_and_ties_neither(temperature):
    part = simulated(np.random.default_rng(3), 200, 5)
    part = predictions(part.label, part.logits_NK.round(1))
    p = calibration.probabilities(part, temperature)
    assert (p.argmax(axis=1) == part.predicted).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(calibration.confidence(part, temperature), p.max(axis=1))
    np.testing.assert_allclose(calibration.probabilities(part, 1.0), part.probabilities_NK)


def test_bins_are_those_of_scikit_learn_and_give_the_calibration_error():
    part = simulated(np.random.default_rng(4), 700, 4)
    rows = calibration.reliability(part, 0.8)
    sure, right = calibration.confidence(part, 0.8), part.predicted == part.label
    share, mean = calibration_curve(right, sure, n_bins=15)
    filled = [row for row in rows if row.images]
    np.testing.assert_allclose([row.accuracy for row in filled], share)
    np.testing.assert_allclose([row.confidence for row in filled], mean)
    assert [(row.above, row.to) for row in rows] == [pytest.approx((b / 15, (b + 1) / 15)) for b in range(15)]
    for row in filled:
        assert (row.low, row.high) == metrics.wilson(round(row.accuracy * row.images), row.images)
    gaps = sum(row.images * abs(row.accuracy - row.confidence) for row in filled) / 700
    assert gaps == pytest.approx(calibration.compare(part, 0.8).ece.after, abs=1e-12)


def test_before_and_after_on_images_that_it_was_not_fitted_on():
    val, test = sharpened(6, 3000, 3.0), sharpened(7, 3000, 3.0)
    fitted = calibration.fit_temperature(val)
    block = calibration.report(fitted, {"val": val, "test": test})
    json.dumps(block.to_json(), allow_nan=False)
    assert block.temperature.value == fitted.value and block.fitted_on == "validation"
    after = block.test
    raw = metrics.evaluate(test)
    assert after.log_loss.before == pytest.approx(raw.log_loss.value, abs=1e-12)
    assert after.ece.before == pytest.approx(raw.ece.value, abs=1e-12)
    change = after.log_loss.change
    assert change.value == pytest.approx(after.log_loss.after - after.log_loss.before, abs=1e-12)
    assert change.low < change.value < change.high < 0
    assert after.ece.after < 0.2 * after.ece.before


def test_a_split_that_is_absent_is_null():
    part = sharpened(8, 200, 1.0)
    block = calibration.report(calibration.Temperature(), {"test": part})
    assert block.validation is None and block.temperature.why.startswith("there are no validation images")
    assert block.test.log_loss.before == block.test.log_loss.after
    unlabelled = dataclasses.replace(part, label=np.full(200, -1))
    assert calibration.report(calibration.Temperature(), {"val": unlabelled}).validation is None
