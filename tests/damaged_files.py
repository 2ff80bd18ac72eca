"""Reads of damaged files in a process of their own: where native code dies or hangs, one test fails, and says which."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from pathlib import Path
from types import TracebackType
from typing import Self

from child_processes import start
from loupe.data.sources.inference_list import open_inference_list
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import ImageError, LoupeError

SECONDS = 30  # a read takes some milliseconds
LISTS = frozenset({".parquet", ".csv", ".tsv", ".jsonl"})


def readers(file: Path) -> list[Callable[[Path], object]]:
    """Functions that read a file, to train and to predict."""
    to_predict = lambda path: open_inference_list(path, ReadOptions.of()).table  # noqa: E731
    return [open_table, to_predict] if file.suffix in LISTS else [open_table]


def read_all(file: Path) -> None:
    """Open a source, to train and to predict, and read its images. Errors of Loupe are expected."""
    for read in readers(file):
        try:
            table = read(file)
        except LoupeError:
            continue
        for i in range(len(table)):
            try:
                table.encoded(i)
            except ImageError:
                continue


def serve() -> None:
    """Main loop of the process: an empty line for each file that was read, else the exception that left it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    for line in sys.stdin:
        try:
            read_all(Path(line.rstrip("\n")))
            answer = ""
        except Exception as error:
            answer = repr(error)
        print(ascii(answer), file=answers, flush=True)


class OwnProcess:
    """Context manager that reads files in a process of its own, which is started again after it died."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        self._thread.shutdown()

    def read(self, file: Path) -> str:
        """Read a file whole. Returns the exception that left Loupe, the end of the process, or nothing."""
        if self._child is None:
            self._child = start("import faulthandler, damaged_files; faulthandler.enable(); damaged_files.serve()")
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        print(file, file=child.stdin, flush=True)
        try:
            answer = self._thread.submit(child.stdout.readline).result(SECONDS)
        except TooLong:
            self._end()
            return f"it is still read after {SECONDS} s"
        if not answer:
            self._end()
            return f"its reader ended with status {child.returncode}"
        return answer.strip()[1:-1]

    def _end(self) -> None:
        """End the process; a thread that waits for its answer goes on."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._thread.submit(self._child.communicate).result()
            self._child = None
