"""Output of the ranks of a command: rank 0 prints, and another only an error of its own, with its number."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

from loupe import ranks
from loupe.cli.signals import SIGNALS
from loupe.errors import LoupeError
from loupe.log import printable
from loupe.ranks import LostRankError, Ranks

SAME_SECONDS = 5.0  # in which every rank comes to an error that all have
LOST_SECONDS = 2.0  # in which a rank that ends says why


class RankOutput:
    """Standard output and standard error of one rank of a command.

    Of errors that several ranks have, one is printed; of those that follow from the end of another rank, none if that
    one or the launcher says more.
    """

    def __init__(self, joined: Ranks) -> None:
        self.joined = joined
        self._stderr = 2
        if not joined.is_main and not os.environ.get("LOUPE_DEBUG"):
            self._silence()

    def _silence(self) -> None:
        """Lead standard output and standard error into nothing, those of libraries and helper processes too."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._stderr = os.dup(2)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.close(nothing)

    def error(self, error: Exception, text: str) -> None:
        """Print an error with which this rank ends, as far as nobody else prints it."""
        text = f"error: {printable(text)}"
        if self.joined.alone:
            print(text, file=sys.stderr)
            return
        if isinstance(error, LoupeError) and error.everywhere and not self.joined.is_main:
            _leave_words(text)
            return
        for number in SIGNALS:  # torchrun sends one to those that are left: this one ends within seconds
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, signal.SIG_IGN)
        if self._speaks_of_lost() if isinstance(error, LostRankError) else self._has_of_its_own(text):
            self._write(text)
            self._stay()

    def unexpected(self, error: Exception) -> bool:
        """Show an error that is a defect, by raising it again: False if rank 0 shows the same."""
        if self.joined.alone:
            return True
        shown = self._has_of_its_own("".join(traceback.format_exception_only(error)))
        if shown and not self.joined.is_main:
            os.dup2(self._stderr, 2)
        return shown

    def _has_of_its_own(self, text: str) -> bool:
        """True on rank 0, and where rank 0 does not end with the same error."""
        _leave_words(text)
        if self.joined.is_main:
            return True
        if ranks.store() is None:
            return False  # of the command line, which is the same everywhere
        return _last_words([0], SAME_SECONDS).get(0) != text

    def _speaks_of_lost(self) -> bool:
        _leave_words("")
        if ranks.LAUNCHER in os.environ:
            return False
        return not any(_last_words(self._others, LOST_SECONDS).values()) and _is_first()

    def _stay(self) -> None:
        """Keep the words of rank 0, which may have the store, until the others have come to their ends."""
        if self.joined.is_main:
            _last_words(self._others, SAME_SECONDS)

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self.joined.count) if rank != self.joined.rank]

    def _write(self, text: str) -> None:
        if not self.joined.is_main:
            text = text.replace("error: ", f"error: process {self.joined.rank + 1} of {self.joined.count}: ", 1)
        with suppress(OSError):
            os.write(self._stderr, f"{text}\n".encode(errors="replace"))


def _leave_words(text: str) -> None:
    """Leave the error with which this rank ends for the others."""
    if (store := ranks.store()) is not None:
        with suppress(RuntimeError):
            store.set(f"words {ranks.in_environment().rank}", text)


def _last_words(of: Sequence[int], seconds: float) -> dict[int, str]:
    """Errors that these ranks have left, or leave within some seconds; those of the others are missing."""
    found, store, until = dict[int, str](), ranks.store(), time.monotonic() + seconds
    with suppress(RuntimeError):  # the store has ended with rank 0
        while store is not None:
            for rank in set(of) - {*found}:
                if store.check([f"words {rank}"]):
                    found[rank] = store.get(f"words {rank}").decode()
            if len(found) == len(of) or time.monotonic() > until:
                break
            time.sleep(0.02)
    return found


def _is_first() -> bool:
    """True on the first rank that asks, and where the others cannot be asked."""
    store = ranks.store()
    with suppress(RuntimeError):
        return store is None or store.add("speaks of lost", 1) == 1
    return True
