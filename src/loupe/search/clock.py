"""Clock of a search: the time that is left before the limit, and the time that its end needs."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOLERANCE = 0.02  # of the limit, by which a search may end after it; half of it is kept free
LEAST_MARGIN_SECONDS = 0.5
FIRST_END_SECONDS = 8.0  # evaluation, calibration, conversion and report of a run before one was measured


@dataclass
class Clock:
    """Time limit of a search.

    Attributes:
        limit_seconds: the limit, from `began` on.
        began: start of the command, on the clock `now`.
        now: clock in seconds.
    """

    limit_seconds: float
    began: float
    now: Callable[[], float] = time.perf_counter

    @property
    def spent(self) -> float:
        """Seconds since the start of the command."""
        return self.now() - self.began

    @property
    def left(self) -> float:
        """Seconds until the limit, without a margin for what is not measured; below 0 after it."""
        return self.limit_seconds - self.spent - max(LEAST_MARGIN_SECONDS, TOLERANCE / 2 * self.limit_seconds)


@dataclass
class Reserve:
    """Seconds that the end of a search needs.

    Attributes:
        page_seconds: writing of the delivered run with its report, as measured at the first delivery.
        test_images: number of test images, which are evaluated once, at the end.
        load_seconds: opening of the images for that.
    """

    test_images: int
    page_seconds: float = FIRST_END_SECONDS / 2
    load_seconds: float = FIRST_END_SECONDS / 4

    def end(self, predict_seconds: float) -> float:
        """Seconds from the last candidate to the end: test images, results and report, written twice.

        Args:
            predict_seconds: time of a prediction of one image of a batch by the candidate that would be delivered.
        """
        return 2 * self.page_seconds + self.load_seconds + 1.2 * self.test_images * predict_seconds


def process_start() -> float:
    """Start of this process, on the clock `time.perf_counter`; where the system does not tell, the present time."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter() - max(0.0, age)
    return time.perf_counter()


def seconds_of(text: str) -> float:
    """Seconds of a duration: `90`, `90s`, `10m`, `1.5h`, `5ms`, `1h30m`.

    Raises:
        ValueError: it is no duration, or not above 0.
    """
    import re

    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|min|[smh]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text.lower()):
        raise ValueError(f"{text!r} is no duration. Give seconds, or for example 90s, 10m, 1h30m or 5ms")
    total = sum(float(number) * units[unit] for number, unit in parts)
    if total <= 0:
        raise ValueError(f"{text!r}: a duration is above 0")
    return total


def bytes_of(text: str) -> int:
    """Bytes of a size: `20MB`, `20 MiB`, `500kB`, `1000000`.

    Raises:
        ValueError: it is no size, or not above 0.
    """
    import re

    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if found is None or found[2] not in units or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is no size. Give bytes, or for example 20MB, 20MiB or 500kB")
    return int(float(found[1]) * units[found[2]])
