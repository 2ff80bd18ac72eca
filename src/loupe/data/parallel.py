"""One function over all images of a table: in chunks, in parallel, in order, with a progress bar."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from loupe.data.processes import Processes
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import progress_bar

T = TypeVar("T")

_SMALL_FILE_BYTES = 6 * 1024
"""Below this, on the average, decoding an image takes less than the threads' handing over of Python's lock."""
PROCESSES_PAY_IMAGES = 8_000
"""As many small images take about as long to decode as two processes take to start, several times over."""
_PROBED_IMAGES = 32


@dataclass(frozen=True)
class File:
    """An image file of a table; `data` is the error where it cannot be read."""

    index: int
    path: str
    data: bytes | ImageError


def in_parallel(
    table: ImageTable, work: Callable[[list[File]], T], *, chunk: int, description: str
) -> Generator[T, None, None]:
    """`work` on the image files of consecutive ranges of at most `chunk` rows, in order of the rows.

    `work` raises nothing and is picklable: threads run it, or processes where the images are many and small, or this
    thread alone where they are few and small. Close the generator to stop early.
    """

    def read(part: range) -> list[File]:
        return [_file(table, i) for i in part]

    workers, small = worker_count(), _small_files(table)
    many = len(table) >= PROCESSES_PAY_IMAGES
    children = workers if small and many and workers > 1 and not hasattr(sys, "frozen") else 0
    with Processes(children) as processes:
        yield from in_chunks(
            lambda part: processes.run(work, read(part)),
            len(table),
            chunk=chunk,
            workers=1 if small and not children else workers,
            description=description,
        )


def worker_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_chunks(
    function: Callable[[range], T], images: int, *, chunk: int, workers: int, description: str
) -> Generator[T, None, None]:
    """`function(range)` for consecutive ranges of at most `chunk` images, in order of the ranges.

    With one worker no thread is started. Few results wait at a time, so memory does not grow with the number of
    images; closing the generator (an error, Ctrl-C) drops what has not begun.
    """
    ranges = [range(start, min(start + chunk, images)) for start in range(0, images, chunk)]
    with progress_bar() as progress:
        task = progress.add_task(description, total=images, note="")
        for part, result in zip(ranges, _results(function, ranges, workers), strict=True):
            progress.advance(task, len(part))
            yield result


def _results(function: Callable[[range], T], ranges: list[range], workers: int) -> Iterator[T]:
    if workers <= 1 or len(ranges) <= 1:
        yield from map(function, ranges)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loupe-data")
    waiting: deque[Future[T]] = deque()
    try:
        for part in ranges:
            waiting.append(pool.submit(function, part))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _file(table: ImageTable, i: int) -> File:
    try:
        return File(i, table.paths[i], table.encoded(i))
    except ImageError as error:
        return File(i, table.paths[i], error)


def _small_files(table: ImageTable) -> bool:
    """Whether the images are small, judging by a few of them."""
    step = max(1, len(table) // _PROBED_IMAGES)
    sizes = [len(file.data) for i in range(0, len(table), step) if isinstance((file := _file(table, i)).data, bytes)]
    return bool(sizes) and sum(sizes) < _SMALL_FILE_BYTES * len(sizes)
