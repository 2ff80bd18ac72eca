"""Greedy selection, against a search that tries every multiset of candidates step by step."""

import itertools

import numpy as np
import pytest
from scipy.special import log_softmax

from loupe.errors import ConfigError
from loupe.search.selection import greedy_selection

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 60)


def candidate(skill: float, seed: int) -> np.ndarray:
    logits_NK = np.random.default_rng(seed).normal(size=(60, 3))
    logits_NK[np.arange(60), LABELS] += skill
    return log_softmax(logits_NK, axis=1)


CANDIDATES = [candidate(skill, seed) for seed, skill in enumerate((0.5, 1.4, 1.5, 1.2))]


def loss(members: tuple[int, ...]) -> float:
    p_NK = np.mean([np.exp(CANDIDATES[member]) for member in members], axis=0)
    return float(-np.log(p_NK[np.arange(60), LABELS]).mean())


def by_brute_force(rounds: int) -> list[float]:
    """The definition, from whole arrays: extend the multiset by each candidate, and keep the best path's best."""
    path: list[tuple[int, ...]] = [()]
    for _ in range(rounds):
        path.append(min(((*path[-1], one) for one in range(len(CANDIDATES))), key=loss))
    best = min(path[1:], key=lambda members: (loss(members), len(members)))
    return [best.count(one) / len(best) for one in range(len(CANDIDATES))]


@pytest.mark.parametrize("rounds", [1, 2, 5, 12])
def test_the_shares_are_those_of_the_definition(rounds):
    assert greedy_selection(CANDIDATES, LABELS, rounds) == pytest.approx(by_brute_force(rounds))


def test_two_rounds_find_the_best_pair_that_holds_the_best_single_candidate():
    shares = greedy_selection(CANDIDATES, LABELS, 2)
    best = min(range(4), key=lambda one: loss((one,)))
    pairs = [pair for pair in itertools.combinations_with_replacement(range(4), 2) if best in pair]
    assert {number for number, share in enumerate(shares) if share} == set(min(pairs, key=loss))


def test_a_blend_is_never_worse_than_its_best_candidate_on_these_images():
    shares = np.array(greedy_selection(CANDIDATES, LABELS))
    p_NK = np.tensordot(shares, np.exp(CANDIDATES), axes=1)
    assert -np.log(p_NK[np.arange(60), LABELS]).mean() <= min(loss((one,)) for one in range(4))
    assert shares.sum() == pytest.approx(1)


def test_of_equal_candidates_the_first_is_taken_alone():
    assert greedy_selection([CANDIDATES[2]] * 3, LABELS, 9) == (1.0, 0.0, 0.0)


def test_a_class_that_a_candidate_rules_out_is_an_infinite_loss_and_no_error():
    sure = np.log(np.eye(3)[LABELS] + 0.0, where=np.eye(3)[LABELS] > 0, out=np.full((60, 3), -np.inf))
    wrong = sure.copy()
    wrong[0] = np.roll(wrong[0], 1)
    assert greedy_selection([wrong, CANDIDATES[0], sure], LABELS, 4) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("given", "label_N", "rounds"),
    [
        ([], LABELS, 3),
        (CANDIDATES, LABELS, 0),
        (CANDIDATES, LABELS[:9], 3),
        ([CANDIDATES[0], CANDIDATES[1][:, :2]], LABELS, 3),
    ],
)
def test_what_cannot_be_blended_is_refused(given, label_N, rounds):
    with pytest.raises(ConfigError):
        greedy_selection(given, label_N, rounds)
