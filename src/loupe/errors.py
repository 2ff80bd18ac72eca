"""User-correctable errors, printed by the command line without a traceback, and helpers for messages."""

import errno
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

MOST_NAMES = 60  # longer lists of known names are left out of messages

# Phrases for a lack of memory in messages of PyTorch's allocators (CUDA, MPS, CPU) and NVIDIA's libraries.
NO_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed")
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no EDQUOT
DISK_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class LoupeError(ValueError):
    """Base of all errors that a user can correct: the value given, the values allowed, and the remedy.

    Attributes:
        everywhere: True if every rank of the command raises it, so that one prints it.
    """

    everywhere = False


class DataError(LoupeError):
    """Images, labels or splits that are missing, damaged or unsuitable."""


class ConfigError(LoupeError):
    """Recipe, setting, name or option that is unknown, or invalid here or in combination with others."""


class DiskError(LoupeError):
    """Full disk, or file or folder that cannot be written."""


class NotEnoughMemoryError(LoupeError):
    """Too little memory of the machine or of the GPU."""


class RunStateError(LoupeError):
    """Run, or other file written by Loupe, that is missing, unfinished, in use, damaged, or of other data."""


class RunInUseError(RunStateError):
    """Run whose folder another process writes into."""


class ExportRefusedError(LoupeError):
    """Exported model that does not predict as the run does, or that was changed after its export."""


class ImageError(DataError):
    """Unusable image, with its `path` and the `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class StoppedError(LoupeError):
    """Stop on request, without loss of work."""


class InterruptedRunError(RunStateError):
    """Training stopped on request; the run is saved and can be resumed.

    Attributes:
        signal_number: of the signal that stopped it: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class RunElsewhereError(RunStateError):
    """Finished run whose folder is on the machine of rank 0, and not on this one."""


class DivergedError(RunStateError):
    """Loss or output of a network that is no longer finite."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Number with its noun in the right form: `1 epoch`, `1,234 images`, `2 classes`, `3 data sets`.

    Args:
        count: number of things.
        noun: noun in the singular.
        plural: noun in the plural; by default `noun` with `s`, or with `es` where it ends in s, x, nch, tch or sh.
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {plural or noun + ('es' if noun.endswith(('s', 'x', 'nch', 'tch', 'sh')) else 's')}"


def enumerated(items: Sequence[str], conjunction: str = "and", most: int | None = None) -> str:
    """Items as a phrase: `a`, `a and b`, `a, b and c`, or `a, b and 3 more` where there are more than `most`."""
    shown = list(items)
    if most is not None and len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most:,} more"
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {conjunction} {shown[-1]}"


def sentences(*parts: str) -> str:
    """Sentences put together into one text, each with one full stop at its end; empty ones are left out."""
    texts = (part.strip() for part in parts)
    return " ".join(text if text.endswith((".", "!", "?", ":")) else f"{text}." for text in texts if text)


def unknown_name(kind: str, name: str, known: Iterable[str], error: type[LoupeError] = ConfigError) -> LoupeError:
    """Error for an unknown name, with the nearest known names.

    Args:
        kind: noun for what the name stands for, for example `recipe`.
        name: name as given.
        known: allowed names; listed in the message if they are at most `MOST_NAMES`.
        error: class of the error.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    all_of_them = f" Known: {', '.join(names)}." if len(names) <= MOST_NAMES else ""
    return error(f"unknown {kind} {name!r}.{hint}{all_of_them}")


def memory_error(error: Exception, remedy: str) -> NotEnoughMemoryError | None:
    """Error for a lack of memory of the GPU or of the machine, with the remedy; None if `error` is of another kind."""
    of_allocator = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)
    if not of_allocator and not isinstance(error, MemoryError):
        return None
    reason = ". ".join(str(error).split(". ")[:2]).strip(".")  # without PyTorch's advice on its settings
    return NotEnoughMemoryError(f"not enough memory ({reason or 'the machine has none left'}). {remedy}")


def disk_error(error: OSError, path: str | Path, then: str) -> DiskError | None:
    """Error for a full disk or a path without write permission; None if `error` is of another kind.

    Args:
        error: error of the system.
        path: path to name where `error` names none.
        then: next step for the user after that is mended, for example `resume the run`.
    """
    named = error.filename or path
    if error.errno in DISK_FULL:
        return DiskError(f"{named}: {error.strerror}. Free space on that disk, then {then}.")
    if error.errno in DISK_CLOSED:
        return DiskError(f"{named}: {error.strerror}. Give write permission, then {then}.")
    return None


@contextmanager
def memory_remedy(remedy: str) -> Iterator[None]:
    """Turn a lack of memory inside the block into a NotEnoughMemoryError with the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if shortage := memory_error(error, remedy):
            raise shortage from error
        raise
