"""Order of the trainings: short schedules of all families first, then longer ones of the best, as far as they fit."""

from pathlib import Path

import numpy as np

from loupe.models.at_hand import WeightsAtHand
from loupe.recipes import catalog
from loupe.search.evidence import Evidence
from loupe.search.space import EPOCHS, Family, with_epochs
from loupe.search.trainings import Contest, Rates


def family(name: str) -> Family:
    return Family(name=name, kind="from-scratch", title=name, recipe=catalog.recipe("digits"), flop=1.0)


def evidence(name: str, right: int) -> Evidence:
    label_N = np.zeros(100, np.int64)
    hit_N = np.arange(100) < right
    return Evidence(name, np.stack([hit_N * 2.0, 1 - hit_N * 2.0], axis=1), label_N, of_folds=False)


def contest(*rates: Rates) -> Contest:
    made = Contest([family(name) for name in "abc"[: len(rates)]])
    for one, rate in zip(made.families, rates, strict=True):
        made.add(one, rate)
    return made


def played(made: Contest, seconds: float, right: dict[str, int]) -> list[tuple[str, int]]:
    """All trainings until nothing fits, each of which takes as long as expected."""
    order = []
    first = [(one, made.first) for one in made.families]
    while first or made.next(seconds) is not None:
        if first:
            one, fitting = first.pop(0)
            epochs = fitting(one, seconds)
            if not epochs:
                continue
        else:
            one, epochs = made.next(seconds)
        seconds -= made.rates[one.name].seconds(epochs)
        assert seconds >= 0
        order.append((one.name, epochs))
        made.tried(one, epochs, evidence(f"{one.name}-{epochs}", right[one.name] + min(epochs, 5)))
    return order


def test_each_family_gets_a_share_and_the_best_one_the_rest():
    made = contest(Rates(1, 1, "fp32"), Rates(1, 2, "fp32"))
    order = played(made, 100, {"a": 50, "b": 80})
    # Of 4 shares of 100 s, a whole schedule of 24 epochs at most is 18; then of 3 shares of 81 s one of 13 is 12.
    assert order[:2] == [("a", 18), ("b", 12)]
    assert order[2][0] == "b" and order[2][1] >= 18
    assert {epochs for _, epochs in order} <= set(EPOCHS)


def test_the_same_rates_and_accuracies_give_the_same_order():
    rates = (Rates(2, 1, "fp32"), Rates(3, 2, "fp32"), Rates(5, 4, "fp32"))
    right = {"a": 60, "b": 70, "c": 65}
    assert played(contest(*rates), 200, right) == played(contest(*rates), 200, right)


def test_a_longer_limit_only_adds_or_lengthens_trainings():
    short = played(contest(Rates(1, 1, "fp32")), 10, {"a": 50})
    long = played(contest(Rates(1, 1, "fp32")), 40, {"a": 50})
    assert max(epochs for _, epochs in long) > max(epochs for _, epochs in short)


def test_a_time_too_short_for_shares_goes_to_one_family():
    order = played(contest(Rates(1, 15, "fp32"), Rates(1, 20, "fp32")), 60, {"a": 50, "b": 80})
    assert order == [("a", 3)]


def test_nothing_begins_that_does_not_fit():
    assert played(contest(Rates(30, 10, "fp32")), 20, {"a": 50}) == []


def test_what_more_time_would_reach_is_the_next_schedule():
    made = contest(Rates(1, 1, "fp32"))
    assert made.longer(made.families[0]).epochs == 1
    made.tried(made.families[0], 8, None)
    assert made.longer(made.families[0]).epochs == 12
    made.tried(made.families[0], 60, None)
    assert made.longer(made.families[0]) is None


def test_epochs_are_shared_among_the_stages_and_solved_heads_keep_their_strengths():
    assert [stage.epochs for stage in with_epochs(catalog.recipe("fast"), 5).stages] == [2, 3]
    assert [stage.epochs for stage in with_epochs(catalog.recipe("fast"), 1).stages] == [1]
    solved, tuned = with_epochs(catalog.recipe("finetune"), 3).stages
    assert solved.epochs == catalog.recipe("finetune").stages[0].epochs and tuned.epochs == 3


def test_pretrained_networks_are_tried_before_one_from_scratch_and_the_cheaper_first():
    kinds = {"a": ("from-scratch", 1.0), "b": ("finetune", 3.0), "c": ("last-block", 2.0)}
    made = [
        Family(name=name, kind=kind, title=name, recipe=catalog.recipe("digits"), flop=flop)
        for name, (kind, flop) in kinds.items()
    ]
    assert [one.name for one in Contest(()).with_families(made).families] == ["c", "b", "a"]


def test_views_of_frozen_blocks_are_computed_once_each():
    rates = Rates(10, 1, "fp32", view_seconds=5, views=4)
    assert [rates.seconds(epochs) for epochs in (1, 3, 8)] == [16, 28, 38]


def pretrained(name: str, kind: str) -> Family:
    at_hand = WeightsAtHand("tf_efficientnet_lite0", "timm", 1, Path("weights"))
    return Family(name=name, kind=kind, title=name, recipe=catalog.recipe("digits"), flop=1.0, backbone=at_hand)


def test_a_pretrained_network_is_tried_for_as_many_epochs_as_tell_something():
    one, other = pretrained("a", "last-block"), pretrained("b", "finetune")
    made = Contest([one, other])
    made.add(one, Rates(1, 1, "fp32"))
    made.add(other, Rates(1, 10, "fp32"))
    assert made.first(one, 12, telling=3) == 8  # a quarter of the time has 2 epochs, which tell too little
    made.tried(one, 8, None)
    assert made.first(other, 60, telling=3) == 0
    assert made.first(other, 60, telling=1) == 1
    assert made.first(other, 100, telling=3) == 3


def test_large_photographs_from_scratch_get_a_tenth_of_the_time_beside_pretrained_networks():
    one, other = pretrained("a", "last-block"), family("b")
    made = Contest([one, other])
    made.add(one, Rates(1, 1, "fp32"))
    made.add(other, Rates(0, 1, "fp32"))
    made.tried(one, 8, None)
    assert made.first(other, 30) == 3
    alone = Contest([other])
    alone.add(other, Rates(0, 1, "fp32"))
    assert alone.first(other, 30) == 8
