"""What a person can put right. The command line prints these without a traceback; anything else is a defect of ours."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MOST_NAMES = 60  # above, a list of all that is known would bury what it says


class LoupeError(ValueError):
    """Says what was given, what is allowed, and what to do."""


class ImageError(LoupeError):
    """One image that cannot be used: `path` names it, `reason` says why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> LoupeError:
    """The error for a name that nobody knows, with the nearest known ones first."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    all_of_them = f" Known: {', '.join(names)}." if len(names) <= MOST_NAMES else ""
    return LoupeError(f"unknown {kind} {name!r}.{hint}{all_of_them}")
