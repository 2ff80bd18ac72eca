"""Images on which an exported model is compared with the run, from the encoded files on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loupe.config.recipe import Preprocessing
from loupe.data.pixels import decode
from loupe.data.pixels.decode import UInt8Array
from loupe.data.table import ImageTable

CHUNK_IMAGES = 64


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        path: its path in the table.
        image_HWC: the decoded, upright image, uint8 [H, W, 3].
        pixels_HWC: what the run's own preprocessing makes of the file, uint8 [h, w, channels].
        label: index of its class in the table; -1 if it has none.
    """

    path: str
    image_HWC: UInt8Array
    pixels_HWC: UInt8Array
    label: int


@dataclass(frozen=True)
class Samples:
    """Images of a table, read anew each time.

    Attributes:
        table: images.
        row_N: their rows.
        preprocessing: that of the run.
        source: name of the images for people.
    """

    table: ImageTable
    row_N: Sequence[int]
    preprocessing: Preprocessing
    source: str

    def __len__(self) -> int:
        return len(self.row_N)

    def chunks(self) -> Iterator[list[Sample]]:
        """All images in order, a few at a time."""
        for start in range(0, len(self), CHUNK_IMAGES):
            yield [self._read(int(row)) for row in self.row_N[start : start + CHUNK_IMAGES]]

    def _read(self, row: int) -> Sample:
        data, path, own = self.table.encoded(row), self.table.paths[row], self.preprocessing
        pixels_HWC = decode.load(data, path, **decode.settings_of(own))
        return Sample(
            path, np.asarray(decode.decode(data, path, levels=own.range)), pixels_HWC, int(self.table.labels[row])
        )
