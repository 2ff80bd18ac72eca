"""Near duplicates: copies of one photograph, re-encoded, brightened, recoloured, shifted, cropped or mirrored.

Between two splits they are leakage that a comparison of bytes does not find. They are found by similarity and have to
be judged by a person: each pair has a distance, and a page shows the pairs side by side. Files with the same bytes are
copies, which `check` reports.
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
from scipy.special import gammainc

from loupe import csv_files
from loupe.data.audit.neighbours import Candidates, alike
from loupe.data.audit.similarity import SIDE_PX, layouts, likeness
from loupe.data.keyed_order import keyed_hash
from loupe.data.parallel import in_chunks
from loupe.data.pixels.decoding import EncodedImages
from loupe.data.pixels.store import DamagedImages, PixelStore, default_budget, open_store
from loupe.data.processes import worker_count
from loupe.data.table import ImageTable
from loupe.errors import counted
from loupe.log import terminal

DISTANCE = 0.4
"""Largest reported distance, 1 minus the similarity in detail. results/near_duplicates.md compares others."""
LAYOUT = 0.82
"""Smallest similarity of layout for which pairs are compared in detail."""
MOST_CANDIDATES = 1_000_000
MOST_CANDIDATES_EACH = 4
"""Limit of pairs compared in detail, in all or for each image, whichever is more; the most similar by layout."""
MOST_PAIRS = 100_000
ALIKE_BY_NATURE = 0.25
"""Pairs per image above which the images of a data set are similar by nature and most pairs are no copies."""
ALPHA = 0.01
"""Level of the Poisson test for more pairs than that: of few images, one pair is no evidence."""
SPLITS = ("train", "val", "test", None)
_CHUNK_IMAGES = 4096
_CHUNK_PAIRS = 1024


@dataclass(frozen=True)
class NearPair:
    """Two images that are near duplicates, in the order of `SPLITS`.

    Attributes:
        first, second: rows in the image table.
        paths, splits, labels: of both images; None for no split or no label.
        distance: from 0 (equal) to `DISTANCE`.
        mirrored: true if one image is the other flipped horizontally.
        group: number from 1, shared by pairs that are connected by common images.
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
        """True if the images are in two different splits."""
        return None not in self.splits and self.splits[0] != self.splits[1]

    @property
    def same_label(self) -> bool | None:
        """True for equal labels; None if one is unknown."""
        return None if None in self.labels else self.labels[0] == self.labels[1]

    @property
    def kind(self) -> str:
        """Kind of the pair: `between train and test`, `within train`, or `within the set` without splits."""
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
    """Near duplicates of a data set.

    Attributes:
        images: number of images that were compared.
        pairs: pairs between splits first, then by distance.
        cautions: reasons why pairs may be missing or wrong, as sentences.
    """

    images: int
    pairs: tuple[NearPair, ...]
    cautions: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of pairs of each kind: in all, with equal labels, with different labels, and with a label missing."""
        counts: dict[str, Counter[str]] = {}
        for pair in self.pairs:
            agreement = {True: "same_label", False: "other_label", None: "no_label"}[pair.same_label]
            counts.setdefault(pair.kind, Counter())[agreement] += 1
        names = ("same_label", "other_label", "no_label")
        return {
            kind: {"pairs": pairs.total()} | {name: pairs[name] for name in names} for kind, pairs in counts.items()
        }

    def leaked(self) -> dict[str, int]:
        """Number of images of val and test with a near duplicate in an earlier split, in the order train, val, test."""
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
        """Findings by kind, in the form of `check.findings`: a title with the remedy, and one line for each pair."""
        findings = []
        for kind, count in self.counts().items():
            pairs = [pair for pair in self.pairs if pair.kind == kind]
            remedy = "remove one, or give both one group" if pairs[0].across else "they count twice"
            labels = f" ({count['other_label']:,} with different labels)" if count["other_label"] else ""
            lines = [_describe(pair) for pair in pairs]
            findings.append((f"{counted(len(pairs), 'near-duplicate pair')} {kind}{labels}: {remedy}", lines))
        return findings

    def conclusions(self) -> list[str]:
        """Conclusions from the findings, as sentences."""
        leaks = [
            f"{counted(count, 'image')} of the {split} split with a near duplicate in another split. Results on such "
            "images are too optimistic if the two are copies."
            for split, count in self.leaked().items()
        ]
        nothing = [] if self.pairs else ["No two images are near duplicates."]
        if self.images < 2 and not self.pairs:
            nothing = [f"Near duplicates cannot be searched in {counted(self.images, 'image')}."]
        return [*nothing, *leaks, *self.cautions]


def find_near(table: ImageTable, content: Sequence[str], *, cache: Path | None) -> NearReport:
    """Find near duplicates among all pairs of images of a table; damaged images are left out.

    Args:
        table: images.
        content: digest of each image.
        cache: cache folder for the reduced images; None for no cache.
    """
    found = near_ends(table, content, cache=cache)
    pairs = _pairs(table, found.ends_P2, found.distance_P, found.mirrored_P)
    cautions = _cautions(found.compared, found.least, len(pairs), found.images) if found.images else ()
    return NearReport(found.images, tuple(pairs[:MOST_PAIRS]), cautions)


@dataclass(frozen=True)
class NearEnds:
    """Near duplicates as rows of a table.

    Attributes:
        images: number of images that were compared; damaged ones are left out.
        ends_P2: rows of both images of each pair.
        distance_P, mirrored_P: as in `NearPair`.
        compared: number of pairs that were compared in detail.
        least: similarity of layout above which all pairs were compared.
    """

    images: int
    ends_P2: NDArray[np.int64]
    distance_P: NDArray[np.float32]
    mirrored_P: NDArray[np.bool_]
    compared: int
    least: float


def near_ends(table: ImageTable, content: Sequence[str], *, cache: Path | None) -> NearEnds:
    """Rows of all near duplicates, as for `find_near`, by falling similarity of layout."""
    with terminal(quiet=True):
        store, kept = _open(table, content, cache)
    if not len(kept):
        none = np.empty(0, np.float32)
        return NearEnds(0, np.empty((0, 2), np.int64), none, none.astype(bool), 0, LAYOUT)
    _, identity_N = np.unique(np.array(content)[kept], return_inverse=True)
    most = max(MOST_CANDIDATES, MOST_CANDIDATES_EACH * len(kept))
    candidates = alike(_layouts(store), identity_N, least=LAYOUT, most=most)
    distance_P = 1 - _judged(store, candidates)
    near = np.flatnonzero(distance_P <= DISTANCE)
    ends_P2 = kept[np.stack([candidates.first, candidates.second], axis=1)[near]]
    mirrored_P = candidates.mirrored[near]
    return NearEnds(len(kept), ends_P2, distance_P[near], mirrored_P, len(candidates), candidates.least)


def _open(table: ImageTable, content: Sequence[str], cache: Path | None) -> tuple[PixelStore, NDArray[np.int64]]:
    """Pixel store of the intact images at `SIDE_PX`, and their rows in the table."""
    open_cached = partial(open_store, budget_bytes=default_budget(), cache=cache)
    images = EncodedImages(table, SIDE_PX, "squash", "bilinear")
    kept = np.arange(len(table))
    try:
        return open_cached(images, content), kept
    except DamagedImages as damage:
        kept = np.setdiff1d(kept, damage.indices)
    return open_cached(replace(images, table=table.select(kept)), [content[i] for i in kept.tolist()]), kept


def _layouts(store: PixelStore) -> NDArray[np.float32]:
    rows = (np.arange(start, min(start + _CHUNK_IMAGES, len(store))) for start in range(0, len(store), _CHUNK_IMAGES))
    return np.concatenate([layouts(store.read(chunk)) for chunk in rows])


def _judged(store: PixelStore, candidates: Candidates) -> NDArray[np.float32]:
    """Similarity in detail of every candidate pair."""

    def judge(chunk: range) -> NDArray[np.float32]:
        pairs = slice(chunk.start, chunk.stop)
        first, second = (store.read(side[pairs].astype(np.int64)) for side in (candidates.first, candidates.second))
        return likeness(first, second, candidates.mirrored[pairs])

    similarities = in_chunks(
        judge,
        len(candidates),
        chunk=_CHUNK_PAIRS,
        workers=worker_count(),
        description="comparing similar images",
    )
    return np.concatenate([np.empty(0, np.float32), *similarities])


def _pairs(
    table: ImageTable, ends_P2: NDArray[np.int64], distance_P: NDArray[np.float32], mirrored_P: NDArray[np.bool_]
) -> list[NearPair]:
    """Pairs of rows as `NearPair`, in the order of a `NearReport`."""
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
    hashed = keyed_hash("near duplicates")
    return sorted(pairs, key=lambda pair: (*_suspicion(pair), hashed("\0".join(pair.paths))))


def _suspicion(pair: NearPair) -> tuple[Any, ...]:
    """Sort key: pairs between splits first, those with test images before others, then by distance.

    Pairs of equal distance are in the order of a hash: by row, the first classes alone would be shown.
    """
    first, second = (SPLITS.index(split) for split in pair.splits)
    return (not pair.across, -second, first, pair.distance)


def _groups(ends_P2: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """Group of connected pairs of each image, numbered from 1 in the order of the images; 0 without a pair."""
    links = coo_array((np.ones(len(ends_P2), np.int8), (ends_P2[:, 0], ends_P2[:, 1])), shape=(images, images))
    _, part_N = connected_components(links, directed=False)
    in_pairs = np.unique(ends_P2)
    _, first_seen, number = np.unique(part_N[in_pairs], return_index=True, return_inverse=True)
    groups_N = np.zeros(images, np.int64)
    groups_N[in_pairs] = 1 + np.argsort(np.argsort(first_seen))[number]
    return groups_N


def _cautions(compared: int, least: float, pairs: int, images: int) -> tuple[str, ...]:
    cautions = []
    if pairs and gammainc(pairs, ALIKE_BY_NATURE * images) <= ALPHA:
        cautions.append(
            "The number of pairs is typical of images that are similar by nature (digits, icons, X-rays). Most of them "
            "may be no copies; trust only the smallest distances."
        )
    if least > LAYOUT:
        cautions.append(
            f"Only the {compared:,} pairs with the most similar layout were compared in detail. There may be "
            "more near duplicates."
        )
    if pairs > MOST_PAIRS:
        cautions.append(f"Only the first {MOST_PAIRS:,} of {counted(pairs, 'pair')} are reported.")
    return tuple(cautions)


def _describe(pair: NearPair) -> str:
    sides = zip(pair.paths, pair.splits, pair.labels, strict=True)
    named = " ~ ".join(f"{path} ({', '.join(filter(None, (split, label)))})" for path, split, label in sides)
    return f"{pair.distance:.2f}  {named}{', mirrored' if pair.mirrored else ''}"


def write_csv(path: Path, report: NearReport) -> None:
    """Write a row for each pair. Used as the group of both images, `group` keeps them in one split."""
    sides = [f"{name}_{side}" for side in (1, 2) for name in ("path", "split", "label")]
    csv_files.write(path, [*sides, "distance", "mirrored", "group"], map(_cells, report.pairs))


def _cells(pair: NearPair) -> list[object]:
    sides = [text for side in zip(pair.paths, pair.splits, pair.labels, strict=True) for text in side]
    return [*sides, f"{pair.distance:.4f}", str(pair.mirrored).lower(), pair.group]
