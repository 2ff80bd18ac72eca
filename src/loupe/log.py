"""Log records, what a terminal shows of them, progress bars and train.log; and text for terminals.

Library code calls `logger.info` and `logger.warning`. Only the functions that a user calls open a `terminal()`, which
shows these records on standard error: standard output holds results alone.
"""

import logging
import os
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loupe import ranks

NOTHING = logging.CRITICAL + 1  # a level above all records

# In a notebook without ipywidgets, tqdm says at import that its bars are text; timm, captum and the hub import it.
warnings.filterwarnings("ignore", message="IProgress not found")


def printable(text: str) -> str:
    """The text with every character escaped that a terminal might obey in place of showing it, line ends apart."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def command_line(words: Sequence[str]) -> str:
    """A command as it is typed into a shell of this system: Windows' shells take a backslash for what it is."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def duration(seconds: float) -> str:
    """Two units at most: `0.3 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 or seconds == 0 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def rounded(value: float) -> str:
    """Three significant digits: `10,000`, `3,160`, `0.316`, `1e-06`."""
    text = f"{value:.3g}"
    return f"{float(text):,.10g}" if 1e-4 <= abs(value) < 1e9 else text


def size_text(count: int) -> str:
    """`512 bytes`, `1.5 GiB`."""
    power = min(3, max(0, count.bit_length() - 1) // 10)
    return f"{count / 1024**power:,.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The logger `loupe`, which also feeds the open terminals and train.log files.

    These do not depend on the levels and handlers that a user of the library has configured, and do not change them.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        record = self.logger.makeRecord(self.logger.name, level, "", 0, msg, args, None)
        for handler in (*listeners(Terminal)[-1:], *listeners(RunLog)):
            if level >= handler.level:
                handler.handle(record)
        super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})


logger = Logger(logging.getLogger("loupe"))


class RunLog(logging.Handler):
    """The train.log of a run: records are kept until the file is named by `write_to`, then written at once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.thread = threading.get_ident()
        self._path: Path | None = None
        self._early: list[str] = []

    def write_to(self, path: Path) -> None:
        """Write the records so far to this file, and all later ones."""
        self._path = path
        for text in self._early:
            self._write(text)
        self._early.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Raises OSError where the file cannot be written."""
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        self._write(warning + record.getMessage())

    def _write(self, text: str) -> None:
        if self._path is None:
            self._early.append(text)
        else:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def console(*, stderr: bool = False) -> Console:
    """Terminal on standard output or error. Names such as `:cat:` stay as they are."""
    return Console(stderr=stderr, highlight=False, emoji=False)


class Terminal(logging.Handler):
    """Records as lines on standard error, above the progress bar where there is one.

    A record that a handler of the user's writes to the same terminal is left to that handler.
    """

    def __init__(self, level: int, outer: "Terminal | None" = None) -> None:
        super().__init__(level)
        self.thread = threading.get_ident()
        self.screen: Console = outer.screen if outer else console(stderr=True)
        self._streams: tuple[object, ...] = outer._streams if outer else (sys.stdout, sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_left_to_user(record.levelno):
            text = escape(printable(record.getMessage()))
            warning = "[yellow]warning:[/] " if record.levelno >= logging.WARNING else ""
            self.screen.print(warning + text, soft_wrap=True)

    @property
    def shows_bars(self) -> bool:
        return self.level <= logging.INFO and self.screen.is_terminal and not self.is_left_to_user(logging.INFO)

    def is_left_to_user(self, level: int) -> bool:
        """True if logging is configured to write records of this level to standard output or standard error."""
        source: logging.Logger | None = logger.logger if logger.isEnabledFor(level) else None
        while source:
            if any(level >= handler.level and _stream(handler) in self._streams for handler in source.handlers):
                return True
            source = source.parent if source.propagate else None
        return False


def _stream(handler: logging.Handler) -> object:
    """The stream that a handler of logging or of rich writes to."""
    return getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", handler)


Listener = TypeVar("Listener", Terminal, RunLog)
_listeners: list[Terminal | RunLog] = []
_with_bar: set[Console] = set()


def listeners(kind: type[Listener]) -> list[Listener]:
    """Those that this thread has opened, the innermost last; in a thread that has opened none, those of all threads."""
    every = [one for one in _listeners if isinstance(one, kind)]
    return [one for one in every if one.thread == threading.get_ident()] or every


@contextmanager
def _listening(handler: Listener) -> Iterator[Listener]:
    _listeners.append(handler)
    try:
        yield handler
    finally:
        _listeners.remove(handler)
        handler.close()


@contextmanager
def terminal(*, quiet: bool = False) -> Iterator[None]:
    """Show records and progress bars on standard error while the block runs.

    The outermost one decides: where it is `quiet`, nothing is shown. `quiet` within another one hides announcements and
    bars, and leaves warnings as they are. Nothing is shown twice. Of the ranks of a command, one shows its records.
    """
    outer = next((one for one in listeners(Terminal)[-1:] if one.thread == threading.get_ident()), None)
    level = (logging.WARNING if outer else NOTHING) if quiet else logging.INFO
    level = level if ranks.is_main() else NOTHING
    with _listening(Terminal(max(level, outer.level) if outer else level, outer)):
        yield


@contextmanager
def run_log() -> Iterator[RunLog]:
    """Collect the records of a run, for the file that `write_to` names."""
    with _listening(RunLog()) as handler:
        yield handler


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A transient progress bar; hidden where no terminal is shown, or it is quiet, or another bar is shown."""
    shown = next(iter(listeners(Terminal)[-1:]), None)
    screen = shown.screen if shown else console(stderr=True)
    hidden = not shown or not shown.shows_bars or screen in _with_bar
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=screen, transient=True, disable=hidden) as progress:
        if hidden:
            yield progress
            return
        _with_bar.add(screen)
        try:
            yield progress
        finally:
            _with_bar.discard(screen)
