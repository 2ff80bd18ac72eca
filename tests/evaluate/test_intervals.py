"""Each interval against published figures, exact calculation, or the same computed image by image."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from loupe.evaluate import intervals, metrics
from loupe.evaluate.estimate import wilson
from loupe.evaluate.intervals import Jackknife
from loupe.evaluate.predictions import Predictions


def test_wilson_gives_the_published_intervals():
    # Newcombe 1998, Statistics in Medicine 17, table I: score method without continuity correction.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


@pytest.mark.parametrize(("trials", "p"), [(1000, 0.5), (1000, 0.9), (1000, 0.99), (180, 0.7), (180, 0.95)])
def test_wilson_covers_the_truth_by_exact_calculation(trials, p):
    outcomes = np.arange(trials + 1)
    low, high = np.array([wilson(int(count), trials) for count in outcomes]).T
    assert 0.93 <= stats.binom.pmf(outcomes, trials, p)[(low <= p) & (p <= high)].sum() <= 0.97


def test_the_variance_of_an_area_is_that_of_delong_by_all_pairs():
    random = np.random.default_rng(3)
    members, others = random.normal(1.5, 1, 12).round(1), random.normal(0, 1, 40).round(1)
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    # DeLong, DeLong and Clarke-Pearson 1988, equations 5 and 6; the jackknife divides by one image less.
    of_members, of_others = wins.mean(axis=1).var(ddof=1) / 11, wins.mean(axis=0).var(ddof=1) / 39
    label, scores = np.repeat([0, 1], [12, 40]), np.append(members, others)[:, None]
    areas, without = metrics.roc_auc(label, scores)
    assert areas[0] == pytest.approx(wins.mean())
    scatter = Jackknife.of(areas[0] - without)
    assert scatter.variance == pytest.approx((of_members + of_others) * 51 / 52)
    assert scatter.bias == pytest.approx(0, abs=1e-12)


def simulated(images: int, classes: int, seed: int) -> Predictions:
    random, names = np.random.default_rng(seed), tuple(map(str, range(images)))
    label = np.arange(images) % classes
    logits = random.normal(size=(images, classes)) + 1.5 * np.eye(classes)[label]
    return Predictions(names, names, label, logits.astype(np.float32), tuple(map(str, range(classes))))


@pytest.mark.parametrize("seed", range(4))
def test_ends_are_those_of_leaving_out_images_one_by_one(seed):
    part, images = simulated(60, 4, seed), np.arange(60)
    rows = [np.delete(images, i) for i in images]

    def average(kept, how):
        return sk.f1_score(part.label[kept], part.predicted[kept], average=how)

    block = metrics.evaluate(part)
    for name, how in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        value, left = average(images, how), np.array([average(kept, how) for kept in rows])
        variance, bias = 59 / 60 * ((left - left.mean()) ** 2).sum(), 59 * (left.mean() - value)
        trials = value * (1 - value) / variance
        # The ends of Wilson's interval lie 1.96 standard errors, as they are there, from the value.
        for end in (block.metric(name).low + bias, block.metric(name).high + bias):
            assert abs(value - end) == pytest.approx(1.959964 * (end * (1 - end) / trials) ** 0.5, rel=1e-5)


def test_a_loss_has_students_interval_of_its_logarithm():
    loss = np.random.default_rng(5).exponential(size=40) ** 2
    mean = loss.mean()
    estimate = intervals.of_loss(mean, Jackknife.of((loss - mean) / 39))
    variance = loss.var(ddof=1) / 40
    # The variance of a variance, Cramer 1946, for the population that the sample is: its degrees of freedom.
    kurtosis = stats.kurtosis(loss, fisher=False)
    half = stats.t.ppf(0.975, 2 / ((kurtosis - 1) / 40)) * variance**0.5 / mean
    assert [estimate.low, estimate.high] == pytest.approx([mean * np.exp(-half), mean * np.exp(half)])


def test_an_area_has_students_interval_of_its_logit():
    change = np.random.default_rng(6).normal(size=50) ** 3 / 500
    scatter = Jackknife.of(change)
    estimate = intervals.of_area(0.9, scatter, 25)
    low, high = (np.log(getattr(estimate, end) / (1 - getattr(estimate, end))) for end in ("low", "high"))
    assert (low + high) / 2 == pytest.approx(np.log(9))
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, scatter.freedom) * scatter.variance**0.5 / 0.09)


def test_degrees_of_freedom_count_the_images_that_decide():
    normal = Jackknife.of(np.random.default_rng(7).normal(size=100_000))
    assert normal.freedom == pytest.approx(100_000, rel=0.05)
    # Squares that k images of n give alike scatter by 1/k of their sum squared, near enough; 2 over that is 2 k.
    few_move = Jackknife.of(np.array([1.0, 0.0]), np.array([5, 100_000]))
    assert few_move.freedom == pytest.approx(10, rel=1e-3)
    assert Jackknife.of(np.array([1.0, -1.0] * 10)).freedom == 19  # as many as the images allow


def test_images_that_are_alike_may_be_counted():
    change, count = np.array([0.1, -0.2, 0.05]), np.array([3, 1, 4])
    together, apart = Jackknife.of(change, count), Jackknife.of(np.repeat(change, count))
    assert (together.variance, together.bias, together.freedom) == pytest.approx(
        (apart.variance, apart.bias, apart.freedom)
    )


def test_the_only_image_of_a_class_is_no_sign_of_bias():
    """Macro-F1 without the class is another figure: 60 times the difference would be taken for bias."""
    label = np.array([0] + [1] * 30 + [2] * 29)
    guess = np.array([1] + [1] * 29 + [2] * 30)
    names = tuple(map(str, range(60)))
    part = Predictions(names, names, label, np.eye(3, dtype=np.float32)[guess], ("a", "b", "c"))
    macro = metrics.evaluate(part).macro_f1
    assert macro.low < macro.value - 0.02 < macro.value + 0.02 < macro.high
