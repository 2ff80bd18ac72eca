"""Longest value of a dictionary page of a Parquet file, which bounds the rows that can be read at once.

A dictionary has a million short values as well as a few that are large; its size alone would allow for few rows.
https://parquet.apache.org/docs/file-format/data-pages/encodings/
"""

import pyarrow as pa

MOST_VALUES = 2**22
"""Number of values, of all dictionaries of a file, whose lengths are read. They take less than a second."""
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_UNCOMPRESSED = 0
_LENGTH_BYTES = 4


def longest_value(page: bytes, codec: int, size: int, values: int) -> int:
    """Length of the longest value of a dictionary of texts or bytes; `size` where that cannot be read.

    Args:
        page: dictionary page as in the file.
        codec: number of its compression.
        size: length of the page without compression.
        values: number of values that its header states, of which no reader takes more.
    """
    try:
        data = page if codec == _UNCOMPRESSED else pa.decompress(page, size, _CODECS[codec], asbytes=True)
    except (KeyError, pa.ArrowException, OSError, ValueError):
        return size
    longest = place = 0
    for _ in range(values):
        length = int.from_bytes(data[place : place + _LENGTH_BYTES], "little")
        place += _LENGTH_BYTES + length
        if length > longest:
            longest = length
    return longest if place <= len(data) else size
