"""Near duplicates: images that are one photograph, re-encoded, brightened, recoloured, shifted, cropped or mirrored.

Between two splits they are leakage that no comparison of files shows: a test of such an image rewards memory. They
are found by likeness, so a person decides what they are: each pair has its distance, and a page shows them side by
side. Files with the same bytes are copies, which `check.py` tells.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from loupe import csv_files
from loupe.data.audit.neighbours import Candidates, alike
from loupe.data.audit.similarity import SIDE_PX, layouts, likeness
from loupe.data.parallel import in_chunks, worker_count
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.store import DamagedImages, PixelStore, default_budget, open_store
from loupe.data.table import ImageTable
from loupe.errors import counted
from loupe.log import terminal

DISTANCE = 0.4
"""Pairs up to this distance are told: 1 less their likeness in detail. results/near_duplicates.md compares others."""
LAYOUT = 0.82
"""Pairs below this likeness of their layouts are not looked at more closely."""
MOST_CANDIDATES = 1_000_000
MOST_CANDIDATES_EACH = 4
"""So many pairs, or so many for each image if that is more, are looked at more closely: the most alike by layout."""
MOST_PAIRS = 100_000
ALIKE_BY_NATURE = 0.25
"""With more pairs than this for each image, a set is one of images that are alike rather than of copies."""
SPLITS = ("train", "val", "test", None)
_CHUNK_IMAGES = 4096
_CHUNK_PAIRS = 1024


@dataclass(frozen=True)
class NearPair:
    """Two images that are near duplicates, rows `first` and `second` of their table, in the order of `SPLITS`.

    `distance` is from 0 (the same) to `DISTANCE`; `mirrored`: the one is the other turned left to right. Pairs that
    hang together share a `group`, whose number is from 1.
    """

    first: int
    second: int
    paths: tuple[str, str]
    splits: tuple[str | None, str | None]
    labels: tuple[str | None, str | None]
    distance: float
    mirrored: bool
    group: int

    @property
    def across(self) -> bool:
        """Whether the pair lies in two of the given splits."""
        return None not in self.splits and self.splits[0] != self.splits[1]

    @property
    def same_label(self) -> bool | None:
        """None where one of the labels is not given."""
        return None if None in self.labels else self.labels[0] == self.labels[1]

    @property
    def kind(self) -> str:
        """`between train and test`, `within train`, `within the set` where no split is given."""
        if self.splits[0] == self.splits[1]:
            return f"within {self.splits[0] or 'the set'}"
        return f"between {self.splits[0]} and {self.splits[1] or 'no split'}"

    def to_json(self) -> dict[str, Any]:
        sides = zip(self.paths, self.splits, self.labels, strict=True)
        return {
            "images": [{"path": path, "split": split, "label": label} for path, split, label in sides],
            "distance": round(self.distance, 4),
            "mirrored": self.mirrored,
            "group": self.group,
        }


@dataclass(frozen=True)
class NearReport:
    """The near duplicates among `images` images, those between splits first, the nearest of each kind first.

    `cautions` say why some may be missing, or most may be none.
    """

    images: int
    pairs: tuple[NearPair, ...]
    cautions: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> pairs, and how many of them have the same label, another one, or lack one."""
        counts: dict[str, Counter[str]] = {}
        for pair in self.pairs:
            agreement = {True: "same_label", False: "other_label", None: "no_label"}[pair.same_label]
            counts.setdefault(pair.kind, Counter())[agreement] += 1
        names = ("same_label", "other_label", "no_label")
        return {
            kind: {"pairs": found.total()} | {name: found[name] for name in names} for kind, found in counts.items()
        }

    def leaked(self) -> dict[str, int]:
        """Split -> how many of its images have a near duplicate in a split that learns before it: val, test."""
        rows = {(pair.splits[1], pair.second) for pair in self.pairs if pair.across}
        return dict(Counter(split for split, _ in sorted(rows) if split is not None))

    def to_json(self) -> dict[str, Any]:
        return {
            "distance": DISTANCE,
            "images": self.images,
            "counts": self.counts(),
            "leaked": self.leaked(),
            "cautions": list(self.cautions),
            "pairs": [pair.to_json() for pair in self.pairs],
        }

    def findings(self) -> list[tuple[str, list[str]]]:
        """For each kind a title with its remedy, and a line for each pair: the form of `findings`."""
        found = []
        for kind, count in self.counts().items():
            pairs = [pair for pair in self.pairs if pair.kind == kind]
            remedy = "remove one, or give both one group" if pairs[0].across else "they count twice"
            labels = f" ({count['other_label']:,} with different labels)" if count["other_label"] else ""
            lines = [_describe(pair) for pair in pairs]
            found.append((f"{counted(len(pairs), 'near-duplicate pair')} {kind}{labels}: {remedy}", lines))
        return found

    def conclusions(self) -> list[str]:
        """What follows from the findings, a sentence each."""
        leaks = [
            f"Images of the {split} split with a near duplicate in another: {count:,}. A result on them rewards memory."
            for split, count in self.leaked().items()
        ]
        nothing = [] if self.pairs else ["No two images are near duplicates."]
        return [*nothing, *leaks, *self.cautions]


def find_near(table: ImageTable, content: Sequence[str], *, cache: Path | None) -> NearReport:
    """Compares every image of a table, whose digests are `content`, with every other; damaged ones are left out.

    `cache` is the folder that keeps the small images this looks at; None keeps nothing.
    """
    with terminal(quiet=True):
        store, kept = _open(table, content, cache)
    if not len(kept):
        return NearReport(0, ())
    _, identity_N = np.unique(np.array(content)[kept], return_inverse=True)
    most = max(MOST_CANDIDATES, MOST_CANDIDATES_EACH * len(kept))
    candidates = alike(_layouts(store), identity_N, least=LAYOUT, most=most)
    distance_P = 1 - _judged(store, candidates)
    near = np.flatnonzero(distance_P <= DISTANCE)
    ends_P2 = kept[np.stack([candidates.first, candidates.second], axis=1)[near]]
    pairs = _pairs(table, ends_P2, distance_P[near], candidates.mirrored[near])
    return NearReport(len(kept), tuple(pairs[:MOST_PAIRS]), _cautions(candidates, len(pairs), len(kept)))


def _open(table: ImageTable, content: Sequence[str], cache: Path | None) -> tuple[PixelStore, NDArray[np.int64]]:
    """The whole images at `SIDE_PX`, and the rows of the table that they are."""
    opened = partial(open_store, budget_bytes=default_budget(), cache=cache)
    images = EncodedImages(table, SIDE_PX, "squash", "bilinear")
    kept = np.arange(len(table))
    try:
        return opened(images, content), kept
    except DamagedImages as damage:
        kept = np.setdiff1d(kept, damage.indices)
    return opened(replace(images, table=table.select(kept)), [content[i] for i in kept.tolist()]), kept


def _layouts(store: PixelStore) -> NDArray[np.float32]:
    rows = (np.arange(start, min(start + _CHUNK_IMAGES, len(store))) for start in range(0, len(store), _CHUNK_IMAGES))
    return np.concatenate([layouts(store.read(part)) for part in rows])


def _judged(store: PixelStore, candidates: Candidates) -> NDArray[np.float32]:
    """The likeness of every candidate in detail."""

    def judge(part: range) -> NDArray[np.float32]:
        pairs = slice(part.start, part.stop)
        first, second = (store.read(side[pairs].astype(np.int64)) for side in (candidates.first, candidates.second))
        return likeness(first, second, candidates.mirrored[pairs])

    parts = in_chunks(
        judge,
        len(candidates),
        chunk=_CHUNK_PAIRS,
        workers=worker_count(),
        description="looking at alike images",
    )
    return np.concatenate([np.empty(0, np.float32), *parts])


def _pairs(
    table: ImageTable, ends_P2: NDArray[np.int64], distance_P: NDArray[np.float32], mirrored_P: NDArray[np.bool_]
) -> list[NearPair]:
    """Rows of the table as pairs, in the order that a `NearReport` has."""
    groups_N = _groups(ends_P2, len(table))
    names = (*table.classes, None)  # label -1 is the last
    pairs = []
    for both, distance, mirrored in zip(ends_P2.tolist(), distance_P.tolist(), mirrored_P.tolist(), strict=True):
        first, second = sorted(both, key=lambda row: (SPLITS.index(table.splits[row]), row))
        pair = NearPair(
            first,
            second,
            (table.paths[first], table.paths[second]),
            (table.splits[first], table.splits[second]),
            (names[table.labels[first]], names[table.labels[second]]),
            max(0.0, distance),
            mirrored,
            int(groups_N[first]),
        )
        pairs.append(pair)
    return sorted(pairs, key=_suspicion)


def _suspicion(pair: NearPair) -> tuple[Any, ...]:
    """Sorts what matters most first: between splits before within one, what touches test first, then the nearest."""
    first, second = (SPLITS.index(split) for split in pair.splits)
    return (not pair.across, -second, first, pair.distance, pair.first, pair.second)


def _groups(ends_P2: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """For each image the number of its group, from 1, in the order of the images; 0 where it is in no pair."""
    links = coo_array((np.ones(len(ends_P2), np.int8), (ends_P2[:, 0], ends_P2[:, 1])), shape=(images, images))
    _, part_N = connected_components(links, directed=False)
    in_pairs = np.unique(ends_P2)
    _, first_seen, number = np.unique(part_N[in_pairs], return_index=True, return_inverse=True)
    groups_N = np.zeros(images, np.int64)
    groups_N[in_pairs] = 1 + np.argsort(np.argsort(first_seen))[number]
    return groups_N


def _cautions(candidates: Candidates, pairs: int, images: int) -> tuple[str, ...]:
    told = []
    if pairs > ALIKE_BY_NATURE * images:
        told.append(
            "So many pairs are found where images are alike by nature (digits, icons, X-rays): most are no copies. "
            "Trust the smallest distances only."
        )
    if candidates.least > LAYOUT:
        told.append(
            f"So many images are alike that only the {len(candidates):,} pairs most alike in layout were looked at "
            "closely: more near duplicates may be there."
        )
    if pairs > MOST_PAIRS:
        told.append(f"Of {pairs:,} pairs the first {MOST_PAIRS:,} are told.")
    return tuple(told)


def _describe(pair: NearPair) -> str:
    sides = zip(pair.paths, pair.splits, pair.labels, strict=True)
    named = " ~ ".join(f"{path} ({', '.join(filter(None, (split, label)))})" for path, split, label in sides)
    return f"{pair.distance:.2f}  {named}{', mirrored' if pair.mirrored else ''}"


def write_csv(path: Path, report: NearReport) -> None:
    """The pairs as rows, in their order: `group` can be given back as the group of both images."""
    sides = [f"{name}_{side}" for side in (1, 2) for name in ("path", "split", "label")]
    csv_files.write(path, [*sides, "distance", "mirrored", "group"], map(_cells, report.pairs))


def _cells(pair: NearPair) -> list[object]:
    sides = [text for side in zip(pair.paths, pair.splits, pair.labels, strict=True) for text in side]
    return [*sides, f"{pair.distance:.4f}", str(pair.mirrored).lower(), pair.group]
