"""Rounds of a search by a clock of its own: heads of the first rounds, and those of the time that is left."""

from types import SimpleNamespace

import numpy as np
import pytest

from loupe.search.bank import Bank, Rung
from loupe.search.evidence import Evidence
from loupe.search.heads import Heads

FIRST, FURTHER, TRAINING = 4.0, 12.0, 30.0  # seconds of a head: on the first rung, on the second, on all images
HALF = 0.5  # of the time that is left, for the first rounds
RIGHT = {"a": 60, "b": 90, "c": 70, "d": 80, "e": 50}  # of 100 images


@pytest.fixture
def heads(monkeypatch):
    """Five heads of equal cost and unequal accuracy; the end of the time is at 100 s."""
    clock = SimpleNamespace(spent=0.0)
    rungs = tuple(Rung(np.arange(images), np.zeros(images, np.int64)) for images in (30, 100))
    bank = Bank(None, None, False, rungs, lambda: False)

    def judge(head, rung):
        clock.spent += (FIRST, FURTHER)[rung]
        label_N = np.zeros(100, np.int64)
        logits_NK = np.eye(2)[(np.arange(100) >= RIGHT[head.name]).astype(int)]
        bank.evidence[rung][head.name] = Evidence(head.name, logits_NK, label_N, of_folds=True)

    core = SimpleNamespace(
        clock=clock,
        bank=bank,
        found=SimpleNamespace(heads=[SimpleNamespace(name=name, members=()) for name in RIGHT], joint=()),
        record=SimpleNamespace(note=lambda name, **values: None),
        is_over=lambda: clock.spent >= 100,
        seconds_left=lambda: 100 - clock.spent,
    )
    found = Heads(core)
    monkeypatch.setattr(found, "scaled_pass", lambda head: 0.0)
    monkeypatch.setattr(found, "seconds", lambda head, each: TRAINING)
    monkeypatch.setattr(found, "_judge", judge)
    monkeypatch.setattr(bank, "images_at", lambda rung, name: 0)
    found.judge_seconds = FURTHER
    return found


def judged(heads) -> list[str]:
    return ["".join(rung) for rung in heads.core.bank.evidence]


def test_all_heads_are_judged_on_few_images_and_the_better_half_on_more(heads):
    assert heads.judge(HALF)
    assert judged(heads) == ["abcde", "bd"]  # to 20 s, then 44 s; the third of the better half would end at 56 s
    assert [one.name for one in heads._ranked()][:2] == ["b", "d"]


def test_what_the_first_rounds_leave_goes_to_heads_that_can_be_trained_as_well(heads):
    heads.judge(HALF)
    heads.core.clock.spent = 57.0
    assert heads.judge(1.0)
    assert judged(heads) == ["abcde", "bdc"]


def test_nothing_is_repeated_where_nothing_more_fits(heads):
    heads.judge(HALF)
    heads.core.clock.spent = 70.0
    assert not heads.judge(1.0)
    assert judged(heads) == ["abcde", "bd"]


def test_one_head_is_judged_however_short_the_time(heads):
    heads.core.clock.spent = 95.0
    heads.judge(HALF)
    assert judged(heads) == ["a", ""]


def test_a_head_that_was_judged_on_more_images_precedes_one_with_a_better_figure_on_few(heads):
    heads.core.bank.evidence[0]["a"] = Evidence("a", np.eye(2)[[0, 0]], np.zeros(2, np.int64), of_folds=True)
    heads.core.bank.evidence[1]["b"] = Evidence("b", np.eye(2)[[0, 1]], np.zeros(2, np.int64), of_folds=True)
    assert [one.name for one in heads._ranked()] == ["b", "a"]


@pytest.mark.parametrize(("right", "taken"), [(95, True), (61, False)])
def test_a_head_that_is_clearly_better_may_learn_from_fewer_images_than_the_best(heads, right, taken):
    label_N = np.zeros(100, np.int64)

    def judged_as(name: str, hits: int) -> Evidence:
        return Evidence(name, np.eye(2)[(np.arange(100) >= hits).astype(int)], label_N, of_folds=True)

    best = SimpleNamespace(name="a-500images", kind="features", network="a", size_px=64, training_images=500)
    heads.core.found.heads = [SimpleNamespace(name=name, network=name, size_px=64) for name in "ab"]
    heads.core.best = SimpleNamespace(candidate=best)
    heads.core.bank.evidence[0].update(a=judged_as("a", 60), b=judged_as("b", right))
    assert heads._improves(heads.core.found.heads[1], 200) == taken
    assert heads._improves(heads.core.found.heads[1], 500)
