"""Note where drawn validation and test images look like training images, from a sample that takes half a second.

The search of `split.group=near` and of `loupe check --near` takes seconds to minutes. Here a few drawn images are
compared with a few thousand training images, by the pixels that the training has decoded already. The number of
comparisons is bounded, and not the time, so that the note never depends on the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loupe.config.recipe import SplitSpec
from loupe.data.audit.near_duplicates import DISTANCE, LAYOUT
from loupe.data.audit.similarity import SIDE_PX, layouts, likeness
from loupe.data.keyed_order import ordered
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.prepare import Images, typical_px
from loupe.data.pixels.store import RawStore
from loupe.data.splits.split import Split
from loupe.evaluate.estimate import wilson

MOST_DRAWN, MOST_TRAIN = 100, 3000  # images
MOST_EACH = 8  # training images that are compared in detail with a drawn one, those of the most similar layout
MANY = 0.05
"""Share of drawn images, by the lower end of its 95 % interval, from which on there is a note."""
MOST = 0.5
"""The same, from which on they are most of all drawn images."""
OTHER_LABELS = 0.1
"""Share of pairs with different labels, above which likeness is no sign of copies, as among letters."""
BLOCKS_PX = 3  # pixels on a side that are averaged into one
CHUNK_IMAGES = 256

Ints = NDArray[np.int64]


def near_note(images: Images, split: Split, spec: SplitSpec) -> str | None:
    """Sentences on drawn images that look like training images, with advice; None as for `near_copies`.

    Args:
        images, split, spec: as for `near_copies`.
    """
    found = near_copies(images, split, spec)
    return None if found is None else found.note


@dataclass(frozen=True)
class NearCopies:
    """Drawn images that look like training images: how many of a sample, and a sentence with both numbers."""

    found: int
    drawn: int
    text: str

    @property
    def note(self) -> str:
        """The sentence, with advice."""
        return (
            f"{self.text} If they are copies, or views of one object, accuracies are too high. To see them: loupe "
            "check DATA --near --report check.html. To keep them on one side: --set split.group=near"
        )

    @property
    def are_most(self) -> bool:
        """True if more than half of all drawn images look so, by the lower end of the 95 % interval."""
        return (wilson(self.found, self.drawn)[0] or 0.0) > MOST


def near_copies(images: Images, split: Split, spec: SplitSpec) -> NearCopies | None:
    """Drawn images that look like training images; None where they are few, or cannot be told.

    Images in groups, images whose pixels are not kept decoded, images of few pixels, which are alike by chance, and
    given splits are not looked at.

    Args:
        images: images with their pixels.
        split: their split.
        spec: settings of the split.
    """
    table = images.table
    if spec.group != "given" or not isinstance(images.store, RawStore) or any(table.groups):
        return None
    if typical_px(table) < SIDE_PX:
        return None
    rows_N = np.concatenate([split.val, split.test])
    drawn_N = rows_N[[table.splits[row] in {None, "train"} for row in rows_N.tolist()]]
    if not len(drawn_N):
        return None
    drawn = _sample(drawn_N, images.content, MOST_DRAWN)
    train = _sample(split.train, images.content, MOST_TRAIN)
    place_P, row_P = _pairs(_small(images.store, drawn), _small(images.store, train))
    same_P = table.labels[drawn[place_P]] == table.labels[train[row_P]]
    found = len(np.unique(place_P[same_P]))
    if wilson(found, len(drawn))[0] <= MANY or np.mean(~same_P) > OTHER_LABELS:
        return None
    some = "" if len(drawn) == len(drawn_N) else f" (a sample of {len(drawn_N):,})"
    which = "a training image" if len(train) == len(split.train) else f"one of {len(train):,} training images"
    text = f"{found:,} of {len(drawn):,} images{some} drawn for validation and test look like {which}."
    return NearCopies(found, len(drawn), text)


def _sample(rows_N: Ints, content: Sequence[str], most: int) -> Ints:
    """At most so many of the rows, by a hash of their contents."""
    return rows_N[ordered("near note", [content[row] for row in rows_N.tolist()])[:most]]


def _small(store: RawStore, rows_N: Ints) -> UInt8Array:
    """Images reduced to `SIDE_PX` on a side: uint8 [N, SIDE_PX, SIDE_PX, 3]."""
    parts = [_reduced(store.read(rows_N[k : k + CHUNK_IMAGES])) for k in range(0, len(rows_N), CHUNK_IMAGES)]
    return np.concatenate(parts)


def _reduced(pixels_BHWC: UInt8Array) -> UInt8Array:
    """Means over blocks of `BLOCKS_PX` of evenly spaced pixels; small images are enlarged by repeating pixels."""
    at = [np.arange(BLOCKS_PX * SIDE_PX) * side // (BLOCKS_PX * SIDE_PX) for side in pixels_BHWC.shape[1:3]]
    even = pixels_BHWC[:, at[0]][:, :, at[1]]
    blocks = even.reshape(len(even), SIDE_PX, BLOCKS_PX, SIDE_PX, BLOCKS_PX, -1)
    means = blocks.sum(axis=(2, 4), dtype=np.uint16) // BLOCKS_PX**2
    return np.repeat(means, 3 // means.shape[-1], axis=-1).astype(np.uint8)


def _pairs(drawn_DHWC: UInt8Array, train_NHWC: UInt8Array) -> tuple[Ints, Ints]:
    """Places of the drawn images and of the training images that are near duplicates of each other."""
    drawn_D2K, train_N2K = layouts(drawn_DHWC), layouts(train_NHWC)
    odd_DN = drawn_D2K[:, 1] @ train_N2K[:, 1].T
    layout_DN = drawn_D2K[:, 0] @ train_N2K[:, 0].T + np.abs(odd_DN)
    nearest_DM = np.argsort(-layout_DN, axis=1, kind="stable")[:, :MOST_EACH]
    is_similar_DM = np.take_along_axis(layout_DN, nearest_DM, axis=1) >= LAYOUT
    place_P, row_P = np.nonzero(is_similar_DM)[0], nearest_DM[is_similar_DM]
    if not len(row_P):
        return place_P, row_P
    is_near_P = 1 - likeness(drawn_DHWC[place_P], train_NHWC[row_P], odd_DN[place_P, row_P] < 0) <= DISTANCE
    return place_P[is_near_P], row_P[is_near_P]
