"""Series of L2 strengths that goes on by itself: simulated losses over the strength."""

import math

import pytest

from loupe.config.optimizer import Logistic
from loupe.training.strengths import STRONGEST_TRIED, UNLIMITED, WEAKEST_TRIED, nearest_last, next_strength


def series(loss, spec=UNLIMITED):
    """Strengths, in the order in which they are tried, where the log loss is a function of their logarithm."""
    tried = []
    while (strength := next_strength(tried, spec)) is not None:
        tried.append((strength, loss(math.log10(strength))))
    return [strength for strength, _ in tried]


def valley(at):
    return lambda power: 1 + 0.1 * abs(power - at)


@pytest.mark.parametrize("best", [3, 1, -0.5, -4, -8])
def test_weaker_strengths_are_tried_until_two_are_worse_than_the_best(best):
    tried = series(valley(best))
    assert tried == pytest.approx([10 ** (4 - step / 2) for step in range(len(tried))])
    assert min(tried) == pytest.approx(10 ** (best - 1))
    assert 1000.0 in tried and (best > 0 or 0.1 in tried), "without rounding errors on powers of ten"


def test_a_plateau_does_not_end_the_series_and_the_weakest_that_changes_a_head_does():
    falls_late = series(lambda power: 1.0 if power > -3 else 0.5)
    assert min(falls_late) == pytest.approx(WEAKEST_TRIED)
    within_rise = series(lambda power: 1 - 1e-4 * min(power, 0) if power > -6 else 0.5)
    assert min(within_rise) == pytest.approx(WEAKEST_TRIED)


def test_where_the_strongest_is_the_best_stronger_ones_follow_until_one_is_worse():
    tried = series(valley(5.5))
    assert tried == pytest.approx([1e4, 10**3.5, 1e3, 10**4.5, 1e5, 10**5.5, 1e6])
    assert max(series(lambda power: -power)) == STRONGEST_TRIED


def test_named_ends_are_tried_and_not_passed():
    tried = series(valley(-4), Logistic(weakest=0.02))
    assert min(tried) == 0.02 and tried[:-1] == pytest.approx([10 ** (4 - step / 2) for step in range(len(tried) - 1)])
    assert series(valley(8), Logistic(strongest=300.0)) == pytest.approx([300, 300 / 10**0.5, 30])
    assert series(valley(0), Logistic(strongest=2.0, weakest=2.0)) == [2.0]
    assert series(valley(6), Logistic(weakest=1e5))[0] == 1e5


def test_the_search_for_a_head_starts_from_the_nearest_strengths():
    assert nearest_last([1e4, 1e3, 1e2], 10.0) == [0, 1, 2]
    assert nearest_last([1e4, 1e3, 1e2], 1e5) == [2, 1, 0]
