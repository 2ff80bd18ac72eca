"""The counter-based generator: known answers, independence of who asks, and statistics."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from loupe.augment import random

IMAGES = np.arange(20_000)

# Random123, tests/kat_vectors: "philox4x32 10", counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint64)


def plain_philox(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """The paper's figure in Python integers, for one counter."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_published_answers(counter: str, key: str, result: str) -> None:
    assert random.philox4x32(words(counter)[:, None], words(key))[:, 0].tolist() == words(result).tolist()


def test_a_draw_is_the_stated_function_of_seed_epoch_image_and_draw() -> None:
    seed, epoch, image = 0x0123456789ABCDEF, 77, (5 << 32) + 9
    for draw in (0, 1, 6, 7):
        block = plain_philox((draw // 2, epoch, 9, 5), (0x89ABCDEF, 0x01234567))
        first, second = block[2:] if draw % 2 else block[:2]
        expected = ((first >> 5) * 2**26 + (second >> 6)) / 2**53
        assert random.uniform(seed, epoch, np.array([image]), draw)[0] == expected


def test_draws_do_not_depend_on_batch_order_or_grouping() -> None:
    whole = random.uniform(3, 5, IMAGES[:1000], [0, 1, 2, 9])
    assert whole.shape == (1000, 4)
    shuffled = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(random.uniform(3, 5, IMAGES[shuffled], [0, 1, 2, 9]), whole[shuffled])
    singles = np.concatenate([random.uniform(3, 5, IMAGES[i : i + 1], [0, 1, 2, 9]) for i in range(1000)])
    np.testing.assert_array_equal(singles, whole)
    np.testing.assert_array_equal(random.uniform(3, 5, IMAGES[:1000], [9, 2]), whole[:, [3, 2]])
    np.testing.assert_array_equal(random.uniform(3, 5, IMAGES[:1000], 1), whole[:, 1])
    assert random.uniform(3, 5, IMAGES[:0], [0, 1]).shape == (0, 2)


def test_draws_are_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from loupe.augment import random as r;"
        "print(r.uniform(1, 2, np.arange(9), [0, 3]).tobytes().hex(), r.integer_seed(1, 2, 3, 'dropout'))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert other[0] == random.uniform(1, 2, np.arange(9), [0, 3]).tobytes().hex()
    assert int(other[1]) == random.integer_seed(1, 2, 3, "dropout")


@pytest.mark.parametrize(
    ("seed", "epoch", "draw"), [(0, 0, 0), (0, 1, 0), (1, 0, 5), (2**64 - 1, 2**32 - 1, 2**32 - 1)]
)
def test_draws_are_uniform(seed: int, epoch: int, draw: int) -> None:
    u = random.uniform(seed, epoch, IMAGES, draw)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((u * 256).astype(int), minlength=256)).pvalue > 1e-3
    assert stats.chisquare(np.bincount((u * 2**20 % 1 * 256).astype(int), minlength=256)).pvalue > 1e-3


def neighbours(what: str) -> tuple[np.ndarray, np.ndarray]:
    """The same draws under two neighbouring counters or keys."""
    here = random.uniform(8, 4, IMAGES, 2)
    there = {
        "image": lambda: random.uniform(8, 4, IMAGES + 1, 2),
        "far image": lambda: random.uniform(8, 4, IMAGES + (1 << 32), 2),
        "epoch": lambda: random.uniform(8, 5, IMAGES, 2),
        "seed": lambda: random.uniform(9, 4, IMAGES, 2),
        "high seed": lambda: random.uniform(8 + (1 << 32), 4, IMAGES, 2),
        "draw in the block": lambda: random.uniform(8, 4, IMAGES, 3),
        "draw in the next block": lambda: random.uniform(8, 4, IMAGES, 4),
    }[what]()
    return here, there


@pytest.mark.parametrize(
    "what", ["image", "far image", "epoch", "seed", "high seed", "draw in the block", "draw in the next block"]
)
def test_neighbours_are_independent(what: str) -> None:
    here, there = neighbours(what)
    assert abs(np.corrcoef(here, there)[0, 1]) < 4 / np.sqrt(len(here))
    table = np.histogram2d(here, there, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_pairs_of_bits_are_balanced() -> None:
    """Every output bit is one half of the time, and differs from its neighbour's in the next image half of the time."""
    block = random.philox4x32(np.stack([IMAGES * 0, IMAGES * 0, IMAGES, IMAGES * 0]).astype(np.uint64), words("0 0"))
    bits = (block[:, :, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    bound = 5 * np.sqrt(0.25 / len(IMAGES))
    assert np.abs(bits.mean(1) - 0.5).max() < bound
    assert np.abs((bits[:, 1:] ^ bits[:, :-1]).mean(1) - 0.5).max() < bound


def test_a_permutation_holds_every_index_once_in_an_order_of_its_own() -> None:
    indices = np.arange(1000, 3000)
    orders = [random.permutation(0, epoch, indices) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), indices)
    assert abs(stats.spearmanr(orders[0], orders[1]).statistic) < 0.1
    assert abs(stats.spearmanr(orders[0], indices).statistic) < 0.1
    np.testing.assert_array_equal(random.permutation(0, 0, indices[::-1]), orders[0])
    np.testing.assert_array_equal(random.permutation(0, 0, indices[::2]), orders[0][orders[0] % 2 == 0])


def test_all_orders_are_equally_likely() -> None:
    orders = [tuple(random.permutation(seed, 0, np.arange(4))) for seed in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_integer_seeds_differ_by_step_purpose_epoch_and_seed() -> None:
    seeds = {
        random.integer_seed(seed, epoch, step, purpose)
        for seed in (0, 1)
        for epoch in (0, 1)
        for step in range(500)
        for purpose in ("dropout", "order")
    }
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


@pytest.mark.parametrize(("seed", "epoch", "draw"), [(-1, 0, 0), (2**64, 0, 0), (0, -1, 0), (0, 2**32, 0), (0, 0, -1)])
def test_numbers_beyond_the_counter_are_refused(seed: int, epoch: int, draw: int) -> None:
    with pytest.raises(ValueError, match="from 0 to"):
        random.uniform(seed, epoch, np.arange(3), draw)


def test_indices_must_be_one_row() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        random.uniform(0, 0, np.zeros((2, 2), np.int64), 0)
