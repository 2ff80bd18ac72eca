"""Stratified sampling of units, in a keyed order.

A unit is a set of images connected by identical content or a common group, directly or through others. It is never
divided between splits.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from loupe.data.keyed_order import keyed_hash

Indices = NDArray[np.int64]


def units(content: Sequence[str], groups: Sequence[str | None]) -> Indices:
    """Identifier of the unit of each image."""
    number: dict[str, int] = {}
    unit = np.array([number.setdefault(digest, len(number)) for digest in content], dtype=np.int64)
    tied = np.array([i for i, group in enumerate(groups) if group is not None], dtype=np.int64)
    if not len(tied):
        return unit
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Graph with contents and groups as nodes; every image with a group is an edge between the two.
    names: dict[str | None, int] = {}
    node = np.array([len(number) + names.setdefault(groups[i], len(names)) for i in tied.tolist()], dtype=np.int64)
    n = len(number) + len(names)
    edges = coo_array((np.ones(len(tied), dtype=np.int8), (unit[tied], node)), shape=(n, n))
    _, component = connected_components(edges, directed=False)
    return np.asarray(component, dtype=np.int64)[unit]


class UnitSampler:
    """Sampler of units from the training images, without replacement.

    Args:
        content: digest of each image.
        labels: class index of each image.
        pool: rows of the training images.
        unit: unit of each image.
        pinned: units that are not drawn; their images remain training images.
        classes: class names.
    """

    def __init__(
        self,
        *,
        content: Sequence[str],
        labels: Indices,
        pool: Indices,
        unit: Indices,
        pinned: set[int],
        classes: Sequence[str],
    ) -> None:
        self.content = content
        self.classes = classes
        self.labels: list[int] = labels.tolist()
        self.train = np.bincount(labels[pool], minlength=len(classes)).tolist()
        self.before = list(self.train)
        self.free: dict[int, list[int]] = {}
        for row, number in zip(pool.tolist(), unit[pool].tolist(), strict=True):
            if number not in pinned:
                self.free.setdefault(number, []).append(row)

    def stratified(self, n: int, *, key: str) -> Indices:
        """Draw about `n` images in whole units, stratified by class, in the order of a hash of `key` and content.

        A unit is taken if it brings the classes nearer to their targets and leaves each of its classes a training
        image. With enough single images the targets are met exactly. If even the smallest unit is too large, the one
        nearest to the targets is taken. The result is empty only if no unit can be taken.
        """
        lacking = self._shares(n, key)
        chosen: list[int] = []
        order = self._order(key) if n else []
        distance = sum(lacking.values())
        for number in order:
            if not distance:
                break
            counts = self._counts(number)
            excess = _excess(lacking, counts)
            if excess < 0 and self._can_spare(counts):
                distance += excess
                chosen += self._take(number, lacking)
        if not chosen:
            spare = [number for number in order if self._can_spare(self._counts(number))]
            if spare:
                chosen = self._take(min(spare, key=lambda number: _excess(lacking, self._counts(number))), lacking)
        return np.array(sorted(chosen), dtype=np.int64)

    def in_order(self, n: int, *, last: bool) -> Indices:
        """Draw the first (or last) `n` free images in the order of the data; units that are too large are skipped."""
        chosen: list[int] = []
        order = sorted(self.free, key=lambda number: self.free[number][-1 if last else 0], reverse=last)
        for number in order:
            if len(chosen) + len(self.free[number]) <= n:
                chosen += self._take(number, {})
        return np.array(sorted(chosen), dtype=np.int64)

    def emptied(self) -> list[int]:
        """Classes without remaining training images."""
        return [
            label for label, (had, left) in enumerate(zip(self.before, self.train, strict=True)) if had and not left
        ]

    def _shares(self, n: int, key: str) -> dict[int, int]:
        """Target of each class in `n` images: its proportion, rounded down or up; each class keeps one image."""
        free: Counter[int] = Counter(self.labels[row] for rows in self.free.values() for row in rows)
        room = {label: min(free[label], self.train[label] - 1) for label in sorted(free)}
        total = sum(self.before)
        whole = {label: n * self.before[label] // total for label in room}
        remainder = {label: n * self.before[label] % total for label in room}
        shares = {label: min(whole[label], room[label]) for label in room}
        by_remainder = self._by_remainder(whole, remainder, total, key)
        while (missing := n - sum(shares.values())) > 0:
            open_classes = [label for label in by_remainder if shares[label] < room[label]]
            if not open_classes:
                break
            for label in open_classes[:missing]:
                shares[label] += 1
        return shares

    def _by_remainder(
        self, whole: Mapping[int, int], remainder: Mapping[int, int], total: int, key: str
    ) -> Sequence[int]:
        """Classes in the order in which they are rounded up; remainders are in units of 1 / `total` image.

        Where every class has a whole image, the largest remainders come first, equal ones in the order of a hash of
        `key` and the class name. Where a class has less than one, it would never get an image beside larger ones: each
        class is then rounded up with a probability equal to its remainder, by systematic sampling in the order of the
        hashes. So over the keys each class has its turn, and on average its proportion.
        """
        hashed = keyed_hash(f"class {key}")
        order = sorted(remainder, key=lambda label: hashed(self.classes[label]))
        if all(whole.values()):
            return sorted(order, key=lambda label: -remainder[label])
        start = int.from_bytes(keyed_hash(f"start {key}")("")) % total
        ends = list(accumulate((remainder[label] for label in order), initial=start))
        drawn = {label: end // total > begin // total for label, begin, end in zip(order, ends, ends[1:], strict=False)}
        return sorted(order, key=lambda label: not drawn[label])

    def _order(self, key: str) -> list[int]:
        """Free units in the order of the keyed hash of their smallest digest, which is unique."""
        hashed = keyed_hash(key)
        least = {number: min(self.content[row] for row in rows) for number, rows in self.free.items()}
        return sorted(least, key=lambda number: hashed(least[number]))

    def _counts(self, number: int) -> Mapping[int, int]:
        rows = self.free[number]
        return {self.labels[rows[0]]: 1} if len(rows) == 1 else Counter(self.labels[row] for row in rows)

    def _can_spare(self, counts: Mapping[int, int]) -> bool:
        return all(self.train[label] > n for label, n in counts.items())

    def _take(self, number: int, lacking: dict[int, int]) -> list[int]:
        for label, n in self._counts(number).items():
            self.train[label] -= n
            lacking[label] = lacking.get(label, 0) - n
        return self.free.pop(number)


def _excess(lacking: Mapping[int, int], counts: Mapping[int, int]) -> int:
    """Change of the distance to the targets by a unit; negative if nearer."""
    return sum(abs(lacking.get(label, 0) - n) - abs(lacking.get(label, 0)) for label, n in counts.items())
