"""Numbers as text: percent, intervals, durations, counts; and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loupe import log
from loupe.evaluate.intervals import Estimate
from loupe.evaluate.spread import Spread

UNDEFINED = "–"
UNIT = "\N{NO-BREAK SPACE}%"


def count(value: float) -> str:
    """Whole number with thousands separators."""
    return f"{round(value):,}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """Fraction in percent. Only 0 and 1 are shown as 0 % and 100 %; other values get more decimals."""
    if fraction is None:
        return UNDEFINED
    text = f"{100 * fraction:.{decimals}f}"
    while decimals < 6 and 0 < fraction < 1 and float(text) in (0, 100):
        decimals += 1
        text = f"{100 * fraction:.{decimals}f}"
    return text + UNIT


def number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def estimate(metric: Estimate | Spread, *, as_percent: bool = False) -> str:
    """The value of a metric."""
    return percent(metric.value) if as_percent else number(metric.value)


def interval(metric: Estimate | Spread, *, as_percent: bool = False) -> str | None:
    """Its interval, such as `0.971–0.984` or `97.1–98.4 %`; None where it has none."""
    return between(metric.low, metric.high, as_percent=as_percent)


def between(low: float | None, high: float | None, *, as_percent: bool = False) -> str | None:
    """Two ends, such as `0.971–0.984` or `97.1–98.4 %`; None where there is none."""
    if low is None or high is None:
        return None
    return f"{percent(low).removesuffix(UNIT)}–{percent(high)}" if as_percent else f"{number(low)}–{number(high)}"


def duration(seconds: float | None) -> str:
    """Two units at most, as `log.duration`."""
    return UNDEFINED if seconds is None else log.duration(seconds)


def spent(seconds: float | None) -> str:
    """Measured time, or `unknown`."""
    return "unknown" if seconds is None else log.duration(seconds)


def short(name: str, most: int = 60) -> str:
    """Name for a caption, shortened if it is too long."""
    return name if len(name) <= most else name[: most - 1] + "…"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table. Cells are Markdown on one line."""
    ruled = "|" + "---|" * len(header)
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return [first, ruled, *others]


def made_on(version: str, environment: Mapping[str, Any]) -> str:
    """Version and environment of a JSON file, in a line."""
    said = {name: environment.get(name) for name in ("processor", "cores", "threads", "torch", "date")}
    return (
        f"Loupe {version}, {said['processor']}, {said['cores']} cores, {said['threads']} threads, "
        f"{environment.get('gpu') or environment.get('device')}, torch {said['torch']}, {said['date']}."
    )
