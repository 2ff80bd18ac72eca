"""Ctrl-C and SIGTERM on the command line: one exception, one line, the exit code of the signal, within two seconds.

Python calls a handler only between two of its own instructions, and the main thread may be in a library for long. So a
thread watches the signals too. Only a training that has begun to save itself may take longer.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

PATIENCE_SECONDS = 2.0
ASK_AGAIN_SECONDS = 1.5
END_SECONDS = 1.9
RANKS_SECONDS = 6.0  # in place of END_SECONDS where processes have to agree to stop, each after a step
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128  # plus the number of the signal: the exit code


class CommandSignals:
    """Context in which the first signal raises KeyboardInterrupt, so that everything is tidied up.

    Further ones are ignored for two seconds, while that happens, and then end the process at once. If it still runs
    after `END_SECONDS`, it ends without being tidied up: all files of Loupe are replaced whole.

    Attributes:
        own_process: True to handle signals after the context too, until the process ends: one that comes then ends it
            at once.
        exit_code: 128 plus the number of the signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
        final_code: exit code of the process; None until it is known.
        end_seconds: time from the signal to the end of the process, at most.
    """

    def __init__(self, *, own_process: bool = False) -> None:
        self.own_process = own_process
        self.final_code: int | None = None
        self.exit_code = SIGNALLED + signal.SIGINT
        self.end_seconds = END_SECONDS
        self._first: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._report = sys.unraisablehook
        self._sent = False
        self._closed = threading.Event()
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN and handler is not None:  # as nohup has it
                    self._before[number] = signal.signal(number, self._handle)
            sys.unraisablehook = self._unraisable
            self._start_watch()
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher of ranks holds them back until here
        return self

    def _start_watch(self) -> None:
        reader, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="loupe-signals", daemon=True).start()

    def _watch(self, reader: socket.socket) -> None:
        while (received := reader.recv(1)) and received[0] not in self._before:
            pass  # a signal that ends nothing
        if not received:
            reader.close()
            return
        self._sent = True
        ask_again = self.end_seconds - (END_SECONDS - ASK_AGAIN_SECONDS)
        if self._closed.wait(ask_again):
            return
        number = signal.Signals(received[0])
        if self._first is None and not _is_saving(number):  # a step of a training takes long
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                signal.raise_signal(number)
        if self._closed.wait(self.end_seconds - ask_again) or _is_saving(number):
            return
        os.write(2, b"stopped.\n")
        _end(SIGNALLED + number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After a signal the process ends, and later ones must not be reported.
        if self._first is None and not self.own_process:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        sys.unraisablehook = self._report
        self._closed.set()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None and self._closed.is_set():
            os.write(2, b"stopped.\n")
            _end(SIGNALLED + number)
        if self._first is None:
            self._first, self._sent, self.exit_code = now, True, SIGNALLED + number
            raise KeyboardInterrupt
        if now - self._first > PATIENCE_SECONDS:
            _end(self.exit_code)

    def end(self, code: int) -> None:
        """End the process now if a signal came. Python would wait for other threads, and tidy up its libraries."""
        if self._sent:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)

    def end_process(self) -> None:
        """End the process with its final code as Python's last exit function.

        Afterwards Python would give up the handlers and take down its libraries, where a signal ends it with its own
        code.
        """
        if self.final_code is None:
            return
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except (OSError, ValueError):
            return  # Python reports it, with a code of its own
        os._exit(self.final_code)

    def _unraisable(self, report: "sys.UnraisableHookArgs") -> None:
        """Report of an exception that Python cannot raise, as in a finaliser. The next signal counts as the first."""
        if isinstance(report.exc_value, KeyboardInterrupt):
            self._first = None
        else:
            self._report(report)


def _is_saving(number: signal.Signals) -> bool:
    """True if a training handles the signal now, and has begun to save itself."""
    return bool(getattr(getattr(signal.getsignal(number), "__self__", None), "is_heeded", False))


def _end(code: int) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # the cursor, which progress bars hide
    os._exit(code)
