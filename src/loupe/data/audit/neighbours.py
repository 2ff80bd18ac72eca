"""Exact search for all pairs of images with similar layouts, in blocks of rows and columns.

Two thin matrix products give the similarity of each pair and of its mirror image. A pair is missed only if more pairs
are similar than can be kept. Memory is that of one block for each thread and of the kept pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.data.audit.similarity import Float32Array
from loupe.data.parallel import in_chunks
from loupe.data.processes import worker_count

BLOCK_ROWS, BLOCK_COLUMNS = 128, 1024  # two blocks of float32 of this size lie in the cache of a core


@dataclass(frozen=True)
class Candidates:
    """Pairs of rows, `first` < `second`, by falling similarity; `mirrored` if the mirror image is more similar.

    `least` is the similarity above which all pairs are included: the requested one, or more if there were too many.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    likeness: Float32Array
    mirrored: NDArray[np.bool_]
    least: float

    def __len__(self) -> int:
        return len(self.first)


def alike(layout_N2K: Float32Array, identity_N: NDArray[np.int64], *, least: float, most: int) -> Candidates:
    """Pairs with different `identity_N` and a similarity of at least `least`; only the `most` most similar ones.

    `layout_N2K` are even and odd parts, as from `similarity.layouts`.
    """
    best = _Best(least, most)
    blocks = in_chunks(
        lambda rows: _below(rows, layout_N2K, identity_N, _Best(best.least, most)),
        len(layout_N2K),
        chunk=BLOCK_ROWS,
        workers=worker_count(),
        description="comparing images",
    )
    for block in blocks:
        best.add(block)
    return best.all()


class _Best:
    """Collector of the most similar pairs: up to twice `most` while adding, and `most` at the end."""

    def __init__(self, least: float, most: int) -> None:
        self.least = least
        self._most = most
        self._parts: list[Candidates] = []
        self._count = 0

    def add(self, part: Candidates) -> None:
        if len(part):
            self._parts.append(part)
            self._count += len(part)
        if self._count > 2 * self._most:
            self.all()

    def all(self) -> Candidates:
        """Pairs in order. Later pairs less similar than the last of them need not be added."""
        pairs = _joined(self._parts, self.least)
        if len(pairs) > self._most:
            pairs = _cut(pairs, self._most)
            self.least = pairs.least
        self._parts, self._count = [pairs], len(pairs)
        return pairs


def _below(rows: range, layout_N2K: Float32Array, identity_N: NDArray[np.int64], best: _Best) -> Candidates:
    """Pairs of these rows with each other and with all later rows."""
    even_RK, odd_RK = layout_N2K[rows.start : rows.stop, 0], layout_N2K[rows.start : rows.stop, 1]
    for start in range(rows.start, len(layout_N2K), BLOCK_COLUMNS):
        columns = layout_N2K[start : start + BLOCK_COLUMNS]
        likeness_RC, odd_RC = even_RK @ columns[:, 0].T, odd_RK @ columns[:, 1].T
        np.add(likeness_RC, np.abs(odd_RC), out=likeness_RC)
        r, c = np.divmod(np.flatnonzero(likeness_RC >= best.least), len(columns))  # nonzero takes far longer
        wanted = (r + rows.start < c + start) & (identity_N[r + rows.start] != identity_N[c + start])
        r, c = r[wanted], c[wanted]
        first, second = (r + rows.start).astype(np.int32), (c + start).astype(np.int32)
        best.add(Candidates(first, second, likeness_RC[r, c], odd_RC[r, c] < 0, best.least))
    return best.all()


def _joined(parts: list[Candidates], least: float) -> Candidates:
    """Concatenation of candidates, in order."""
    if not parts:
        nothing = np.empty(0, np.int32)
        return Candidates(nothing, nothing, np.empty(0, np.float32), np.empty(0, np.bool_), least)
    first, second = (np.concatenate(column) for column in ([p.first for p in parts], [p.second for p in parts]))
    likeness = np.concatenate([part.likeness for part in parts])
    mirrored = np.concatenate([part.mirrored for part in parts])
    order = np.lexsort((_tie(first, second), -likeness))
    return Candidates(first[order], second[order], likeness[order], mirrored[order], least)


def _tie(first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Pseudo-random order of pairs that are equally alike, so that a cut takes them from all rows: SplitMix64."""
    bits = (first.astype(np.uint64) << np.uint64(32)) | second.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _cut(pairs: Candidates, most: int) -> Candidates:
    return Candidates(
        pairs.first[:most],
        pairs.second[:most],
        pairs.likeness[:most],
        pairs.mirrored[:most],
        float(pairs.likeness[most - 1]),
    )
