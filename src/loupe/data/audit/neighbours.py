"""All pairs of images whose layouts are alike: every pair is compared, blocks of rows with blocks of columns.

Nothing is approximated: two thin matrix products tell the likeness of each pair and of its mirror image, so that a
pair is missed only where more are alike than can be kept. Memory is that of one block for each thread, and of the
pairs that are kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.data.audit.similarity import Float32Array
from loupe.data.parallel import in_chunks, worker_count

BLOCK_ROWS, BLOCK_COLUMNS = 128, 1024  # two blocks of float32 of this size lie in the cache of a core


@dataclass(frozen=True)
class Candidates:
    """Pairs of rows, the first below the second, by falling likeness; `mirrored` where the mirror image is more alike.

    `least` is the likeness above which every pair is there: what was asked for, or more where there were too many.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    likeness: Float32Array
    mirrored: NDArray[np.bool_]
    least: float

    def __len__(self) -> int:
        return len(self.first)


def alike(layout_N2K: Float32Array, identity_N: NDArray[np.int64], *, least: float, most: int) -> Candidates:
    """The pairs of at least the likeness `least` whose `identity_N` differs: the `most` most alike, if there are more.

    `layout_N2K` holds even and odd parts, as `likeness.layouts` makes them.
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
    """The most alike of the pairs that were added: twice `most` at any time, and `most` at the end."""

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
        """In order. From now on only what is at least as alike as the last of them is worth adding."""
        pairs = _joined(self._parts, self.least)
        if len(pairs) > self._most:
            pairs = _cut(pairs, self._most)
            self.least = pairs.least
        self._parts, self._count = [pairs], len(pairs)
        return pairs


def _below(rows: range, layout_N2K: Float32Array, identity_N: NDArray[np.int64], best: _Best) -> Candidates:
    """The pairs of these rows with themselves and all rows that follow."""
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
    """All of the parts in one, in order."""
    if not parts:
        nothing = np.empty(0, np.int32)
        return Candidates(nothing, nothing, np.empty(0, np.float32), np.empty(0, np.bool_), least)
    first, second = (np.concatenate(column) for column in ([p.first for p in parts], [p.second for p in parts]))
    likeness = np.concatenate([part.likeness for part in parts])
    mirrored = np.concatenate([part.mirrored for part in parts])
    order = np.lexsort((second, first, -likeness))
    return Candidates(first[order], second[order], likeness[order], mirrored[order], least)


def _cut(pairs: Candidates, most: int) -> Candidates:
    return Candidates(
        pairs.first[:most],
        pairs.second[:most],
        pairs.likeness[:most],
        pairs.mirrored[:most],
        float(pairs.likeness[most - 1]),
    )
