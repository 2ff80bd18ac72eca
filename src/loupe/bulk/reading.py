"""Readers of the bytes of planned images, one for each kind of source."""

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loupe.bulk.output import AGAIN
from loupe.bulk.parquet_rows import ROWS, file_of_rows, open_rows
from loupe.bulk.plan import Plan, PlanRecord, Unit
from loupe.bulk.remote import REMOTE, open_remote
from loupe.bulk.shards import SHARDS, open_shards, tar_here
from loupe.bulk.source import Listed
from loupe.data.parallel import File
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DiskError, ImageError, LoupeError, NotEnoughMemoryError

Reader = Callable[[PlanRecord, Unit], Callable[[int], bytes]]
"""Opens a unit: a function from the number of a row to the bytes of its image, for threads, that raises ImageError."""


def _table(record: PlanRecord, rows: Sequence[Listed]) -> ImageTable:
    paths = make_rows(n=len(rows), path=[row.place or row.path for row in rows], label=None)
    return ImageTable(paths, classes=(), name="images", root=Path(record.root))


def _files(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    return _table(record, unit.rows).encoded


def _file(record: PlanRecord, row: Listed) -> Path | None:
    return _table(record, [row]).file(0)


FILES = "files"
READERS: Mapping[str, Reader] = {FILES: _files, SHARDS: open_shards, REMOTE: open_remote, ROWS: open_rows}
HERE: Mapping[str, Callable[[PlanRecord, Listed], Path | None]] = {
    FILES: _file,
    SHARDS: tar_here,
    REMOTE: lambda record, row: None,
    ROWS: file_of_rows,
}
"""Files of this disk that hold the bytes of an image; None where they lie elsewhere."""


OF_THE_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
    | {errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EILSEQ, errno.ENXIO}
)
"""Errors of one file or of its name. Others are of a disk, a network or the process, and may pass."""
GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
ATTEMPTS, PAUSE_SECONDS = 2, 0.2


def read(unit: Unit, encoded: Callable[[int], bytes], row: int) -> File:
    """Image file of a row; its error where the row has a problem or the file is missing or must not be read.

    Raises:
        DiskError: it cannot be read for another reason, also at the second attempt.
        NotEnoughMemoryError: there is no memory for it.
        LoupeError: its shard or store cannot be read.
    """
    listed = unit.rows[row]
    if listed.problem is not None:
        return File(row, listed.path, ImageError(listed.path, listed.problem))
    failure: Exception
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            return File(row, listed.path, encoded(row))
        except ImageError as error:
            if not isinstance(error.__cause__, OSError) or is_of_the_file(error.__cause__):
                return File(row, listed.path, error)
            failure = error.__cause__
        except (OSError, MemoryError) as error:
            failure = error
    raise temporary(listed.path, failure)


def unread(files: Sequence[File]) -> dict[int, bool]:
    """Rows of the files that the system did not find or open; True for those that are not there."""
    causes = {file.index: file.data.__cause__ for file in files if isinstance(file.data, ImageError)}
    return {row: cause.errno in GONE for row, cause in causes.items() if isinstance(cause, OSError)}


def read_here(plan: Plan, units: Sequence[int]) -> list[Path]:
    """Files of this disk with the first and the last image of some units; without images that cannot be read.

    Args:
        plan: plan of the units.
        units: their numbers, in order.

    Raises:
        RecordError: the plan is damaged.
    """
    find, found = HERE[plan.record.asked.kind], []
    for rows in (plan.unit(units[0]).rows, plan.unit(units[-1]).rows[::-1]):
        files = (find(plan.record, row) for row in rows if row.problem is None)
        found += [next((file for file in files if file is not None and os.path.exists(file)), None)]  # noqa: PTH110
    return list(dict.fromkeys(file.absolute() for file in found if file is not None))


def is_of_the_file(error: OSError) -> bool:
    """True for an error of one file: its row says so. Others end the prediction, since they may pass."""
    return error.errno in OF_THE_FILE


def temporary(path: str, error: Exception) -> LoupeError:
    """Error that ends a prediction at a file that may be intact."""
    if isinstance(error, MemoryError):
        return NotEnoughMemoryError(f"{path}: not enough memory to read or decode it. Free some. {AGAIN}")
    assert isinstance(error, OSError)
    return DiskError(
        f"{error.filename or path}: cannot be read: {error.strerror or error}. Check its disk. An image that is beyond "
        f"repair may be removed: its row then says so. {AGAIN}"
    )
