"""Stream of the decoded images of a table over ranks: the batches of one process, each decoded and held by one rank.

Ranks work in rounds. In each, every rank decodes a run of images, and the ranks tell each other which are damaged. All
then know which intact images make the next batches, as `stream.in_batches` makes them. A batch is of the rank that
decoded its first image. Where damaged images have moved the bounds of batches, that rank decodes the last ones again.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import numpy as np

from loupe.data.parallel import in_parallel
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.decoding import Damage, EncodedImages, damaged_images
from loupe.data.pixels.read_ahead import cut
from loupe.data.pixels.stream import DecodedImages, decode_and_hash, spare_images
from loupe.ranks import Ranks

ROUND_IMAGES = 128  # decoded by each rank between two exchanges, at least


@dataclass(frozen=True)
class Round:
    """Consecutive batches of intact images.

    Attributes:
        rows: rows of the images of each batch.
        rank: rank that has each batch.
        mine: batches of this rank.
        damaged: damaged images found in this round by all ranks, in order.
    """

    rows: list[list[int]]
    rank: list[int]
    mine: list[DecodedImages]
    damaged: list[Damage]


def shared_stream(
    images: EncodedImages, batch_images: int, ranks: Ranks, description: str
) -> Generator[Round, None, None]:
    """Decode all images over the ranks, in rounds of batches. Close the generator to stop early, on every rank.

    Raises:
        DamagedImages: an image that has just been decoded is damaged when it is read again.
        LostRankError: another rank has ended.
    """
    rounds = [_in_runs(batches, ranks.count) for batches in _rounds(len(images.table), batch_images, ranks.count)]
    decoded = _Decoded(images, [row for runs in rounds for row in runs[ranks.rank]], description)
    held, rank_of, end = deque[int](), dict[int, int](), 0
    with closing(decoded.chunks):
        for number, runs in enumerate(rounds):
            damaged = list(chain.from_iterable(ranks.gather(decoded.read(runs[ranks.rank]))))
            gone = {damage.index for damage in damaged}
            for rank, run in enumerate(runs):
                rank_of.update((row, rank) for row in run if row not in gone)
                held.extend(row for row in run if row not in gone)
            rows = list(_settled(held, batch_images, last=number == len(rounds) - 1))
            owners = [rank_of[batch[0]] for batch in rows]
            mine = [batch for batch, rank in zip(rows, owners, strict=True) if rank == ranks.rank]
            yield Round(rows, owners, ranks.together(partial(decoded.batches, mine)), damaged)
            end += sum(map(len, runs))
            decoded.forget_before(held[0] if held else end)
            rank_of = {row: rank_of[row] for row in held}


def _rounds(images: int, batch_images: int, count: int) -> Iterator[list[np.ndarray]]:
    """Batches of each round, as they are where no image is damaged."""
    batches = cut(np.arange(images), batch_images)
    each = count * -(-ROUND_IMAGES // batch_images)
    for start in range(0, len(batches), each):
        yield batches[start : start + each]


def _in_runs(batches: Sequence[np.ndarray], count: int) -> list[list[int]]:
    """Rows of consecutive batches for each rank."""
    bounds = np.linspace(0, len(batches), count + 1).round().astype(int)
    return [[int(row) for batch in batches[start:stop] for row in batch] for start, stop in pairwise(bounds)]


def _settled(held: deque[int], batch_images: int, *, last: bool) -> Iterator[list[int]]:
    """Take whole batches off the rows that are held, as `stream.in_batches` does; all of them after the last round."""
    while len(held) >= batch_images + spare_images(batch_images):
        yield [held.popleft() for _ in range(batch_images)]
    if last and held:
        yield [held.popleft() for _ in range(len(held))]


class _Decoded:
    """Images that this rank has decoded and not yet handed out.

    Args:
        rows: rows that this rank decodes, in ascending order.
        description: text of the progress bar.
    """

    def __init__(self, images: EncodedImages, rows: Sequence[int], description: str) -> None:
        self._images = images
        self.chunks = self._decode(rows, description)
        self._kept: dict[int, tuple[str, UInt8Array]] = {}
        self._damaged: list[Damage] = []
        self._read = self._asked = 0

    def _decode(self, rows: Sequence[int], description: str) -> Generator[DecodedImages, None, None]:
        images, work = self._images, self._images.task(decode_and_hash)
        return in_parallel(images.table, work, chunk=images.chunk_images, description=description, rows=rows)

    def read(self, rows: Sequence[int]) -> list[Damage]:
        """Decode these rows, the next ones of this rank, and return those that are damaged."""
        self._asked += len(rows)
        while self._read < self._asked:
            chunk = next(self.chunks)
            self._keep(chunk)
            self._damaged += chunk.damaged
            self._read += len(chunk) + len(chunk.damaged)
        found = [damage for damage in self._damaged if rows and damage.index <= rows[-1]]
        del self._damaged[: len(found)]
        return found

    def _keep(self, chunk: DecodedImages) -> None:
        images = zip(chunk.content, chunk.pixels, strict=True)
        self._kept.update(zip(chunk.row_B.tolist(), images, strict=True))

    def batches(self, rows: Sequence[Sequence[int]]) -> list[DecodedImages]:
        """Batches of these rows; those that another rank has decoded are decoded again.

        Raises:
            DamagedImages: one of them is damaged now.
        """
        missing = [row for batch in rows for row in batch if row not in self._kept]
        for chunk in self._decode(missing, "predicting") if missing else ():
            if chunk.damaged:
                raise damaged_images(self._images.table, chunk.damaged)
            self._keep(chunk)
        return [self._batch(batch) for batch in rows]

    def _batch(self, rows: Sequence[int]) -> DecodedImages:
        images = [self._kept.pop(row) for row in rows]
        pixels_BHWC = np.stack([pixels_HWC for _, pixels_HWC in images])
        return DecodedImages(np.array(rows, np.int64), tuple(digest for digest, _ in images), pixels_BHWC)

    def forget_before(self, row: int) -> None:
        """Drop the images before a row: they were handed out by other ranks."""
        self._kept = {kept: image for kept, image in self._kept.items() if kept >= row}
