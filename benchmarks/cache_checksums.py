"""The price of verifying a kept array: seconds of reading all of it with and without its checksums.

    python benchmarks/cache_checksums.py [--images 3500] [--side 224] [--repeats 5]

`warm`: the file is in the memory of the system. `cold`: it is dropped from there before each reading (Linux only).
Images are read 64 at a time, in a random order, as an epoch reads them.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from loupe.data import array_file
from loupe.data.array_file import ArrayRecord
from loupe.data.checksums import BlockChecksums

BATCH_IMAGES = 64


def write(file: Path, images: int, side_px: int) -> None:
    """Write random pixels with their checksums."""
    random, sums = np.random.default_rng(0), BlockChecksums()
    shape = (images, side_px, side_px, 3)
    with file.open("wb") as out:
        array_file.write_header(out, shape, np.uint8)
        for _ in range(images):
            pixels = random.integers(0, 256, side_px * side_px * 3, dtype=np.uint8)
            out.write(pixels.data)
            sums.add(pixels)
        out.flush()
        os.fsync(out.fileno())
    record = ArrayRecord(shape=shape, dtype="|u1", rows=images, checksums=sums.all())
    record.write(file.with_name(array_file.RECORD))


def forget(file: Path) -> None:
    """Drop the file from the memory of the system."""
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(file: Path, order_N: np.ndarray, *, verify: bool, cold: bool) -> float:
    """Seconds of opening the array and reading every image once."""
    if cold:
        forget(file)
    began = time.perf_counter()
    pixels = array_file.verified(file)[0] if verify else array_file.mapped(file)
    for start in range(0, len(order_N), BATCH_IMAGES):
        np.take(pixels, order_N[start : start + BATCH_IMAGES], axis=0).astype(np.float32)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3500)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = Path(folder) / "pixels.npy"
        write(file, given.images, given.side)
        order_N = np.random.default_rng(1).permutation(given.images)
        print(f"{given.images:,} images of {given.side} px, {file.stat().st_size / 2**20:,.0f} MiB")
        for cold in (False, True) if hasattr(os, "posix_fadvise") else (False,):
            plain, verified = [], []
            for _ in range(given.repeats):  # in turns, so that a busy machine slows both
                plain.append(seconds(file, order_N, verify=False, cold=cold))
                verified.append(seconds(file, order_N, verify=True, cold=cold))
            before, after = min(plain), min(verified)  # of a shared machine, the least disturbed
            name = "cold" if cold else "warm"
            print(f"{name}: {before:.3f} s without, {after:.3f} s with checksums: {100 * (after / before - 1):+.1f} %")


if __name__ == "__main__":
    main()
