"""The order of an epoch: a full shuffle, and one within windows of shards."""

import numpy as np
import pytest

from loupe.augment import random
from loupe.augment.shard_order import EpochOrder
from loupe.ranks import Ranks, in_order

SIZES = [40, 7, 100, 60, 1, 92, 50, 50]
SHARDS = np.repeat(np.arange(8, dtype=np.int32), SIZES)
ROWS = np.flatnonzero(np.arange(400) % 5 > 0)  # a fifth validates


def test_without_shards_the_order_is_that_of_the_permutation():
    (window,) = EpochOrder().windows(3, 2, ROWS)
    np.testing.assert_array_equal(window, random.permutation(3, 2, ROWS))


def test_one_window_of_all_shards_is_the_full_shuffle():
    (window,) = EpochOrder(SHARDS, 1000).windows(3, 2, ROWS)
    np.testing.assert_array_equal(window, random.permutation(3, 2, ROWS))


@pytest.mark.parametrize("images", [1, 40, 100])
def test_every_row_comes_once_and_a_shard_lies_in_one_window(images):
    windows = EpochOrder(SHARDS, images).windows(0, 1, ROWS)
    assert sorted(np.concatenate(windows)) == ROWS.tolist()
    of_shard = [set(SHARDS[window]) for window in windows]
    assert sum(map(len, of_shard)) == len(set(SHARDS[ROWS]))
    assert all(len(shards) == 1 for shards in of_shard) or images > 1
    assert max(map(len, windows)) <= images + max(SIZES)


def test_a_window_of_images_below_a_shard_is_one_shard():
    assert len(EpochOrder(SHARDS, 1).windows(0, 0, ROWS)) == len(set(SHARDS[ROWS]))


def test_the_order_is_a_function_of_seed_and_epoch_and_not_of_the_order_of_the_rows():
    order = EpochOrder(SHARDS, 100)
    first = np.concatenate(order.windows(0, 0, ROWS))
    np.testing.assert_array_equal(np.concatenate(order.windows(0, 0, ROWS[::-1])), first)
    assert np.any(np.concatenate(order.windows(0, 1, ROWS)) != first)
    assert np.any(np.concatenate(order.windows(1, 0, ROWS)) != first)


def test_the_first_shard_of_an_epoch_is_uniform_over_seeds():
    even = np.repeat(np.arange(4, dtype=np.int32), 10)
    first = [even[EpochOrder(even, 10).windows(seed, 0, np.arange(40))[0][0]] for seed in range(400)]
    assert np.bincount(first, minlength=4).min() > 70


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_of_any_number_of_ranks_are_the_same_order(count):
    whole = np.concatenate(EpochOrder(SHARDS, 100).windows(5, 7, ROWS)).tolist()
    shares = [
        Ranks(rank, count).share(np.concatenate(EpochOrder(SHARDS, 100).windows(5, 7, ROWS))) for rank in range(count)
    ]
    assert in_order([share.tolist() for share in shares]) == whole
