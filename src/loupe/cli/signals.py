"""Ctrl-C and SIGTERM on the command line: one exception, one line, and the exit code of the signal."""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

PATIENCE_SECONDS = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CommandSignals:
    """Context in which the first signal raises KeyboardInterrupt, so that everything is tidied up.

    Further ones are ignored for two seconds, while that happens, and then end the process at once.

    Attributes:
        exit_code: 128 plus the number of the signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self) -> None:
        self.exit_code = 128 + signal.SIGINT
        self._first: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._report = sys.unraisablehook

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN and handler is not None:  # as nohup has it
                    self._before[number] = signal.signal(number, self._handle)
            sys.unraisablehook = self._unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._first is None:  # after a signal the process ends, and later ones must not be reported
            for number, handler in self._before.items():
                signal.signal(number, handler)
        sys.unraisablehook = self._report

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self.exit_code = now, 128 + number
            raise KeyboardInterrupt
        if now - self._first > PATIENCE_SECONDS:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the cursor, which progress bars hide
            os._exit(self.exit_code)

    def _unraisable(self, report: "sys.UnraisableHookArgs") -> None:
        """Report of an exception that Python cannot raise, as in a finaliser. The next signal counts as the first."""
        if isinstance(report.exc_value, KeyboardInterrupt):
            self._first = None
        else:
            self._report(report)
