"""Keyed order of names: pseudo-random, given by a key, and the same for names in any order and on any platform.

Where many are equal and few are taken, the seed decides in this way who is taken, and not the alphabet.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from heapq import nsmallest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MANY = 100_000  # items of which a faster hash first leaves out most
CHUNK = 4096  # names hashed at a time, so that their hashes stay in the processor's cache
SPARE = 10  # items that it keeps for each one that is wanted, and as many more

T = TypeVar("T")


def keyed_hash(key: str) -> Callable[[str], bytes]:
    """Function from a name to its hash under the key, 16 bytes."""
    keyed = blake2b(key=blake2b(key.encode(), digest_size=32).digest(), digest_size=16)

    def hashed(name: str) -> bytes:
        state = keyed.copy()  # faster than to begin with the key
        state.update(name.encode("utf-8", "surrogatepass"))
        return state.digest()

    return hashed


def ordered(key: str, names: Sequence[str]) -> NDArray[np.int64]:
    """Positions of the names in their keyed order; equal names keep their order."""
    hashed = keyed_hash(key)
    parts = [b"".join(map(hashed, names[start : start + CHUNK])) for start in range(0, len(names), CHUNK)]
    high_N, low_N = np.frombuffer(b"".join(parts), ">u8").reshape(-1, 2).T.astype(np.uint64)
    order_N = np.argsort(high_N, kind="stable")
    if np.any(np.diff(high_N[order_N]) == 0):  # equal names, as of different ones the first 8 bytes are never equal
        order_N = np.lexsort((low_N, high_N))
    return order_N


def turns(key: str, names: Sequence[str]) -> NDArray[np.int64]:
    """Position of each name in the keyed order of all of them; equal names keep their order."""
    turn_N = np.empty(len(names), np.int64)
    turn_N[ordered(key, names)] = np.arange(len(names))
    return turn_N


def chosen(items: Sequence[T], most: int, *, key: str, name: Callable[[T], str] = str) -> list[T]:
    """At most `most` of the items, drawn by the key, in the order in which they were given."""
    if len(items) <= most:
        return [*items]
    names = [*map(name, items)]
    rows: Iterable[int] = range(len(names)) if len(names) <= MANY else _few(names, most, key)
    hashed = keyed_hash(key)
    return [items[i] for i in sorted(nsmallest(most, rows, key=lambda i: hashed(names[i])))]


def _few(names: Sequence[str], most: int, key: str) -> Iterable[int]:
    """Rows of some of very many names, drawn by the key: more than `most`, or all."""
    start, bound = zlib.crc32(key.encode()), 2**32 * SPARE * (most + SPARE) // len(names)
    rows = [i for i, text in enumerate(names) if zlib.crc32(text.encode("utf-8", "surrogatepass"), start) < bound]
    return rows if len(rows) > most else range(len(names))
