"""Timeline of a search within a time limit: each candidate as a bar over the elapsed time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loupe.log import duration
from loupe.report import figures

ROW_PX = 34
NAMED_PX = 62  # a row whose name and text stand above its bar


@dataclass(frozen=True)
class Bar:
    """One candidate: start and duration of its work, the figures at its end, and its state.

    Attributes:
        text: accuracy with its interval, or the state of a candidate without one.
        is_finished: filled; a candidate that was stopped or failed is hollow.
    """

    name: str
    began_seconds: float
    seconds: float
    text: str
    is_finished: bool
    is_chosen: bool


def timeline(bars: Sequence[Bar], limit_seconds: float, *, label: str, width_px: int, names_above: bool = False) -> str:
    """SVG of the bars in their order, with the time limit as a dashed line.

    Args:
        names_above: names above the bars instead of left of them, for narrow figures.
    """
    row_px = NAMED_PX if names_above else ROW_PX
    end = max([limit_seconds, *(bar.began_seconds + bar.seconds for bar in bars)])

    def draw(axes: Axes) -> None:
        plot_px = max(60, width_px - (0 if names_above else 7 * max(len(bar.name) for bar in bars)))
        axes.axvline(limit_seconds, color=figures.MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for row, bar in enumerate(bars):
            _bar(axes, row, bar, end, plot_px, names_above=names_above)
        axes.set_yticks(range(len(bars)), ["" if names_above else figures.plain(bar.name) for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5 - 0.3 * names_above)
        axes.set_xlim(0, end * 1.02)
        axes.set_xlabel("time since the start")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=max(3, width_px // 120), steps=[1, 1.5, 3, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _time(value)))

    return figures.chart(draw, label=label, width_px=width_px, height_px=row_px * len(bars) + 52)


def _bar(axes: Axes, row: int, bar: Bar, end: float, plot_px: int, *, names_above: bool) -> None:
    """One bar, with its text at the side that has room, or above it with the name."""
    middle = row + (0.24 if names_above else 0)
    fill = figures.FIRST if bar.is_chosen else figures.MUTED
    width = max(bar.seconds, end * 2 / plot_px)  # two pixels at least
    axes.barh(
        middle,
        width,
        left=bar.began_seconds,
        height=0.28 if names_above else 0.5,
        color=fill if bar.is_finished else figures.SURFACE,
        edgecolor=fill,
        linewidth=1.2,
    )
    weight = "bold" if bar.is_chosen else "normal"
    if names_above:
        _text(axes, 0, middle - 0.4, figures.plain(bar.name), color=figures.MUTED)
        _text(axes, 0, middle - 0.18, bar.text, fontweight=weight)
        return
    stop, gap = bar.began_seconds + width, 6 * end / plot_px
    room_px = (end * 1.02 - stop) * plot_px / end
    is_right = room_px > 7.5 * len(bar.text) or room_px > bar.began_seconds * plot_px / end
    at, side = (stop + gap, "left") if is_right else (bar.began_seconds - gap, "right")
    _text(axes, at, middle, bar.text, ha=side, va="center", fontweight=weight)


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text that does not move the axes, whose place it depends on."""
    axes.text(x, y, text, **{"va": "bottom", "ha": "left", "color": figures.INK, **style}).set_in_layout(False)


def _time(seconds: float) -> str:
    """Time of a tick: `0`, `30 s`, `1 min 30 s`."""
    if not seconds:
        return "0"
    return duration(seconds).replace(".0 s", " s").replace(" min 0 s", " min")
