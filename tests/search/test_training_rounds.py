"""Trainings from scratch on small images, by a clock of their own: for a moment, and longer where that leads."""

from types import SimpleNamespace

import pytest

from loupe.search.space import Family
from loupe.search.training_rounds import TrainingRounds
from loupe.search.trainings import Rates

EPOCH = 2.0  # seconds


@pytest.fixture
def rounds(monkeypatch):
    """Rounds over one family, at 0 of 100 s, with a head of frozen features as the best so far."""
    trained: list[int] = []
    best = SimpleNamespace(kind="features")

    def train(candidate, _expected):
        trained.append(candidate)
        best.kind = core.winner

    family = Family("scratch", "from-scratch", "from scratch", recipe=None, flop=1.0)
    monkeypatch.setattr(Family, "of", lambda _self, epochs, _precision: epochs)
    core = SimpleNamespace(
        found=SimpleNamespace(typical_px=28),
        best=best,
        leads=lambda kind: best.kind == kind,
        winner="features",
        is_over=lambda: False,
        seconds_left=lambda: 100 - EPOCH * sum(trained),
        train=train,
        trainings=SimpleNamespace(rates=lambda *_: Rates(0.0, EPOCH, "fp32")),
        overhead_seconds=0.0,
        record=SimpleNamespace(plan=lambda _candidate: None),
    )
    found = TrainingRounds(core)
    monkeypatch.setattr(found, "families", lambda _head: (family,))
    found.trained = trained
    return found


def test_one_short_schedule_is_tried_beside_a_head_that_is_better(rounds):
    rounds.small_images()
    assert rounds.trained == [5]  # of 1, 2, 3, 5, 8 epochs, the longest within 15 s


def test_a_longer_one_follows_where_the_first_leads(rounds):
    rounds.core.winner = "from-scratch"
    rounds.small_images()
    assert rounds.trained == [5, 18]  # within half of the 90 s that are left


def test_the_leader_gets_all_of_the_time_where_nothing_longer_fits_in_a_share(rounds):
    rounds.core.winner = "from-scratch"
    rounds.core.trainings.rates = lambda *_: Rates(0.0, 28.0, "fp32")
    rounds.core.seconds_left = lambda: 100 - 28 * sum(rounds.trained)
    rounds.small_images()
    assert rounds.trained == [1, 2]  # 56 of the 72 s that are left


def test_one_epoch_may_take_twice_the_share(rounds):
    rounds.core.trainings.rates = lambda *_: Rates(0.0, 28.0, "fp32")
    rounds.small_images()
    assert rounds.trained == [1]


@pytest.mark.parametrize("change", [{"typical_px": 200}, {"kind": "from-scratch"}, {"epoch": 40.0}])
def test_nothing_is_tried_of_photographs_where_there_is_no_head_and_where_it_would_take_long(rounds, change):
    rounds.core.found.typical_px, rounds._flips = change.get("typical_px", 28), True
    rounds.core.best.kind = change.get("kind", "features")
    rounds.core.trainings.rates = lambda *_: Rates(0.0, change.get("epoch", EPOCH), "fp32")
    rounds.small_images()
    assert rounds.trained == []


def test_large_signs_are_tried_too(rounds):
    rounds.core.found.typical_px, rounds._flips = 200, False
    rounds.small_images()
    assert rounds.trained == [5]


def test_large_signs_are_not_tried_for_fewer_epochs_than_tell(rounds):
    rounds.core.found.typical_px, rounds._flips = 200, False
    rounds.core.trainings.rates = lambda *_: Rates(0.0, 4.0, "fp32")
    rounds.small_images()
    assert rounds.trained == []
