"""Order of the training images of an epoch: a full shuffle, or one within windows of shards.

Images that lie in shards elsewhere cannot be read in any order: each shard is fetched as a whole. So the shards are
shuffled, and the images are shuffled within windows of consecutive shards, as with the shuffle buffers of WebDataset
and tf.data. The order is a function of seed, epoch, and the shards of the rows: it depends neither on the number of
processes, nor on what is in the cache, nor on where a training was resumed. With one window it is the full shuffle.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loupe.augment import random
from loupe.augment.random import Ints


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """Order of the training images in each epoch.

    Attributes:
        shard_N: shard of each row of the table; None for a full shuffle.
        window_images: number of training images in a window, about; None for a full shuffle.
    """

    shard_N: npt.NDArray[np.int32] | None = None
    window_images: int | None = None

    def windows(self, seed: int, epoch: int, rows_N: Ints) -> list[Ints]:
        """Training rows of an epoch as windows, in the order in which they are read.

        A shard is in one window only, so the last rows of one window and the first of the next share no shard. Windows
        have about `window_images` rows, or one shard if that has more.
        """
        if self.shard_N is None or self.window_images is None:
            return [random.permutation(seed, epoch, rows_N)]
        ascending = np.sort(np.asarray(rows_N, np.int64))
        shard_S, own_N, size_S = np.unique(
            self.shard_N[ascending].astype(np.int64), return_inverse=True, return_counts=True
        )
        drawn_S = np.searchsorted(shard_S, random.permutation(seed, epoch, shard_S, "shards"))
        start_S = np.cumsum(size_S[drawn_S]) - size_S[drawn_S]
        windows = max(1, round(len(ascending) / self.window_images))
        window_S = np.empty(len(shard_S), np.int64)
        window_S[drawn_S] = start_S * windows // len(ascending)
        window_N = window_S[own_N]
        order_N = np.lexsort((random.order_keys(seed, epoch, ascending), window_N))
        ends = np.flatnonzero(np.diff(window_N[order_N])) + 1
        return np.split(ascending[order_N], ends)
