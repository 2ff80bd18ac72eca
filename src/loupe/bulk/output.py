"""Output of a prediction in bulk: one Parquet file, or a folder of parts; locked while it is written.

Beside a file `OUT.parquet` stands the folder `OUT.parquet.parts` until the file is there; in a folder stands `_plan`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from loupe.bulk.parts import part_name, read_part, schema
from loupe.bulk.plan import IMAGES, PLAN, PlanRecord
from loupe.errors import ConfigError, RunStateError
from loupe.files import replacing, sync_folder
from loupe.records import CheckedRecord, Whole, parse

SUFFIXES = frozenset({".parquet", ".pq"})
PARTS, IN_FOLDER, LOCK = ".parts", "_plan", "lock"
SUMMARY, SUMMARY_KEY = "_predictions.json", b"loupe.predictions"  # of a folder, and in the metadata of a file
GROUP_ROWS, GROUP_BYTES = 65_536, 32 * 2**20  # of a row group in the file; parts are joined up to one of them
AGAIN = "Give the same command again: it goes on from here."


class Summary(CheckedRecord):
    """Content of `_predictions.json`, which says that a folder of parts is complete; and of the metadata of a file.

    Attributes:
        plan: record of the plan.
        labels: number of images of each label.
        damaged: number of images that could not be read or decoded.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Choose another folder with --to, or remove this one."

    plan: PlanRecord
    labels: dict[str, Whole]
    damaged: Whole


@dataclass(frozen=True)
class Output:
    """Place of the result.

    Attributes:
        path: file or folder to write.
        is_folder: True for a folder of parts.
    """

    path: Path
    is_folder: bool

    @property
    def plan_folder(self) -> Path:
        """Folder of the plan and the lock."""
        return self.path / IN_FOLDER if self.is_folder else self.path.with_name(self.path.name + PARTS)

    @property
    def parts_folder(self) -> Path:
        return self.path if self.is_folder else self.plan_folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Folder of the plan, made where it is missing, and its lock.

        Raises:
            RunStateError: another process writes this output.
            OSError: the folder cannot be written.
        """
        is_new = self.is_folder and not self.path.is_dir()
        if is_new:
            self.path.mkdir(exist_ok=True)
        self.plan_folder.mkdir(exist_ok=True)
        lock = FileLock(self.plan_folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunStateError(
                f"{self.path} is being written by another process. Wait for it, or choose another --to."
            ) from None
        try:
            yield
        finally:
            if os.name == "nt":  # where the file of a lock that is held cannot be removed
                lock.release()
            self._tidy(is_new=is_new)
            lock.release()

    def _tidy(self, *, is_new: bool) -> None:
        """Remove the folder of the plan where there is no plan in it, and a new folder in which nothing was written."""
        if (self.plan_folder / PLAN).is_file():
            return
        with suppress(OSError):  # it has other files
            (self.plan_folder / LOCK).unlink(missing_ok=True)
            self.plan_folder.rmdir()
            if is_new:
                self.path.rmdir()

    def check(self) -> None:
        """Check that the output can be written, and is no file or folder of another kind.

        Raises:
            ConfigError: it is, or its folder does not exist.
        """
        if not self.path.absolute().parent.is_dir():
            raise ConfigError(f"--to {self.path}: its folder does not exist. Create it, or choose another.")
        for folder in (self.path, self.plan_folder) if self.is_folder else (self.plan_folder,):
            if os.path.lexists(folder) and not folder.is_dir():
                raise ConfigError(f"--to {self.path}: {folder} is a file, where a folder is needed. Choose another.")
        self.finished()

    def finished(self) -> Summary | None:
        """Summary of a result that is complete; None where there is none.

        Raises:
            ConfigError: there is another file, or a folder with other files, at the path.
        """
        if self.is_folder:
            return self._finished_folder()
        if not os.path.lexists(self.path):
            return None
        try:
            found = (pq.read_metadata(self.path).metadata or {})[SUMMARY_KEY]
            return Summary.of(parse(found), self.path)
        except (OSError, ValueError, KeyError, pa.ArrowException):
            raise ConfigError(
                f"--to {self.path} exists and was not written by `loupe predict`. Choose another file with --to."
            ) from None

    def _finished_folder(self) -> Summary | None:
        if (self.path / SUMMARY).is_file():
            summary = Summary.read(self.path / SUMMARY)
            parts = map(part_name, range(summary.plan.units))
            if missing := next((name for name in parts if not (self.path / name).is_file()), None):
                raise RunStateError(f"{self.path} was complete and lacks {missing}. {Summary.REMEDY}")
            return summary
        if not self.path.is_dir() or (self.plan_folder / PLAN).is_file():
            return None
        if others := sorted(entry for entry in os.listdir(self.path) if entry != IN_FOLDER):  # noqa: PTH208
            raise ConfigError(
                f"--to {self.path} is a folder with other files, such as {others[0]}. Give a file, for example "
                f"{self.path / 'predictions.csv'} or {self.path / 'predictions.parquet'}, or a new or empty folder."
            )
        return None

    def remove_leftovers(self) -> None:
        """Remove temporary files of a process that was killed."""
        for folder in {self.plan_folder, self.parts_folder}:
            for file in folder.glob(".*.part"):
                file.unlink(missing_ok=True)

    def finish(self, summary: Summary) -> bool:
        """Write the result from its parts, and remove the plan; False where parts are damaged, which were removed.

        Raises:
            OSError: the file cannot be written.
        """
        if self.is_folder:
            summary.write(self.path / SUMMARY)
        elif not self._join(summary):
            return False
        self.remove_plan(summary.plan)
        return True

    def _join(self, summary: Summary) -> bool:
        """Join the parts to one file, in row groups of some tens of thousands of rows; False where one is damaged."""
        columns = schema(summary.plan).with_metadata({SUMMARY_KEY: json.dumps(summary.to_json()).encode()})
        beside = self.plan_folder / self.path.name
        with (
            replacing(beside) as file,
            pq.ParquetWriter(file, columns, compression="zstd", write_page_checksum=True) as writer,
        ):
            whole = True
            for group in self._row_groups(summary.plan):
                if group is None:
                    whole = False
                elif whole:
                    writer.write_table(group.replace_schema_metadata(columns.metadata), row_group_size=len(group))
        if whole:
            beside.replace(self.path)
            sync_folder(self.path.parent)
        else:
            beside.unlink()
        return whole

    def _row_groups(self, record: PlanRecord) -> Iterator[pa.Table | None]:
        """Rows of the parts, joined to row groups; None for each damaged part."""
        held: list[pa.Table] = []
        for number in range(record.units):
            table = read_part(self.parts_folder, number)
            if table is None:
                yield None
                continue
            held.append(table)
            if sum(map(len, held)) >= GROUP_ROWS or sum(part.nbytes for part in held) >= GROUP_BYTES:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def remove_plan(self, record: PlanRecord) -> None:
        """Remove the plan, the parts of a file, and what a killed process left of them. Other files stay."""
        self.remove_leftovers()
        for name in (PLAN, IMAGES):
            (self.plan_folder / name).unlink(missing_ok=True)
        if not self.is_folder:
            for number in range(record.units):
                (self.plan_folder / part_name(number)).unlink(missing_ok=True)


def output_of(to: str) -> Output | None:
    """Output that `--to` names: a Parquet file by its suffix, a folder that exists or ends in a slash; else None."""
    path = Path(os.path.expanduser(to))  # noqa: PTH111 - pathlib's raises for an unknown user
    if to.endswith(("/", os.sep)) or path.is_dir():
        return Output(path, is_folder=True)
    return Output(path, is_folder=False) if path.suffix.lower() in SUFFIXES else None
