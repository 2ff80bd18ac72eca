"""Report of a check: what the images are, and what is wrong with them, as values and as JSON."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from loupe.data.source_use import SourceUse
from loupe.data.unread import UnreadFiles
from loupe.errors import ImageError

NO_SPLIT = "no split"
NO_LABEL = "no label"
SMALL_FRACTION = 0.25
"""Limit for small images: shorter side as a fraction of the median shorter side."""
LONG_ASPECT = 3.0
"""Limit for long images: ratio of the sides, above which a crop keeps less than a third of the image."""


@dataclass(frozen=True)
class Copies:
    """Files with the same bytes: path, split and label of each; None where unknown."""

    paths: tuple[str, ...]
    splits: tuple[str | None, ...]
    labels: tuple[str | None, ...]

    @cached_property
    def leaks(self) -> bool:
        """True if the image is in several splits."""
        return len(set(self.splits) - {None}) > 1

    @cached_property
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

    @cached_property
    def leaks(self) -> tuple[Copies, ...]:
        return tuple(copies for copies in self.copies if copies.leaks)

    @cached_property
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
        sizes = dict.fromkeys(chain.from_iterable(self.counts.values()), 0)
        for k, table in enumerate(tables):
            sizes |= {name: sizes[name] + images for name, images in table.items()} if k else table
        sizes.pop(NO_LABEL, None)
        return sizes

    @property
    def imbalance(self) -> float | None:
        """Ratio of the largest to the smallest class; None with fewer than two classes or an empty one."""
        sizes = self.class_sizes.values()
        return max(sizes) / min(sizes) if len(sizes) > 1 and min(sizes) > 0 else None

    def to_json(self) -> dict[str, Any]:
        rows = {id(copies): copies.to_json() for copies in self.copies}  # made once, for all the lists that have them
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
            "duplicates": [rows[id(copies)] for copies in self.copies],
            "across_splits": [rows[id(copies)] for copies in self.leaks],
            "conflicting_labels": [rows[id(copies)] for copies in self.conflicts],
            "groups_across_splits": list(self.split_groups),
            "imbalance": self.imbalance,
            "unread": [
                {"class": group.label, "format": group.format, "paths": list(group.paths)} for group in self.unread
            ],
            "lost_classes": list(self.lost),
            "one_colour": list(self.one_colour),
            "blank": list(self.blank),
            "depths": [asdict(depth) for depth in self.depths],
            "layout": [vars(row) | {"classes": list(row.classes)} for row in self.layout],
            "similar_classes": [list(names) for names in self.similar_classes],
            "small": list(self.small),
            "long": list(self.long),
        }
