"""Batches of an evaluation, shared out over the ranks so that every image is evaluated once.

Ranks take whole batches of those that one process makes. The last bits of logits depend on the size of a batch: PyTorch
has other kernels for other sizes. So no image is added to make shares equal, and batches are not cut anew.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loupe.data.pixels.read_ahead import cut
from loupe.ranks import Ranks, merge_rows


@dataclass(frozen=True)
class SharedBatches:
    """Batches of rows, of which each rank takes every `ranks.count`-th.

    Attributes:
        row_N: rows of the images.
        batch_images: images of a batch.
        ranks: ranks that share the batches.
    """

    row_N: np.ndarray
    batch_images: int
    ranks: Ranks

    @cached_property
    def _places(self) -> list[np.ndarray]:
        """Places in `row_N` of the images of each batch."""
        return cut(np.arange(len(self.row_N)), self.batch_images)

    @property
    def mine(self) -> list[np.ndarray]:
        """Rows of each batch of this rank."""
        return [self.row_N[place_B] for place_B in self.ranks.share(self._places)]

    @property
    def mine_M(self) -> np.ndarray:  # noqa: N802
        """Rows of this rank. `cut` makes the same batches of them: only the last one has another size."""
        return np.concatenate([self.row_N[:0], *self.mine])

    def round_images(self, number: int) -> int:
        """Images of the batches that all ranks work on while this rank works on its batch of that number."""
        first = number * self.ranks.count
        return sum(map(len, self._places[first : first + self.ranks.count]))

    def merged(self, logits_MK: np.ndarray, *, everywhere: bool) -> np.ndarray:
        """Logits of all images, in the order of `row_N`, from those of each rank.

        Args:
            logits_MK: logits of the images of this rank.
            everywhere: put them together on every rank; otherwise on rank 0, and the others get [0, K].

        Raises:
            LostRankError: another rank has ended.
        """
        none, count = np.empty(0, np.int64), self.ranks.count
        place_RM = [np.concatenate([none, *self._places[rank::count]]) for rank in range(count)]
        return merge_rows(self.ranks, logits_MK, place_RM, everywhere=everywhere)
