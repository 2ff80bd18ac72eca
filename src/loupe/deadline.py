"""Conditions that stop work before its end, such as the end of the time for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loupe.errors import StoppedError

_conditions: list[Callable[[], bool]] = []


@contextmanager
def stopping_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Context in which every `StopSignal` and `check` also stops its work once a condition holds."""
    _conditions.append(condition)
    try:
        yield
    finally:
        _conditions.remove(condition)


def is_over() -> bool:
    """True once one of the conditions holds."""
    return any(condition() for condition in _conditions)


def check() -> None:
    """Stop work that can be done again.

    Raises:
        StoppedError: one of the conditions holds.
    """
    if is_over():
        raise StoppedError("stopped before its end.")
