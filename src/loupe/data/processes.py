"""Child processes for work that Python's lock would serialise, such as decoding thousands of tiny images.

Two threads decode 32 px images more slowly than one; two processes nearly twice as fast. The children run `serve`. They
are not from `multiprocessing`, which imports the caller's main module again and so runs a script without a `__main__`
guard twice. They share nothing and are not forked.
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
    """Context manager that runs functions in child processes; `run` may be called from as many threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._all: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
        with suppress(OSError):  # without child processes, `run` works in this process
            for _ in range(self._count):
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._all.append(child)
                self._free.put(child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._all:
            child.kill()  # it has no state; all results were received or are no longer needed
        for child in self._all:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def run(self, work: Callable[[P], R], payload: P) -> R:
        """Result of `work(payload)` from a free child; in this process if there is none or it died.

        Both arguments are picklable, and `work` does not raise.
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
    """Main loop of a child: return results until the parent closes the pipe or exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent handles it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the results
    with suppress(EOFError, OSError):
        while True:
            work, payload = pickle.load(sys.stdin.buffer)
            _send(answers, work(payload))


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()
