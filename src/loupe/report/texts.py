"""Numbers as a reader wants them: percent, intervals, durations, counts."""

from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"
UNIT = "\N{NO-BREAK SPACE}%"


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{round(value):,}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction in percent; what is not all or nothing is never rounded to it."""
    if fraction is None:
        return UNDEFINED
    text = f"{100 * fraction:.{decimals}f}"
    while decimals < 6 and 0 < fraction < 1 and float(text) in (0, 100):
        decimals += 1
        text = f"{100 * fraction:.{decimals}f}"
    return text + UNIT


def number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def estimate(metric: Mapping[str, Any], *, as_percent: bool = False) -> str:
    """The value of one of results.json's metrics."""
    return percent(metric["value"]) if as_percent else number(metric["value"])


def interval(metric: Mapping[str, Any], *, as_percent: bool = False) -> str | None:
    """Its interval, such as `0.971–0.984` or `97.1–98.4 %`; None where it has none."""
    low, high = metric.get("low"), metric.get("high")
    if low is None or high is None:
        return None
    return f"{percent(low).removesuffix(UNIT)}–{percent(high)}" if as_percent else f"{number(low)}–{number(high)}"


def duration(seconds: float | None) -> str:
    """Two units at most: `0.3 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds is None:
        return UNDEFINED
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 or seconds == 0 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def several(amount: int, one: str, many: str | None = None) -> str:
    """`1 image`, `3 images`."""
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"


def short(name: str, most: int = 60) -> str:
    """A name for a caption, cut where it is too long for one."""
    return name if len(name) <= most else name[: most - 1] + "…"
