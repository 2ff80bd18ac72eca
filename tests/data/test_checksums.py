"""Checksums of blocks: no change of bytes that happens by accident keeps them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.data.checksums import BLOCK_BYTES, BlockChecksums, blocks, checksum, first_damaged

LINE = 8192


def random_bytes(size: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@given(sizes=st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_stream_has_the_checksums_of_its_blocks_however_it_is_cut(sizes):
    data = random_bytes(sum(sizes))
    sums, start = BlockChecksums(), 0
    for size in sizes:
        sums.add(data[start : start + size])
        start += size
        so_far = sums.all()
    assert sums.all() == tuple(checksum(block) for block in blocks(data))
    if sizes:
        assert so_far == sums.all(), "to ask changes nothing"
    assert first_damaged(data, sums.all()) is None


@pytest.mark.parametrize("size", [1, 7, LINE - 1, LINE, LINE + 1, 5 * LINE + 3, BLOCK_BYTES])
def test_every_changed_byte_changes_the_checksum(size):
    data = random_bytes(size)
    before = checksum(data)
    for place in {0, size // 3, size // 2, size - 1}:
        for bit in range(8):
            data[place] ^= 1 << bit
            assert checksum(data) != before
            data[place] ^= 1 << bit
    assert checksum(data) == before


@pytest.mark.parametrize("change", ["zeros", "one per cent", "signs", "swapped words", "swapped lines", "shifted"])
def test_damage_that_happens(change):
    numbers = np.random.default_rng(1).standard_normal(BLOCK_BYTES // 2).astype(np.float16)
    data = numbers.view(np.uint8)
    sums = [checksum(data)]
    changed, random = data.copy(), np.random.default_rng(2)
    if change == "zeros":
        changed[: BLOCK_BYTES // 2] = 0
    elif change == "one per cent":
        changed[random.random(BLOCK_BYTES) < 0.01] ^= 255
    elif change == "signs":
        changed[1::2][random.random(BLOCK_BYTES // 2) < 0.05] ^= 128
    elif change == "swapped words":
        changed[:16] = np.concatenate([data[8:16], data[:8]])
    elif change == "swapped lines":
        changed[: 2 * LINE] = np.concatenate([data[LINE : 2 * LINE], data[:LINE]])
    else:
        changed = np.roll(data, 4096)
    assert first_damaged(data, sums) is None
    assert first_damaged(changed, sums) == 0


def test_the_damaged_block_is_named():
    data = random_bytes(3 * BLOCK_BYTES + 5)
    sums = [checksum(block) for block in blocks(data)]
    assert first_damaged(data, sums) is None
    data[2 * BLOCK_BYTES] ^= 1
    assert first_damaged(data, sums) == 2
    assert first_damaged(data, sums[:-1]) == first_damaged(data[: BLOCK_BYTES // 2], sums) == 0
    assert first_damaged(data[:0], []) is None
