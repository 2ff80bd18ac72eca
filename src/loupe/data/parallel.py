"""Parallel map over the images of a table: in chunks, in order, with a progress bar."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from loupe.data.processes import Processes, worker_count
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import progress_bar

P = TypeVar("P")
T = TypeVar("T")

SMALL_FILE_BYTES = 6 * 1024
"""Below this average size, decoding an image takes less time than passing Python's lock between threads."""
PROCESSES_PAY_IMAGES = 8_000
"""Number of small images whose decoding takes several times as long as starting two processes."""
_PROBED_IMAGES = 32


@dataclass(frozen=True)
class File:
    """Image file of a table; `data` is an error if it cannot be read."""

    index: int
    path: str
    data: bytes | ImageError


def in_parallel(
    table: ImageTable,
    work: Callable[[list[File]], T],
    *,
    chunk: int,
    description: str,
    rows: Sequence[int] | None = None,
) -> Generator[T, None, None]:
    """Results of `work` for consecutive chunks of image files, in the order of the rows.

    Threads run it; processes for many small images; this thread alone for few small images. Close the generator to
    stop early.

    Args:
        table: images.
        work: picklable function that does not raise.
        chunk: largest number of rows in a chunk.
        description: text of the progress bar.
        rows: rows whose images are read; all by default.
    """
    wanted = range(len(table)) if rows is None else rows
    if table.shards is not None:
        table.shards.expect(wanted)

    def read(part: range) -> list[File]:
        return [_file(table, i) for i in wanted[part.start : part.stop]]

    workers, small = worker_count(), _small_files(table, wanted)
    many = len(wanted) >= PROCESSES_PAY_IMAGES
    children = workers if small and many and workers > 1 and not hasattr(sys, "frozen") else 0
    with Processes(children) as processes:
        yield from in_chunks(
            lambda part: processes.run(work, read(part)),
            len(wanted),
            chunk=chunk,
            workers=1 if small and not children else workers,
            description=description,
        )


def in_chunks(
    function: Callable[[range], T], images: int, *, chunk: int, workers: int, description: str
) -> Generator[T, None, None]:
    """Results of `function(range)` for consecutive ranges of at most `chunk` images, in order.

    One worker starts no thread. The number of pending results is bounded, so memory does not grow with the number of
    images. Closing the generator (an error, Ctrl-C) cancels ranges that have not begun.
    """
    ranges = [range(start, min(start + chunk, images)) for start in range(0, images, chunk)]
    with progress_bar() as progress:
        task = progress.add_task(description, total=images, note="")
        for rows, result in zip(ranges, in_order(function, ranges, workers if len(ranges) > 1 else 1), strict=True):
            progress.advance(task, len(rows))
            yield result


def in_order(function: Callable[[P], T], tasks: Iterable[P], workers: int) -> Generator[T, None, None]:
    """Results of a function for each task, in order, a bounded number of them computed ahead by threads.

    Tasks are drawn as they are needed. One worker starts no thread. Closing the generator cancels tasks that have not
    begun.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loupe-data")
    waiting: deque[Future[T]] = deque()
    wait = True
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except (GeneratorExit, KeyboardInterrupt):
        wait = False  # a task may take long, and its result is not needed
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


def _file(table: ImageTable, i: int) -> File:
    try:
        return File(i, table.paths[i], table.encoded(i))
    except ImageError as error:
        return File(i, table.paths[i], error)


def _small_files(table: ImageTable, rows: Sequence[int]) -> bool:
    """True if the images of a small sample of the rows are small on average."""
    probed = rows[:: max(1, len(rows) // _PROBED_IMAGES)]
    if table.shards is not None and table.shards.exceed_cache:
        probed = table.shards.sample(rows, _PROBED_IMAGES).tolist()
    sizes = [len(file.data) for i in probed if isinstance((file := _file(table, i)).data, bytes)]
    return bool(sizes) and sum(sizes) < SMALL_FILE_BYTES * len(sizes)
