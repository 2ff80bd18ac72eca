"""Counter-based random numbers: a function of (seed, epoch, image) without a state.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011): a bijection of 128-bit counters, selected by a 64-bit key. Its outputs pass the usual test batteries even for
regular counters. The seed is the key; the epoch, the image and the number of the draw are the counter. So a draw does
not depend on the batch, the worker, the device or earlier draws.

The four words of the counter are the block, the epoch, and the low and high half of the index. One block holds two
draws. Numbered draws (`uniform`) use blocks below 2**31, named purposes (`permutation`, `integer_seed`) those above.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2s

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]  # 32-bit words in 64 bits each, so that products do not overflow

_ROUNDS = np.arange(10, dtype=np.uint64)[:, None, None]
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_NAMED_BLOCKS = 1 << 31


def uniform(seed: int, epoch: int, index: Ints, draw: int | Sequence[int]) -> Floats:
    """Uniform numbers in [0, 1) with 53 random bits.

    The value of a draw does not depend on the other draws requested in the same call.

    Args:
        seed: below 2**64.
        epoch: below 2**32.
        index: image indices [B].
        draw: number of one draw, or of several; below 2**32.

    Returns:
        Float64 [B] for one draw, [B, D] for several.

    Raises:
        ValueError: a number is out of range, or `index` is not one-dimensional.
    """
    draws = np.atleast_1d(np.asarray(draw, np.int64))
    if draws.min(initial=0) < 0 or draws.max(initial=0) >= 2 * _NAMED_BLOCKS:
        raise ValueError(f"draw must be from 0 to 2**32 - 1; got {draw!r}")
    blocks, position = np.unique(draws // 2, return_inverse=True)
    words = _words(seed, epoch, index, blocks)
    pairs = words.reshape(2, 2, *words.shape[1:])[draws % 2, :, :, position]
    # 27 and 26 bits make the 53 of a double, as in the Mersenne Twister's genrand_res53.
    numbers: Floats = ((pairs[:, 0] >> np.uint64(5)) * 2.0**26 + (pairs[:, 1] >> np.uint64(6))) * 2.0**-53
    return numbers.T if np.ndim(draw) else numbers[0]


def permutation(seed: int, epoch: int, indices: Ints, purpose: str = "order") -> Ints:
    """Indices in random order, independent of their order in `indices`.

    Each index draws 64 bits and the draws are sorted. Removing some images therefore keeps the order of the others.
    """
    ascending = np.sort(np.asarray(indices, np.int64))
    shuffled: Ints = ascending[np.argsort(order_keys(seed, epoch, ascending, purpose), kind="stable")]
    return shuffled


def order_keys(seed: int, epoch: int, indices: Ints, purpose: str = "order") -> Words:
    """Random 64 bits of each index [N], by which `permutation` sorts them."""
    words = _words(seed, epoch, np.asarray(indices, np.int64), np.array([_block_of(purpose)]))[..., 0]
    keys: Words = (words[0] << _HALF) | words[1]
    return keys


def integer_seed(seed: int, epoch: int, step: int, purpose: str) -> int:
    """Seed of 63 random bits for another generator, for example for the dropout of one step of one epoch."""
    words = _words(seed, epoch, np.array([step]), np.array([_block_of(purpose)]))[:, 0, 0]
    return (int(words[0]) << 32 | int(words[1])) >> 1


def philox4x32(counter: Words, key: Words) -> Words:
    """Philox4x32-10: random words [4, N] for counters [4, N] and one key [2], all of 32 bits."""
    even, odd = counter[0::2], counter[1::2]
    for round_key in (key[:, None] + _ROUNDS * _KEY_STEPS) & _WORD:
        crossed = (even * _MULTIPLIERS)[::-1]
        even = (crossed >> _HALF) ^ odd ^ round_key
        odd = crossed & _WORD
    return np.stack([even[0], odd[0], even[1], odd[1]])


def _words(seed: int, epoch: int, index: Ints, blocks: Ints) -> Words:
    """Four random words [4, B, K] for every index [B] in every block [K]."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1; got {seed}")
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"epoch must be from 0 to 2**32 - 1; got {epoch}")
    images = np.asarray(index, np.int64)
    if images.ndim != 1:
        raise ValueError(f"indices must be one-dimensional [B]; got shape {images.shape}")
    images = images.astype(np.uint64)
    counter = np.empty((4, len(images), len(blocks)), np.uint64)
    counter[0] = blocks.astype(np.uint64)
    counter[1] = np.uint64(epoch)
    counter[2] = (images & _WORD)[:, None]
    counter[3] = (images >> _HALF)[:, None]
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64)
    return philox4x32(counter.reshape(4, -1), key).reshape(counter.shape)


@lru_cache(maxsize=64)
def _block_of(purpose: str) -> int:
    """Block of a named purpose. Python's own hash differs between processes."""
    return _NAMED_BLOCKS | int.from_bytes(blake2s(purpose.encode(), digest_size=4).digest(), "little") >> 1
