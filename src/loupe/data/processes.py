"""Child processes for work that Python's lock would serialise, such as decoding thousands of tiny images.

Two threads decode 32 px images more slowly than one; two processes nearly twice as fast. The children run `serve`. They
are not from `multiprocessing`, which imports the caller's main module again and so runs a script without a `__main__`
guard twice. They share nothing and are not forked. A child ends when its parent does, also in the midst of its work; a
child that is stopped is ended, and this process does its work.
"""

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from loupe import ranks
from loupe.log import logger

P = TypeVar("P")
R = TypeVar("R")

_WATCH_SECONDS = 0.5
_BOOT = (
    "import json, signal, sys; from importlib import import_module; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); "  # Ctrl-C reaches the whole group; the parent handles it
    "sys.path[:] = json.loads(sys.argv[1]); import_module(sys.argv[2]).serve(*map(json.loads, sys.argv[3:]))"
)


def worker_count() -> int:
    """Number of cores that this process may use: its share of them where the machine has several ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks.on_machine().count)


class Processes:
    """Context manager that runs functions in child processes; `run` may be called from as many threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._all: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        with suppress(OSError):  # without child processes, `run` works in this process
            for _ in range(self._count):
                child = subprocess.Popen(command(__name__), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._all.append(child)
                self._free.put(child)
        if self._all and hasattr(os, "waitid"):
            threading.Thread(target=self._watch, name="loupe-watch", daemon=True).start()
        return self

    def _watch(self) -> None:
        """End children that are stopped (SIGSTOP, a debugger): whoever waits for one then does its work itself.

        A child is ended when it is found stopped twice: on Ctrl-Z all processes stop and go on together.
        """
        before: set[int] = set()
        while not self._closed.wait(_WATCH_SECONDS):
            stopped = {child.pid for child in self._all if is_stopped(child.pid)}
            for child in self._all:
                if child.pid in stopped & before:
                    logger.warning(f"process {child.pid} was stopped from outside: its work is done here.")
                    child.kill()
            before = stopped

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
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

        Raises:
            CancelledError: the context is left.
        """
        try:
            child = self._free.get_nowait()
        except queue.Empty:
            return work(payload)
        try:
            assert child.stdin is not None and child.stdout is not None
            _send(child.stdin, (work, payload))
            result: R = pickle.load(child.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            if self._closed.is_set():  # nobody waits for the result
                raise CancelledError from None
            return work(payload)
        self._free.put(child)
        return result


def command(module: str, *arguments: Any) -> list[str]:
    """Command of a child process that calls the function `serve` of a module.

    Args:
        module: name of the module.
        arguments: values for the function that JSON can hold.
    """
    return [sys.executable, "-c", _BOOT, json.dumps(sys.path), module, *map(json.dumps, arguments)]


def is_stopped(pid: int) -> bool:
    """True for a child process that is stopped; its status is left for whoever waits for it."""
    with suppress(OSError):  # it has ended, and was waited for
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def serve() -> None:
    """Main loop of a child: return results until the parent closes the pipe or exits."""
    answers = open_answers()
    with suppress(EOFError, OSError):
        while True:
            work, payload = pickle.load(sys.stdin.buffer)
            _send(answers, work(payload))


def open_answers() -> IO[bytes]:
    """Stream of a child's answers to its parent; from here on, the child ends with its parent."""
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    return answers


def end_with_parent(parent: int) -> None:
    """End this process when its parent has ended, also in the midst of a long image."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_WATCH_SECONDS)
    os._exit(1)


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()
