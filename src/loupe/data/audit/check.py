"""Check of a data set: counts, sizes, damage, exact copies, leakage between splits, conflicting labels.

Every image is decoded completely, because a header does not show later damage (a JPEG at an eighth of its size, which
reads all data with little computation). Copies are files with the same bytes, and are decoded once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from loupe.config.base import Levels
from loupe.data.audit.check_report import (
    LONG_ASPECT,
    NO_LABEL,
    NO_SPLIT,
    SMALL_FRACTION,
    CheckReport,
    Copies,
    Depth,
)
from loupe.data.class_names import similar
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import decode, extremes, finish, open_header, wide_levels
from loupe.data.source_use import SourceUse, uses_of_splits
from loupe.data.table import ImageTable
from loupe.data.unread import lost_classes
from loupe.errors import ImageError

_CHUNK_IMAGES = 64
_LOOK_PX = 32


@dataclass(frozen=True)
class _Seen:
    """Properties of an image, or the `error` of a damaged one."""

    error: ImageError | None = None
    format: str = ""
    mode: str = ""
    width_px: int = 0
    height_px: int = 0
    is_flat: bool = False
    is_read: bool = True  # False if the file could not be read: another with the same bytes may be readable
    wide: tuple[Levels, int] | None = None  # stored values and bits, of more than 8 bits


def check(table: ImageTable, content: Sequence[str]) -> CheckReport:
    """Check every image of a table with the digests `content`. Damage is a finding, not an error."""
    if len(content) != len(table):
        raise ValueError(f"{len(content)} digests for {len(table)} images")
    digest_N = _numbers(content)
    seen, place_N = _look_at_all(table, digest_N)
    whole_K = np.array([image.error is None for image in seen], dtype=bool)
    whole_n = np.flatnonzero(whole_K[place_N])
    place_n = place_N[whole_n]
    sides_K2 = np.array([[image.width_px for image in seen], [image.height_px for image in seen]], dtype=np.int64).T
    sides_n2 = sides_K2[place_n]
    shorter_n, longer_n = sides_n2.min(axis=1), sides_n2.max(axis=1)
    is_small_n = shorter_n < SMALL_FRACTION * (np.median(shorter_n) if len(whole_n) else 0)
    is_long_n = longer_n > LONG_ASPECT * shorter_n
    flat_K = np.array([image.is_flat for image in seen], dtype=bool)
    blank_K = np.array([_is_blank(image) for image in seen], dtype=bool)
    images = [(seen[k], count) for k, count in Counter(place_n.tolist()).items()]

    def paths(chosen_n: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(table.paths[i] for i in whole_n[chosen_n].tolist())

    return CheckReport(
        name=table.name,
        images=len(table),
        counts=_counts(table),
        width_px=_extent(sides_n2[:, 0]),
        height_px=_extent(sides_n2[:, 1]),
        formats=_tally((image.format, count) for image, count in images),
        modes=_tally((image.mode, count) for image, count in images),
        damaged=tuple(_damaged(table, seen, place_N)),
        copies=_copies(table, digest_N, whole_n),
        split_groups=_split_groups(table),
        small=paths(is_small_n),
        long=paths(is_long_n),
        unread=table.unread,
        lost=tuple(lost_classes(table.unread, table.class_counts)) if table.unread else (),
        one_colour=paths((flat_K & ~blank_K)[place_n]),
        blank=paths(blank_K[place_n]),
        depths=_depths([(*image.wide, count) for image, count in images if image.wide]),
        layout=table.layout or _layout(table),
        similar_classes=tuple(similar(table.classes)),
    )


def _numbers(content: Sequence[str]) -> NDArray[np.int64]:
    """Number of each digest among the distinct ones, in the order in which they appear."""
    number = {digest: k for k, digest in enumerate(dict.fromkeys(content))}
    return np.fromiter(map(number.__getitem__, content), np.int64, len(content))


def _look_at_all(table: ImageTable, digest_N: NDArray[np.int64]) -> tuple[list[_Seen], NDArray[np.int64]]:
    """Properties of the distinct images, and the position of each image's among them.

    Of files with the same bytes, the first is decoded, and others only if it could not be read.
    """
    first_K = np.unique(digest_N, return_index=True)[1]
    seen = _look_at_rows(table, first_K.tolist())
    is_other_N = np.array([not image.is_read for image in seen], dtype=bool)[digest_N]
    is_other_N[first_K] = False
    if not is_other_N.any():
        return seen, digest_N
    others = np.flatnonzero(is_other_N)
    place_N = digest_N.copy()
    place_N[others] = np.arange(len(seen), len(seen) + len(others))
    return [*seen, *_look_at_rows(table, others.tolist())], place_N


def _look_at_rows(table: ImageTable, rows: Sequence[int]) -> list[_Seen]:
    parts = in_parallel(table, _look, chunk=_CHUNK_IMAGES, description="checking images", rows=rows)
    return [*chain.from_iterable(parts)]


def _look(files: Sequence[File]) -> list[_Seen]:
    return [_look_at(file) for file in files]


def _look_at(file: File) -> _Seen:
    if isinstance(file.data, ImageError):
        return _Seen(file.data, is_read=False)
    try:
        header = open_header(file.data, file.path)
        seen = _Seen(None, header.format or "", header.mode, header.width, header.height)
        low, high = extremes(finish(header, file.data, file.path, at_least_px=_LOOK_PX))
        if low == high and header.size != (seen.width_px, seen.height_px):  # details may be lost in a reduced JPEG
            low, high = extremes(decode(file.data, file.path))
        seen = replace(seen, is_flat=low == high, wide=wide_levels(header))
    except ImageError as error:
        return _Seen(error)
    return seen


def _is_blank(seen: _Seen) -> bool:
    return seen.is_flat and seen.wide is not None and seen.wide[0][0] != seen.wide[0][1]


def _tally(words: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Number of images of each word, the most frequent first."""
    found: Counter[str] = Counter()
    for word, images in words:
        found[word] += images
    return dict(found.most_common())


def _damaged(table: ImageTable, seen: Sequence[_Seen], place_N: NDArray[np.int64]) -> Iterator[ImageError]:
    """Error of each damaged image; that of a copy names the copy."""
    is_damaged_K = np.array([image.error is not None for image in seen], dtype=bool)
    for i in np.flatnonzero(is_damaged_K[place_N]).tolist():
        if error := seen[place_N[i]].error:
            yield table.located(i, ImageError(table.paths[i], error.reason))


def _depths(wide: Sequence[tuple[Levels, int, int]]) -> tuple[Depth, ...]:
    """Depths from levels, bits and number of the images."""
    by_bits: dict[int, list[tuple[Levels, int]]] = defaultdict(list)
    for levels, bits, images in wide:
        by_bits[bits].append((levels, images))
    return tuple(
        Depth(
            bits,
            sum(images for _, images in found),
            min(low for (low, _), _ in found),
            max(high for (_, high), _ in found),
        )
        for bits, found in sorted(by_bits.items())
    )


def _counts(table: ImageTable) -> dict[str, dict[str, int]]:
    """Split -> class -> number of images, in the order of splits and classes; missing ones are last."""
    orders = ("train", "val", "test", None)
    order_N = np.array([*map({split: k for k, split in enumerate(orders)}.__getitem__, table.splits)], np.int64)
    counts = {}
    for k in np.unique(order_N).tolist():
        label_n = table.labels[order_N == k]
        found = np.bincount(label_n + 1, minlength=len(table.classes) + 1).tolist()  # the first are unlabelled
        row = dict(zip(table.classes, found[1:], strict=True))
        if found[0]:
            row[NO_LABEL] = found[0]
        counts[orders[k] or NO_SPLIT] = row
    return counts


def _layout(table: ImageTable) -> tuple[SourceUse, ...]:
    """Use of the whole source, by split, where there was no layout to be understood."""
    names = (*table.classes, None)  # label -1 is the last
    splits = table.splits
    return uses_of_splits([None] * len(table), splits, [names[label] for label in table.labels.tolist()], table.name)


def _copies(table: ImageTable, digest_N: NDArray[np.int64], whole_n: NDArray[np.int64]) -> tuple[Copies, ...]:
    digest_n = digest_N[whole_n]
    is_copied_n = np.bincount(digest_n)[digest_n] > 1
    by_digest: dict[int, list[int]] = defaultdict(list)
    for digest, i in zip(digest_n[is_copied_n].tolist(), whole_n[is_copied_n].tolist(), strict=True):
        by_digest[digest].append(i)
    names, labels = (*table.classes, None), table.labels.tolist()  # label -1 is the last
    return tuple(
        Copies(
            tuple(table.paths[i] for i in same),
            tuple(table.splits[i] for i in same),
            tuple(names[labels[i]] for i in same),
        )
        for same in by_digest.values()
    )


def _split_groups(table: ImageTable) -> tuple[str, ...]:
    """Groups in more than one split."""
    if table.rows["group"].null_count == len(table):
        return ()
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(table.groups, table.splits, strict=True):
        if group is not None and split is not None:
            splits[group].add(split)
    return tuple(group for group, names in splits.items() if len(names) > 1)


def _extent(values_N: NDArray[np.int64]) -> dict[str, float] | None:
    if len(values_N) == 0:
        return None
    return {"min": int(values_N.min()), "median": float(np.median(values_N)), "max": int(values_N.max())}
