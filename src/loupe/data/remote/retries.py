"""Retries: attempts with exponential pauses and jitter, until progress stops or the time is over."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from loupe.data.remote.failures import AttemptError, RemoteError
from loupe.errors import counted

T = TypeVar("T")

REMEDY = "Nothing of it is kept. Repeat the command; if it fails again, look at the network and the store."


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of the attempts to read one file.

    Attributes:
        attempts: attempts in a row that bring no new bytes.
        first_pause_seconds: pause after the first of them; each later one is twice as long, times a random factor
            between a half and one.
        longest_pause_seconds: upper limit of a pause.
        total_seconds: time for all attempts together, beyond that for the bytes.
        slowest_bytes_per_second: rate of a slow network, which gives the time for the bytes.
        connect_seconds: time for a connection, including TLS.
        silence_seconds: time for an answer, and between two parts of it.
        clock, sleep, jitter: time in seconds, pause of so many seconds, and a random number from 0 to 1.
    """

    attempts: int = 8
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 20.0
    total_seconds: float = 300.0
    slowest_bytes_per_second: float = 50_000.0
    connect_seconds: float = 10.0
    silence_seconds: float = 30.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    jitter: Callable[[], float] = field(default=random.random, repr=False)

    def pause_seconds(self, failures: int, asked: float) -> float:
        """Pause after so many failures in a row; at least the time that the store asked for, within the limit."""
        exponential = self.first_pause_seconds * 2.0 ** min(failures - 1, 30) * (0.5 + 0.5 * self.jitter())
        return min(self.longest_pause_seconds, max(exponential, asked))

    def budget_seconds(self, byte_count: int) -> float:
        """Time for all attempts to read so many bytes."""
        return self.total_seconds + byte_count / self.slowest_bytes_per_second


POLICY = RetryPolicy()


def with_retries(
    url: str,
    attempt: Callable[[], T],
    policy: RetryPolicy,
    *,
    progress: Callable[[], int] = lambda: 0,
    byte_count: int = 0,
) -> T:
    """Value of `attempt`, which is called again after an AttemptError.

    Args:
        url: address for the error.
        attempt: function that makes one attempt and continues where the last one ended.
        policy: limits.
        progress: number of bytes that are there; an attempt that raised it does not count as failed.
        byte_count: number of bytes to read, for the time that they may take.

    Raises:
        RemoteError: too many attempts failed, or the time is over.
    """
    began, made, failures, best = policy.clock(), 0, 0, progress()
    budget = policy.budget_seconds(byte_count)
    while True:
        made += 1
        try:
            return attempt()
        except AttemptError as error:
            failures = 1 if progress() > best else failures + 1
            best = max(best, progress())
            pause = policy.pause_seconds(failures, error.pause_seconds)
            spent = policy.clock() - began
            if failures >= policy.attempts:
                raise RemoteError(url, f"{error}", REMEDY, made) from None
            if spent + pause > budget:
                reason = f"{error}; not read within {counted(round(budget), 'second')}"
                raise RemoteError(url, reason, REMEDY, made) from None
            policy.sleep(pause)
