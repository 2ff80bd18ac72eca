"""Labelled images as arrays, to look at their numbers or to keep a part of them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from loupe.config.recipe import PIXEL_DEFINITION, Preprocessing, SplitSpec
from loupe.config.size import SizePx
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.memory import can_allocate
from loupe.data.pixels.decode import decode
from loupe.data.pixels.prepare import encoded
from loupe.data.pixels.store import EncodedStore
from loupe.data.processes import worker_count
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import split as splits
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, NotEnoughMemoryError, counted, unknown_name
from loupe.log import size_text
from loupe.notebook.data import check_whole
from loupe.report.sampling import in_turn

CHUNK_IMAGES = 512


def arrays(
    data: Any,
    *,
    split: str | None = None,
    count: int | None = None,
    seed: int = 0,
    size_px: SizePx | None = None,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Read labelled images into arrays, as `loupe.train` takes them.

    Args:
        data, columns, images, follow_links: images, as for `loupe.train`.
        split: train, val or test; None for all images. Data without any split is split as by `loupe.train`.
        count: number of images, in which the classes take turns; None for all, in the order of the data.
        seed: random seed for these images, and for splits that are drawn.
        size_px: side of a square, or (height, width), to which images are resized and cropped; None for their own size.

    Returns:
        Pixels from 0 to 255, uint8 [N, H, W, 3], and the class name of each image, [N]. Images without a label are
        left out.

    Raises:
        ConfigError: `split`, `count`, `seed` or `size_px` is not as above.
        DataError: the images cannot be used, none is in the split, or their sizes differ and `size_px` is missing.
        NotEnoughMemoryError: the pixels need more memory than there is.
    """
    check_whole("seed", seed, 0, 2**63 - 1)
    if count is not None:
        check_whole("count", count, 1, 2**63 - 1)
    if split is not None and split not in splits.SPLITS:
        raise unknown_name("split", str(split), splits.SPLITS)
    dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links))
    table = dataset.table.select(_rows(dataset, split, seed))
    if count is not None and count < len(table):
        table = table.select(in_turn(table.labels, table.classes, seed, count))
    x_NHWC = _own_size(table) if size_px is None else _resized(table, size_px)
    return x_NHWC, np.array(table.classes)[table.labels]


def _rows(dataset: Dataset, split: str | None, seed: int) -> NDArray[np.int64]:
    """Rows of the labelled images of a split.

    Raises:
        DataError: there are none.
    """
    table = dataset.table
    labelled = table.labels >= 0
    if split is None:
        found = np.flatnonzero(labelled)
    elif any(table.splits):
        found = np.flatnonzero(labelled & (np.array([name or "train" for name in table.splits]) == split))
    else:
        found = splits.assign(table, dataset.hashes, SplitSpec(), seed).rows(split)
    if not len(found):
        given = sorted({name for name in table.splits if name})
        has = f" It has the splits {', '.join(given)}." if given else ""
        of_split = f" in the split {split}" if split else ""
        raise DataError(f"{table.name}: there is no image with a label{of_split}.{has}")
    return found


def _own_size(table: ImageTable) -> NDArray[np.uint8]:
    """Pixels of images of one size, as they are stored.

    Raises:
        DataError: the sizes differ, or an image is damaged.
    """
    first = decode(table.encoded(0), table.paths[0])
    x_NHWC = _empty(len(table), first.height, first.width)
    for row in range(len(table)):
        image = decode(table.encoded(row), table.paths[row])
        if image.size != first.size:
            raise DataError(
                f"{table.name}: images of {first.width} x {first.height} px and of {image.width} x {image.height} px "
                "do not fit into one array. Give size_px, for example size_px=64."
            )
        x_NHWC[row] = np.asarray(image)
    return x_NHWC


def _resized(table: ImageTable, size_px: SizePx) -> NDArray[np.uint8]:
    """Pixels of images, resized so that their centre has the size.

    Raises:
        ConfigError: it is no size.
        DataError: an image is damaged.
    """
    try:
        preprocessing = Preprocessing(size_px=size_px, load_px=size_px, pixel_definition=PIXEL_DEFINITION)
    except ValidationError:
        raise ConfigError(f"size_px must be a whole number of pixels, or (height, width); got {size_px!r}.") from None
    size = preprocessing.load_size
    x_NHWC = _empty(len(table), size.height_px, size.width_px)
    store = EncodedStore(encoded(table, preprocessing), worker_count())
    for start in range(0, len(table), CHUNK_IMAGES):
        rows = np.arange(start, min(start + CHUNK_IMAGES, len(table)))
        x_NHWC[rows] = store.read(rows)
    return x_NHWC


def _empty(images: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Array for the pixels of RGB images.

    Raises:
        NotEnoughMemoryError: it does not fit in the free memory.
    """
    size = images * height_px * width_px * 3
    if not can_allocate(size):
        raise NotEnoughMemoryError(
            f"{counted(images, 'image')} of {width_px:,} x {height_px:,} px take {size_text(size)}. Give a lower count "
            "or size_px."
        )
    return np.empty((images, height_px, width_px, 3), np.uint8)
