"""`--processes N`: the command in N processes on this machine, as torchrun starts them, and one end for all of them.

Each process gets the environment of torchrun. Signals go to all of them. Where one ends before its time, the others
end with it.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

from loupe import ranks
from loupe.cli.signals import SIGNALLED, SIGNALS
from loupe.errors import ConfigError, counted
from loupe.log import logger, printable
from loupe.openmp import cores

GRACE_SECONDS = 5.0  # for the others to end by themselves after one has ended
STOP_SECONDS = 1.0  # after one was stopped alone, until the others are asked to stop
LOST = 75  # exit code of a process that ends because another has: EX_TEMPFAIL of sysexits.h
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
MODULE = ("-m", "loupe")


def start_processes(number: int | None) -> None:
    """Run this command in so many processes and end with its exit code; return in one of these, and where one is asked.

    Raises:
        ConfigError: torchrun has started another number of processes on this machine.
        SystemExit: the processes have ended.
    """
    started = ranks.in_environment()
    if not started.alone:
        if number not in (None, started.local_count):
            raise ConfigError(
                f"--processes {number}: torchrun has started {started.local_count} on this machine. Give one of both."
            )
        return
    if number is None or number == 1:
        return
    if number > cores():
        logger.warning(f"{number} processes take turns on {counted(cores(), 'core')}.")
    with CommandProcesses(number) as processes:
        code = processes.wait()
    sys.exit(code)  # click takes an exit with 130 for an interruption, which is told already


def free_port() -> int:
    """Port of the loopback interface that nobody listens on now."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def environments(number: int, given: Mapping[str, str] = os.environ) -> Iterator[dict[str, str]]:
    """Environment of each process, in the order of their ranks."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    if sys.platform in LOOPBACK and "GLOO_SOCKET_IFNAME" not in given:
        shared["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]  # otherwise it listens where the host's name leads
    if "OMP_NUM_THREADS" not in given:
        shared["OMP_NUM_THREADS"] = max(1, cores() // number)
    for rank in range(number):
        own = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        yield {**given, **{name: str(value) for name, value in own.items()}}


def follow_launcher() -> None:
    """End this process, as by SIGTERM, when the launcher that has started it is gone: it closes standard input."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        if ranks.is_main():  # nobody else is left to do it
            atexit.register(shutil.rmtree, Path(os.environ[ranks.LAUNCHER]).parent, ignore_errors=True)
        signal.raise_signal(signal.SIGTERM) if os.name == "nt" else os.kill(os.getpid(), signal.SIGTERM)

    if ranks.LAUNCHER in os.environ:
        threading.Thread(target=wait, name="loupe-launcher", daemon=True).start()


class CommandProcesses:
    """The processes of a command, which end together.

    Attributes:
        is_heeded: True, so that a signal does not end the launcher before them.
    """

    is_heeded = True

    def __init__(self, number: int) -> None:
        self._number = number
        self._folder = tempfile.TemporaryDirectory(prefix="loupe-processes-", ignore_cleanup_errors=True)
        self._resume = Path(self._folder.name) / "resume"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended_by_us: set[int] = set()
        self._failed: float | None = None
        self._signal: int | None = None

    def __enter__(self) -> Self:
        try:
            with _signals_held_back():
                for environment in environments(self._number):
                    self._processes.append(self._start(environment))
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise ConfigError(
                    f"process {len(self._processes) + 1} of {self._number} cannot be started: "
                    f"{error.strerror or error}. Give fewer --processes."
                ) from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()
        self._folder.cleanup()

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        by_module = Path(sys.argv[0]).name == "__main__.py"  # then the current folder is searched for modules, else not
        program = [sys.executable, *(MODULE if by_module else ("-P", *MODULE))]
        return subprocess.Popen(
            [*program, *sys.argv[1:]],
            env={**environment, ranks.LAUNCHER: str(self._resume)},
            stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
        )

    def wait(self) -> int:
        """Exit code of the command, once all processes have ended."""
        with _handled(self._pass_on):
            while running := [rank for rank, process in enumerate(self._processes) if process.poll() is None]:
                self._end_with_failed(running)
                time.sleep(0.05)
        return self._code()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number
        for process in self._processes:
            with suppress(OSError):
                process.send_signal(number)

    def _end_with_failed(self, running: list[int]) -> None:
        """End the processes that still run some seconds after one has failed."""
        codes = [process.returncode for process in self._processes if process.returncode]
        if not codes:
            return
        now = time.monotonic()
        self._failed = self._failed or now
        if now - self._failed > GRACE_SECONDS:
            for rank in running:
                self._ended_by_us.add(rank)
                self._processes[rank].kill()
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # the cursor, which progress bars hide
        elif now - self._failed > STOP_SECONDS and self._signal is None and any(map(_stopped_by, codes)):
            self._pass_on(next(filter(None, map(_stopped_by, codes))), None)

    def _code(self) -> int:
        codes = {rank: process.returncode for rank, process in enumerate(self._processes)}
        stops = [number for code in codes.values() if (number := _stopped_by(code))]
        killed = {
            rank: code
            for rank, code in codes.items()
            if code < 0 and rank not in self._ended_by_us and not _stopped_by(code)
        }
        if killed:
            print(f"error: {self._of_killed(killed)}", file=sys.stderr)
            return 1
        if stops:
            return SIGNALLED + (self._signal or stops[0])
        if self._signal and any(codes.values()):
            print("stopped.", file=sys.stderr)
            return SIGNALLED + self._signal
        told = [code for code in codes.values() if code > 0 and code != LOST]
        if not told and any(codes.values()):
            print(f"error: the processes have lost each other. {self._remedy()}", file=sys.stderr)
            return 1
        return told[0] if told else 0

    def _of_killed(self, killed: dict[int, int]) -> str:
        """Sentence on processes that a signal has ended, by rank with their return codes."""
        rank, code = next(iter(killed.items()))
        others = f" and {len(killed) - 1} more" if len(killed) > 1 else ""
        why = ", perhaps for lack of memory" if -code == getattr(signal, "SIGKILL", None) else ""
        was = "was killed" if len(killed) == 1 else "were killed"
        return f"process {rank + 1} of {self._number}{others} {was} ({_name(-code)}){why}. {self._remedy()}"

    def _remedy(self) -> str:
        with suppress(OSError):
            return f"Resume with: {printable(self._resume.read_text(encoding='utf-8'))}"
        return "Nothing was trained yet: give the same command again."


def _stopped_by(code: int) -> int | None:
    """Signal by which a user has stopped a process with this return code."""
    number = -code if code < 0 else code - SIGNALLED
    return number if number in SIGNALS else None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold signals back in the processes started in the block, until `CommandSignals` can handle them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals of `CommandSignals` with another function."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, known in before.items() if known is not signal.SIG_IGN and known is not None]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
