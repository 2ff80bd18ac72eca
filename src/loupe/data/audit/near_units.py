"""Units of images that look alike, which a split must not divide.

Near duplicates are joined in the order of their distance, as in single linkage: a clip of a film whose frames each
resemble the next is one unit. Two bounds keep a chain of likeness from swallowing the images of a class:

* a unit has at most `CHAIN_SHARE` of the images of each class that it has,
* unless it is compact: where at least `COMPACT` of the pairs between its two parts are near duplicates themselves, as
  among photographs of one object, it has at most `COMPACT_SHARE`.

Pairs that these bounds leave apart are counted. They are few where images are copies of each other, and a quarter to
a half of the pairs where all images of a class are alike by nature (results/near_split.md).
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.data.audit.near_pairs import NearPairs

CHAIN_SHARE = 0.1
COMPACT_SHARE = 0.5
COMPACT = 0.5

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NearUnits:
    """Units of images.

    Attributes:
        unit_N: unit of each image, from 0, without gaps.
        joined: number of pairs within a unit.
        apart: number of pairs between two units.
    """

    unit_N: Ints
    joined: int
    apart: int


def near_units(unit_N: Ints, label_N: Ints, pairs: NearPairs) -> NearUnits:
    """Join units whose images look alike.

    Args:
        unit_N: unit of each image, from 0: images of one content or group, which stay together whatever the bounds.
        label_N: class of each image; -1 for none.
        pairs: near duplicates.
    """
    ends_P2 = unit_N[pairs.ends_P2]
    merger = _Merger(unit_N, label_N, ends_P2)
    for first, second in ends_P2.tolist():
        merger.join(first, second)
    joined_U = merger.roots()
    within = int((joined_U[ends_P2[:, 0]] == joined_U[ends_P2[:, 1]]).sum())
    _, number_N = np.unique(joined_U[unit_N], return_inverse=True)
    return NearUnits(number_N.astype(np.int64), within, len(pairs) - within)


class _Merger:
    """Forest of units: the classes of each, and the number of near pairs between any two of them."""

    def __init__(self, unit_N: Ints, label_N: Ints, ends_P2: Ints) -> None:
        self.root = list(range(int(unit_N.max(initial=-1)) + 1))
        labelled_N = label_N >= 0
        self.of_class = Counter[int](label_N[labelled_N].tolist())
        is_linked_N = np.isin(unit_N, ends_P2) & labelled_N
        self.members: dict[int, list[int]] = {unit: [unit] for unit in np.unique(ends_P2).tolist()}
        self.images: dict[int, int] = dict(Counter[int](unit_N.tolist()))
        self.classes: dict[int, Counter[int]] = {unit: Counter() for unit in self.members}
        for unit, label in zip(unit_N[is_linked_N].tolist(), label_N[is_linked_N].tolist(), strict=True):
            self.classes[unit][label] += 1
        self.links: dict[int, Counter[int]] = defaultdict(Counter)
        for first, second in ends_P2.tolist():
            if first != second:
                self.links[first][second] += 1
                self.links[second][first] += 1

    def join(self, first: int, second: int) -> None:
        """Join the units of both, unless they are one, or it would exceed the bounds."""
        larger, smaller = self.root[first], self.root[second]
        if larger == smaller:
            return
        classes = self.classes[larger] + self.classes[smaller]
        share = max((images / self.of_class[label] for label, images in classes.items()), default=0.0)
        between = self.links[larger][smaller] / (self.images[larger] * self.images[smaller])
        if share > (COMPACT_SHARE if between >= COMPACT else CHAIN_SHARE):
            return
        if len(self.members[larger]) < len(self.members[smaller]):
            larger, smaller = smaller, larger
        for member in self.members[smaller]:
            self.root[member] = larger
        self.members[larger] += self.members.pop(smaller)
        self.images[larger] += self.images.pop(smaller)
        self.classes[larger] = classes
        self._move_links(smaller, larger)

    def _move_links(self, smaller: int, larger: int) -> None:
        moved = self.links.pop(smaller)
        for other, pairs in moved.items():
            del self.links[other][smaller]
            if other != larger:
                self.links[larger][other] += pairs
                self.links[other][larger] += pairs

    def roots(self) -> Ints:
        """Unit that each of the given units is in now."""
        return np.array(self.root, np.int64)
