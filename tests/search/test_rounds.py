"""Rounds of a search by a clock of its own: which heads are judged in the first one, and with the time that is left."""

from types import SimpleNamespace

import pytest

from loupe.search.search import SUBSET_SHARE, Search

JUDGING, TRAINING = 12.0, 20.0  # seconds of a head: out of fold on the subset, and on all images


@pytest.fixture
def search():
    """Search without images, of five heads of equal cost; the end of the time is at 100 s."""
    found = object.__new__(Search)
    found.clock = SimpleNamespace(spent=0.0)
    found.bank = SimpleNamespace(evidence={}, rows_N=range(100))
    found.found = SimpleNamespace(heads=[SimpleNamespace(name=name) for name in "abcde"])
    found.record = SimpleNamespace(note=lambda name, **values: None)
    found.judge_seconds = 2.0
    found.is_over = lambda: found.clock.spent >= 100
    found.seconds_left = lambda: 100 - found.clock.spent
    found._scaled_pass = lambda head: (JUDGING - found.judge_seconds) / 100
    found._head_seconds = lambda head, each: TRAINING

    def judge(head):
        found.clock.spent += JUDGING
        found.bank.evidence[head.name] = object()

    found._judge = judge
    return found


def test_the_first_round_has_its_share(search):
    assert search._subset_round(SUBSET_SHARE)
    assert [*search.bank.evidence] == ["a", "b"]  # 24 of 35 s; a third one would end at 36


def test_what_it_leaves_goes_to_heads_that_can_be_trained_as_well(search):
    search._subset_round(SUBSET_SHARE)
    search.clock.spent = 50.0
    assert search._subset_round(1.0)
    assert [*search.bank.evidence] == ["a", "b", "c", "d"]  # to 74 s; the next would be trained by 106 s


def test_nothing_is_repeated_where_nothing_more_fits(search):
    search._subset_round(SUBSET_SHARE)
    search.clock.spent = 70.0
    assert not search._subset_round(1.0)
    assert len(search.bank.evidence) == 2


def test_one_head_is_judged_however_short_the_time(search):
    search.clock.spent = 95.0
    search._subset_round(SUBSET_SHARE)
    assert len(search.bank.evidence) == 1
