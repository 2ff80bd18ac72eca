"""Helper processes for work that Python's lock would serialise: thousands of images so small that decoding one takes
less than handing the lock over. Two threads decode 32 px images slower than one; two processes, nearly twice as fast.

They are plain child processes that run `serve`, not `multiprocessing`'s: these import the caller's main module again,
and so start a script that lacks the `__main__` guard a second time. Nothing is shared and nothing forked, on any
system.
"""

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self, TypeVar

P = TypeVar("P")
R = TypeVar("R")

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from loupe.data.processes import serve; serve()"


class Processes:
    """A context that runs functions in child processes; as many threads as there are children may call `run` at
    once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._all: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
        with suppress(OSError):  # where no process can be started, `run` does the work itself
            for _ in range(self._count):
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._all.append(child)
                self._free.put(child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._all:
            child.kill()  # it holds nothing: all that was asked has been answered, or is no longer wanted
        for child in self._all:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def run(self, work: Callable[[P], R], payload: P) -> R:
        """`work(payload)`, by a child that is free; both are picklable, and `work` raises nothing.

        Should a child have died (no memory), the work is done here.
        """
        try:
            child = self._free.get_nowait()
        except queue.Empty:
            return work(payload)
        try:
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin, (work, payload))
            result: R = pickle.load(child.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            return work(payload)
        self._free.put(child)
        return result


def serve() -> None:
    """The life of a child: answer until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up between the answers
    with suppress(EOFError, OSError):
        while True:
            work, payload = pickle.load(sys.stdin.buffer)
            _send(answers, work(payload))


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()
