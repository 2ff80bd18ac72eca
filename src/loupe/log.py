"""What a person sees while work goes on: announcements, progress bars, and the same words in a log file.

Everything here goes to standard error, so that standard output holds results alone.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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


def size_text(count: int) -> str:
    """`512 bytes`, `1.5 GiB`."""
    power = min(3, max(0, count.bit_length() - 1) // 10)
    return f"{count / 1024**power:,.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


class Console:
    """Announces. A quiet one shows nothing but warnings, and still writes the log."""

    def __init__(self, *, quiet: bool = False, log: Path | None = None) -> None:
        self.quiet = quiet
        self.log = log
        self._unlogged: list[str] = []
        self.rich = RichConsole(stderr=True, highlight=False)

    def log_to(self, path: Path) -> None:
        """From now on everything is written to this file too, beginning with what was said so far."""
        self.log = path
        for text in self._unlogged:
            self._write(text)
        self._unlogged.clear()

    def say(self, text: str) -> None:
        """One announcement: what was understood, chosen or done, with the reason."""
        self._write(text)
        if not self.quiet:
            self.rich.print(escape(printable(text)), soft_wrap=True)

    def warn(self, text: str) -> None:
        """What a person must know even when everything else is silenced."""
        self._write(f"warning: {text}")
        self.rich.print(f"[yellow]warning:[/] {escape(printable(text))}", soft_wrap=True)

    def progress(self) -> Progress:
        """A transient progress bar of the house's looks, hidden when quiet."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self.rich,
            transient=True,
            disable=self.quiet or not self.rich.is_terminal,
        )

    def _write(self, text: str) -> None:
        if self.log is None:
            self._unlogged.append(text)
        else:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
