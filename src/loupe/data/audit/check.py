"""Check of a data set: counts, sizes, damage, exact copies, leakage between splits, conflicting labels.

Every image is decoded completely, because a header does not show later damage (a JPEG at an eighth of its size, which
reads all data with little computation). Copies are files with the same bytes, and are decoded once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.config.base import Levels
from loupe.data.class_names import similar
from loupe.data.keyed_order import chosen
from loupe.data.parallel import File, in_parallel
from loupe.data.pixels.decode import decode, extremes, finish, open_header, wide_levels
from loupe.data.source_use import SourceUse, uses_of_splits
from loupe.data.table import ImageTable
from loupe.data.unread import LOST_FRACTION, UnreadFiles, lost_classes
from loupe.errors import ImageError, counted

_CHUNK_IMAGES = 64
_LOOK_PX = 32
MOST_COPIES = 100
"""Number of copies of one image that a line names; all of them are in the JSON."""
NO_SPLIT = "no split"
NO_LABEL = "no label"
SMALL_FRACTION = 0.25
"""Limit for small images: shorter side as a fraction of the median shorter side."""
LONG_ASPECT = 3.0
"""Limit for long images: ratio of the sides, above which a crop keeps less than a third of the image."""
USED_LEVELS = 128
"""Limit for unused bits: grey levels, of 256, that the values of images of more than 8 bits reach."""
IMBALANCE = 3.0
"""Limit for unbalanced classes: ratio of the sizes of the largest and the smallest class."""
FEWEST_TO_WEIGHT = 10
"""Images of a class, below which a larger weight repeats few images and tells little about others."""


@dataclass(frozen=True)
class Copies:
    """Files with the same bytes: path, split and label of each; None where unknown."""

    paths: tuple[str, ...]
    splits: tuple[str | None, ...]
    labels: tuple[str | None, ...]

    @property
    def leaks(self) -> bool:
        """True if the image is in several splits."""
        return len(set(self.splits) - {None}) > 1

    @property
    def conflicts(self) -> bool:
        """True if the image has several labels."""
        return len(set(self.labels) - {None}) > 1

    def to_json(self) -> list[dict[str, Any]]:
        rows = zip(self.paths, self.splits, self.labels, strict=True)
        return [{"path": path, "split": split, "label": label} for path, split, label in rows]


@dataclass(frozen=True)
class Depth:
    """Lowest and highest stored pixel value of all images of one depth above 8 bits."""

    bits: int
    images: int
    low: int
    high: int

    @property
    def grey_levels(self) -> int:
        """Number of the 256 grey levels that the values reach in their upper 8 bits."""
        return (self.high >> (self.bits - 8)) - (self.low >> (self.bits - 8)) + 1


@dataclass(frozen=True)
class CheckReport:
    """Findings of a check. `counts`: split -> class -> images. Sizes: min, median, max; None without images.

    `unread`: image files that cannot be read here; `lost`: a line for each class that loses too many of them.
    `one_colour`: images whose pixels all have one value; `blank`: those of more than 8 bits that only become so by the
    reduction to 8 bits. `depths`: values of the images of more than 8 bits.
    """

    name: str
    images: int
    counts: dict[str, dict[str, int]]
    width_px: dict[str, float] | None
    height_px: dict[str, float] | None
    formats: dict[str, int]
    modes: dict[str, int]
    damaged: tuple[ImageError, ...]
    copies: tuple[Copies, ...]
    split_groups: tuple[str, ...]
    small: tuple[str, ...]
    long: tuple[str, ...]
    unread: tuple[UnreadFiles, ...] = ()
    lost: tuple[str, ...] = ()
    one_colour: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    depths: tuple[Depth, ...] = ()
    layout: tuple[SourceUse, ...] = ()
    similar_classes: tuple[tuple[str, ...], ...] = ()

    @property
    def leaks(self) -> tuple[Copies, ...]:
        return tuple(copies for copies in self.copies if copies.leaks)

    @property
    def conflicts(self) -> tuple[Copies, ...]:
        return tuple(copies for copies in self.copies if copies.conflicts)

    @property
    def ok(self) -> bool:
        """False with damaged images, copies or groups in several splits, copies with different labels, lost classes or
        blank images.

        Copies within one split, imbalance and unusual sizes are reported and allowed.
        """
        return not (self.damaged or self.leaks or self.conflicts or self.split_groups or self.lost or self.blank)

    @cached_property
    def class_sizes(self) -> dict[str, int]:
        """Number of images of each class, in the train split if there is one, else in all splits."""
        tables = [self.counts["train"]] if "train" in self.counts else list(self.counts.values())
        names = dict.fromkeys(chain.from_iterable(self.counts.values()))
        names.pop(NO_LABEL, None)
        return {name: sum(table.get(name, 0) for table in tables) for name in names}

    @property
    def imbalance(self) -> float | None:
        """Ratio of the largest to the smallest class; None with fewer than two classes or an empty one."""
        sizes = self.class_sizes.values()
        return max(sizes) / min(sizes) if len(sizes) > 1 and min(sizes) > 0 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "name": self.name,
            "ok": self.ok,
            "images": self.images,
            "counts": self.counts,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "formats": self.formats,
            "modes": self.modes,
            "damaged": [{"path": error.path, "reason": error.reason} for error in self.damaged],
            "duplicates": [copies.to_json() for copies in self.copies],
            "across_splits": [copies.to_json() for copies in self.leaks],
            "conflicting_labels": [copies.to_json() for copies in self.conflicts],
            "groups_across_splits": list(self.split_groups),
            "imbalance": self.imbalance,
            "unread": [
                {"class": group.label, "format": group.format, "paths": list(group.paths)} for group in self.unread
            ],
            "lost_classes": list(self.lost),
            "one_colour": list(self.one_colour),
            "blank": list(self.blank),
            "depths": [asdict(depth) for depth in self.depths],
            "layout": [asdict(row) | {"classes": list(row.classes)} for row in self.layout],
            "similar_classes": [list(names) for names in self.similar_classes],
            "small": list(self.small),
            "long": list(self.long),
        }


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
    seen = _look_at_all(table, content)
    whole = [i for i, image in enumerate(seen) if image.error is None]
    sides_2N = [[seen[i].width_px for i in whole], [seen[i].height_px for i in whole]]
    sides_N2 = np.array(sides_2N, dtype=np.int64).T
    shorter_N, longer_N = sides_N2.min(axis=1), sides_N2.max(axis=1)
    is_small_N = shorter_N < SMALL_FRACTION * (np.median(shorter_N) if whole else 0)
    is_long_N = longer_N > LONG_ASPECT * shorter_N
    return CheckReport(
        name=table.name,
        images=len(table),
        counts=_counts(table),
        width_px=_extent(sides_N2[:, 0]),
        height_px=_extent(sides_N2[:, 1]),
        formats=dict(Counter(seen[i].format for i in whole).most_common()),
        modes=dict(Counter(seen[i].mode for i in whole).most_common()),
        damaged=tuple(table.located(i, image.error) for i, image in enumerate(seen) if image.error is not None),
        copies=_copies(table, content, whole),
        split_groups=_split_groups(table),
        small=tuple(table.paths[whole[k]] for k in np.flatnonzero(is_small_N)),
        long=tuple(table.paths[whole[k]] for k in np.flatnonzero(is_long_N)),
        unread=table.unread,
        lost=tuple(lost_classes(table.unread, table.class_counts)),
        one_colour=tuple(table.paths[i] for i in whole if seen[i].is_flat and not _is_blank(seen[i])),
        blank=tuple(table.paths[i] for i in whole if _is_blank(seen[i])),
        depths=_depths([wide for i in whole if (wide := seen[i].wide)]),
        layout=table.layout or _layout(table),
        similar_classes=tuple(similar(table.classes)),
    )


def _look_at_all(table: ImageTable, content: Sequence[str]) -> list[_Seen]:
    """Properties of every image; of files with the same bytes, the first is decoded."""
    first: dict[str, int] = {}
    for i, digest in enumerate(content):
        first.setdefault(digest, i)
    seen_of = _look_at_rows(table, [*first.values()])
    unread = {content[i] for i, seen in seen_of.items() if not seen.is_read}
    if others := [i for i, digest in enumerate(content) if digest in unread and i not in seen_of]:
        seen_of |= _look_at_rows(table, others)
    return [_own(table, i, seen_of[i] if i in seen_of else seen_of[first[digest]]) for i, digest in enumerate(content)]


def _look_at_rows(table: ImageTable, rows: Sequence[int]) -> dict[int, _Seen]:
    parts = in_parallel(table, _look, chunk=_CHUNK_IMAGES, description="checking images", rows=rows)
    return dict(zip(rows, chain.from_iterable(parts), strict=True))


def _own(table: ImageTable, i: int, seen: _Seen) -> _Seen:
    """Properties of image `i` from those of a copy: an error names the image itself."""
    return seen if seen.error is None else replace(seen, error=ImageError(table.paths[i], seen.error.reason))


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


def _depths(wide: Sequence[tuple[Levels, int]]) -> tuple[Depth, ...]:
    by_bits: dict[int, list[Levels]] = defaultdict(list)
    for levels, bits in wide:
        by_bits[bits].append(levels)
    return tuple(
        Depth(bits, len(found), min(low for low, _ in found), max(high for _, high in found))
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


def _copies(table: ImageTable, content: Sequence[str], whole: Iterable[int]) -> tuple[Copies, ...]:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for i in whole:
        by_digest[content[i]].append(i)
    names, labels = (*table.classes, None), table.labels.tolist()  # label -1 is the last
    return tuple(
        Copies(
            tuple(table.paths[i] for i in same),
            tuple(table.splits[i] for i in same),
            tuple(names[labels[i]] for i in same),
        )
        for same in by_digest.values()
        if len(same) > 1
    )


def _split_groups(table: ImageTable) -> tuple[str, ...]:
    """Groups in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(table.groups, table.splits, strict=True):
        if group is not None and split is not None:
            splits[group].add(split)
    return tuple(group for group, names in splits.items() if len(names) > 1)


def _extent(values_N: NDArray[np.int64]) -> dict[str, float] | None:
    if len(values_N) == 0:
        return None
    return {"min": int(values_N.min()), "median": float(np.median(values_N)), "max": int(values_N.max())}


def findings(report: CheckReport) -> list[tuple[str, list[str]]]:
    """Findings by kind: a title with the remedy, and one line for each case."""
    copied = [_describe(copies) for copies in report.copies if not (copies.leaks or copies.conflicts)]
    leaking = [_describe(copies) for copies in report.leaks]
    conflicting = [_describe(copies) for copies in report.conflicts]
    unread = [f"{path} ({group.format})" for group in report.unread for path in group.paths]
    found = [
        ("unreadable here: convert them, or install what reads them", unread),
        (f"incomplete: a class of which more than {LOST_FRACTION:.0%} of the images cannot be read", list(report.lost)),
        ("damaged: repair or remove them, or train with --skip-damaged", [str(error) for error in report.damaged]),
        ("the same image in more than one split: remove it from all but one", leaking),
        ("the same image with different labels: correct or remove it", conflicting),
        ("the same group in more than one split: keep it on one side", list(report.split_groups)),
        ("copies within a split: training counts them as often as they are there", copied),
        (
            "blank: the upper 8 bits, which are kept, are all equal; try --set input.range=used",
            list(report.blank),
        ),
        ("with unused bits: --set input.range=used keeps all grey levels", _unused_bits(report)),
        ("of one colour: only this colour can be learned from them", list(report.one_colour)),
        (f"small: the shorter side is below {SMALL_FRACTION:g} times the median", list(report.small)),
        (
            f"long: one side is more than {LONG_ASPECT:g} times the other; resize mode pad keeps all of it",
            list(report.long),
        ),
        (
            "groups of classes that differ only in form, case, spaces or number format: give each one name",
            [" = ".join(map(repr, names)) for names in report.similar_classes],
        ),
        (f"ratio of class sizes above {IMBALANCE:g} to 1: {_remedy(report)}", _unbalanced(report)),
    ]
    return [(f"{len(lines):,} {title}", lines) for title, lines in found if lines]


def listed(lines: Sequence[str], most: int) -> list[str]:
    """Lines of a finding for a page, in their order: where there are more, cases of all classes and not the first."""
    return chosen(lines, most, key="check")


def _unused_bits(report: CheckReport) -> list[str]:
    return [
        f"{counted(depth.images, 'image')} of {depth.bits} bits with values {depth.low:,} to {depth.high:,} of "
        f"{2**depth.bits - 1:,}: {depth.grey_levels} of 256 grey levels remain"
        for depth in report.depths
        if depth.grey_levels <= USED_LEVELS
    ]


def _describe(copies: Copies) -> str:
    """Line of the copies, of very many the first."""
    rows = zip(copies.paths[:MOST_COPIES], copies.splits, copies.labels, strict=False)
    more = len(copies.paths) - MOST_COPIES
    text = " = ".join(f"{path} ({', '.join(filter(None, (split, label)))})" for path, split, label in rows)
    return f"{text} and {more:,} more" if more > 0 else text


def _remedy(report: CheckReport) -> str:
    """Remedy for classes of unequal size: weights, unless the smallest class is too small for them."""
    if min(report.class_sizes.values(), default=0) >= FEWEST_TO_WEIGHT:
        return "consider class_weights balanced"
    return f"add images; weights cannot replace them in a class with fewer than {FEWEST_TO_WEIGHT}"


def _unbalanced(report: CheckReport) -> list[str]:
    sizes = report.class_sizes
    if len(sizes) < 2 or max(sizes.values()) <= IMBALANCE * min(sizes.values()):
        return []
    least, most = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    return [f"{most} has {counted(sizes[most], 'image')}, {least} has {sizes[least]:,}"]
