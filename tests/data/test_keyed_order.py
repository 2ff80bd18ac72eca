"""Keyed orders: a permutation, the same for names in any order, another for another key, uniform over keys."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loupe.data import keyed_order
from loupe.data.keyed_order import chosen, keyed_hash, turns

NAMES = [f"class {k}" for k in range(12)]


@given(st.lists(st.text(), unique=True), st.randoms(use_true_random=False))
def test_turns_are_a_permutation_that_follows_the_names(names, random):
    turn = dict(zip(names, turns("key", names).tolist(), strict=True))
    assert sorted(turn.values()) == list(range(len(names)))
    there = [*names]
    random.shuffle(there)
    assert turns("key", there).tolist() == [turn[name] for name in there]


def test_every_name_has_every_turn_about_equally_often():
    seeds = 2400
    found = np.array([turns(f"key {seed}", NAMES) for seed in range(seeds)])
    share_KK = np.array([np.bincount(found[:, k], minlength=len(NAMES)) for k in range(len(NAMES))]) / seeds
    assert np.abs(share_KK - 1 / len(NAMES)).max() < 5 * np.sqrt(1 / len(NAMES) / seeds)


def test_names_that_are_no_text_have_a_hash():
    assert len(keyed_hash("key")("caf\udce9")) == 16


def test_the_chosen_keep_their_order():
    assert chosen(NAMES, 20, key="k") == NAMES
    drawn = chosen(NAMES, 4, key="k")
    assert drawn == [name for name in NAMES if turns("k", NAMES)[NAMES.index(name)] < 4]
    assert chosen([3, 1, 2], 2, key="k", name=lambda item: f"class {item}") in ([3, 1], [3, 2], [1, 2])


def test_of_very_many_as_many_are_chosen_whatever_their_order_and_from_all_parts(monkeypatch):
    monkeypatch.setattr(keyed_order, "MANY", 1000)
    names = [f"class {k:05d}" for k in range(20_000)]
    drawn = chosen(names, 300, key="k")
    assert len(drawn) == 300
    assert {*chosen(names[::-1], 300, key="k")} == {*drawn} != {*chosen(names, 300, key="other")}
    tenth_10 = np.bincount([int(name.split()[1]) // 2000 for name in drawn], minlength=10)
    assert np.abs(tenth_10 - 30).max() < 5 * np.sqrt(30)
    assert chosen(["same"] * 2000, 300, key="k") == ["same"] * 300
