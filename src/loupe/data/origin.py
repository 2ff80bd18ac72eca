"""Origin of the rows of a table: the file that lists each image, and the line or row in it, for errors and names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Origin:
    """File and number of each of N rows.

    Attributes:
        files: names of the files.
        file_N: index into `files`.
        number_N: line of a text file, from 1; or row of a Parquet file, from 0, as in pandas.
        unit: what is counted.
    """

    files: tuple[str, ...]
    file_N: Numbers
    number_N: Numbers
    unit: Literal["line", "row"]

    def name(self, i: int) -> str:
        """Name of an image that has none of its own, as `train.parquet#2`."""
        return f"{self.files[self.file_N[i]]}#{self.number_N[i]}"

    def place(self, i: int) -> str:
        """Origin of row `i`, for a message: `list.csv, line 4` or `train.parquet, row 2, counted from 0`."""
        counting = ", counted from 0" if self.unit == "row" else ""
        return f"{self.files[self.file_N[i]]}, {self.unit} {self.number_N[i]}{counting}"

    def select(self, indices: NDArray[np.int64]) -> "Origin":
        return replace(self, file_N=self.file_N[indices], number_N=self.number_N[indices])


def of_lines(file: str, lines: Sequence[int]) -> Origin:
    """Origin of rows that are lines of one text file: CSV or JSON Lines."""
    return Origin((file,), np.zeros(len(lines), np.int32), np.array(lines, np.int32), "line")


def of_rows(files: Sequence[str], counts: Sequence[int]) -> Origin:
    """Origin of all rows of several files, one file after the other."""
    number_N = np.concatenate([np.empty(0, np.int32), *_ranges(counts)])
    return Origin(tuple(files), np.repeat(np.arange(len(files), dtype=np.int32), counts), number_N, "row")


def _ranges(counts: Sequence[int]) -> Iterator[Numbers]:
    return (np.arange(count, dtype=np.int32) for count in counts)
