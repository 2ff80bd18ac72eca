"""Stratified sampling of units, in a keyed order.

A unit is a set of images connected by identical content or a common group, directly or through others. It is never
divided between splits.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.data.keyed_order import keyed_hash, ordered

Indices = NDArray[np.int64]


def units(content: Sequence[str], groups: Sequence[str | None]) -> Indices:
    """Identifier of the unit of each image: 0 to the number of units - 1."""
    unit, n = _numbered(content)
    is_tied = np.fromiter((group is not None for group in groups), bool, len(unit))
    if not is_tied.any():
        return unit
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Graph with contents and groups as nodes; every image with a group is an edge between the two.
    node, more = _numbered([group for group in groups if group is not None])
    edges = coo_array((np.ones(len(node), dtype=np.int8), (unit[is_tied], n + node)), shape=(n + more, n + more))
    _, component = connected_components(edges, directed=False)
    return np.asarray(component, dtype=np.int64)[unit]


def _numbered(texts: Sequence[str]) -> tuple[Indices, int]:
    """Number of each text among the distinct ones, in the order in which they appear, and how many these are."""
    found = pa.array(texts, pa.large_string()).dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), len(found.dictionary)


class UnitSampler:
    """Sampler of units from the training images, without replacement.

    Its state is in arrays, because lists of the rows of a million units take longer to make than the sample to draw.

    Args:
        content: digest of each image.
        labels: class index of each image.
        pool: rows of the training images.
        unit: unit of each image.
        pinned: units that are not drawn; their images remain training images.
        classes: class names.

    Attributes:
        is_free: units that have training images and can be drawn, bool [units].
    """

    def __init__(
        self,
        *,
        content: Sequence[str],
        labels: Indices,
        pool: Indices,
        unit: Indices,
        pinned: Indices,
        classes: Sequence[str],
    ) -> None:
        self.classes = classes
        self.labels = labels
        self.train = np.bincount(labels[pool], minlength=len(classes)).tolist()
        self.before = list(self.train)
        images_U = np.bincount(unit[pool], minlength=int(unit.max(initial=-1)) + 1)
        self.is_free: NDArray[np.bool_] = images_U > 0
        self.is_free[pinned] = False
        self._unit = unit
        self._by_unit = pool[np.argsort(unit[pool], kind="stable")]  # rows of unit 0, then those of unit 1, ...
        self._end = np.cumsum(images_U)
        self._least = self._least_digests(content)

    def stratified(self, n: int, *, key: str) -> Indices:
        """Draw about `n` images in whole units, stratified by class, in the order of a hash of `key` and content.

        A unit is taken if it brings the classes nearer to their targets and leaves each of its classes a training
        image. With enough single images the targets are met exactly. If even the smallest unit is too large, the one
        nearest to the targets is taken. The result is empty only if no unit can be taken.
        """
        lacking = self._shares(n, key)
        chosen: list[int] = []
        order = self._order(key) if n else np.array([], dtype=np.int64)
        distance = sum(lacking.values())
        for number, label in zip(order.tolist(), self._lone_labels(order).tolist(), strict=True):
            if not distance:
                break
            if label >= 0 and lacking.get(label, 0) <= 0:  # nearly all, once most classes have their target
                continue
            counts = {label: 1} if label >= 0 else self._counts(number)
            excess = _excess(lacking, counts)
            if excess < 0 and self._can_spare(counts):
                distance += excess
                chosen += self._take(number, counts, lacking)
        if not chosen:
            spare = [number for number in order.tolist() if self._can_spare(self._counts(number))]
            if spare:
                number = min(spare, key=lambda number: _excess(lacking, self._counts(number)))
                chosen = self._take(number, self._counts(number), lacking)
        return np.array(sorted(chosen), dtype=np.int64)

    def in_order(self, n: int, *, last: bool) -> Indices:
        """Draw the first (or last) `n` free images in the order of the data; units that are too large are skipped."""
        chosen: list[int] = []
        free = np.flatnonzero(self.is_free)
        order = np.argsort(-self._by_unit[self._end[free] - 1] if last else self._by_unit[self._start(free)])
        for number in free[order].tolist():
            if len(chosen) == n:
                break
            if len(chosen) + len(self._rows(number)) <= n:
                chosen += self._take(number, self._counts(number), {})
        return np.array(sorted(chosen), dtype=np.int64)

    def emptied(self) -> list[int]:
        """Classes without remaining training images."""
        return [
            label for label, (had, left) in enumerate(zip(self.before, self.train, strict=True)) if had and not left
        ]

    def _shares(self, n: int, key: str) -> dict[int, int]:
        """Target of each class in `n` images: its proportion, rounded down or up; each class keeps one image."""
        free_K = np.bincount(self.labels[self._by_unit[self.is_free[self._unit[self._by_unit]]]])
        room = {label: min(free, self.train[label] - 1) for label, free in enumerate(free_K.tolist()) if free}
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

    def _least_digests(self, content: Sequence[str]) -> NDArray[np.object_]:
        """Smallest digest of the images of each free unit; None for other units."""
        least_U = np.full(len(self.is_free), None, dtype=object)
        free = np.flatnonzero(self.is_free)
        start, images = self._start(free), self._end[free] - self._start(free)
        least_U[free] = [content[row] for row in self._by_unit[start].tolist()]
        for number in free[images > 1].tolist():
            least_U[number] = min(content[row] for row in self._rows(number))
        return least_U

    def _order(self, key: str) -> Indices:
        """Free units in the order of the keyed hash of their smallest digest, which is unique."""
        free = np.flatnonzero(self.is_free)
        return free[ordered(key, self._least[free].tolist())]

    def _start(self, numbers: Indices) -> Indices:
        """Place in `_by_unit` of the first row of each of these units."""
        return np.where(numbers > 0, self._end[numbers - 1], 0)

    def _rows(self, number: int) -> list[int]:
        rows: list[int] = self._by_unit[self._end[number - 1] if number else 0 : self._end[number]].tolist()
        return rows

    def _counts(self, number: int) -> Mapping[int, int]:
        return Counter(self.labels[self._rows(number)].tolist())

    def _lone_labels(self, numbers: Indices) -> Indices:
        """Label of each of these units that is one image; -1 for larger ones."""
        start = self._start(numbers)
        return np.where(self._end[numbers] - start == 1, self.labels[self._by_unit[start]], -1)

    def _can_spare(self, counts: Mapping[int, int]) -> bool:
        return all(self.train[label] > n for label, n in counts.items())

    def _take(self, number: int, counts: Mapping[int, int], lacking: dict[int, int]) -> list[int]:
        for label, n in counts.items():
            self.train[label] -= n
            lacking[label] = lacking.get(label, 0) - n
        self.is_free[number] = False
        return self._rows(number)


def _excess(lacking: Mapping[int, int], counts: Mapping[int, int]) -> int:
    """Change of the distance to the targets by a unit; negative if nearer."""
    return sum(abs(lacking.get(label, 0) - n) - abs(lacking.get(label, 0)) for label, n in counts.items())
