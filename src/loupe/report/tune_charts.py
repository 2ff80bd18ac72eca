"""Figures of a search: its history, the values of each key, and the seeds of the confirmation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from loupe.log import rounded
from loupe.report import figures


@dataclass(frozen=True)
class Dot:
    """One trial: its place on the horizontal axis, its value, and its state."""

    at: float
    value: float
    is_complete: bool
    is_best: bool = False


def history(
    dots: Sequence[Dot],
    failed: Sequence[float],
    best_so_far: Sequence[tuple[float, float]],
    *,
    percent: bool,
    unit: str,
    label: str,
    width_px: int,
) -> str:
    """SVG of the value of each trial by its number, and the best complete one so far as a line.

    Args:
        failed: numbers of trials that failed, which get a cross at the bottom.
        best_so_far: number and value of each trial that was better than all complete ones before it.
    """

    def draw(axes: Axes) -> None:
        last = max([dot.at for dot in dots] + [*failed], default=1.0)
        steps = [*best_so_far, (last, best_so_far[-1][1])] if best_so_far else []
        if steps:
            axes.step(*zip(*steps, strict=True), where="post", color=figures.LINE, linewidth=3)
        _dots(axes, dots)
        _value_axis(axes, dots, percent=percent, unit=unit)
        if failed:
            low = axes.get_ylim()[0]
            axes.plot(failed, [low] * len(failed), "x", color=figures.MUTED, markersize=6, clip_on=False)
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=max(3, width_px // 70), min_n_ticks=1))
        axes.margins(x=0.03)

    return figures.chart(draw, label=label, width_px=width_px, height_px=300)


def values_of_range(
    dots: Sequence[Dot],
    ends: tuple[float, float],
    default: float | None,
    *,
    is_log: bool,
    percent: bool,
    unit: str,
    label: str,
    width_px: int,
) -> str:
    """SVG of the value of each trial over the values of one key, a range of numbers.

    Args:
        default: value of the recipe, as a dashed line.
    """

    def draw(axes: Axes) -> None:
        if is_log:
            axes.set_xscale("log")
        if default is not None and (default > 0 or not is_log):
            axes.axvline(default, color=figures.MUTED, linewidth=1, linestyle=(0, (3, 3)))
        _dots(axes, dots)
        inside = [ends[0], ends[1], *([default] if default is not None and (default > 0 or not is_log) else [])]
        low, high = min(inside), max(inside)
        room = (high / low) ** 0.04 if is_log else (high - low) * 0.04
        axes.set_xlim(low / room if is_log else low - room, high * room if is_log else high + room)
        if is_log:
            axes.xaxis.set_minor_locator(NullLocator())
            ticks = _log_ticks(low, high)
            axes.set_xticks(ticks, [rounded(tick) for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rounded(value)))
        _value_axis(axes, dots, percent=percent, unit=unit)

    return figures.chart(draw, label=label, width_px=width_px, height_px=230)


def values_of_list(
    dots: Sequence[Dot],
    names: Sequence[str],
    default: int | None,
    *,
    percent: bool,
    unit: str,
    label: str,
    width_px: int,
) -> str:
    """SVG of the value of each trial over the values of one key, a list; `at` of a dot is the place in it.

    Args:
        default: place of the recipe's value, as a dashed line.
    """

    def draw(axes: Axes) -> None:
        if default is not None:
            axes.axvline(default, color=figures.MUTED, linewidth=1, linestyle=(0, (3, 3)))
        # Trials with the same value stand beside each other, in their order.
        spread = [
            Dot(dot.at + 0.3 * (_turn(number) - 0.5), dot.value, dot.is_complete, dot.is_best)
            for number, dot in enumerate(dots)
        ]
        _dots(axes, spread)
        most = max(4, width_px // max(1, len(names)) // 8)
        shown = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
        axes.set_xticks(range(len(names)), [figures.plain(name) for name in shown])
        axes.set_xlim(-0.5, len(names) - 0.5)
        _value_axis(axes, dots, percent=percent, unit=unit)

    return figures.chart(draw, label=label, width_px=width_px, height_px=230)


def seeds(pairs: Sequence[tuple[str, float, float]], *, label: str, width_px: int) -> str:
    """SVG of pairs of accuracies, one row for each seed: hollow the recipe's own values, filled the best settings."""

    def draw(axes: Axes) -> None:
        for row, (_, defaults, best) in enumerate(pairs):
            axes.plot([defaults, best], [row, row], color=figures.LINE, linewidth=3)
            axes.plot([defaults], [row], "o", color=figures.SURFACE, markeredgecolor=figures.MUTED, markersize=10)
            axes.plot([best], [row], "o", color=figures.FIRST, markersize=8)
        axes.set_yticks(range(len(pairs)), [name for name, _, _ in pairs])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.grid(axis="x", linewidth=1)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=max(3, width_px // 110)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))

    return figures.chart(draw, label=label, width_px=width_px, height_px=60 + 34 * len(pairs))


def _dots(axes: Axes, dots: Sequence[Dot]) -> None:
    """Trials: hollow and small where they were given up early, filled where they are complete, ringed the best."""
    for dot in sorted(dots, key=lambda dot: (dot.is_best, dot.is_complete)):
        face = figures.FIRST if dot.is_complete else figures.SURFACE
        edge = figures.FIRST if dot.is_complete else figures.MUTED
        size = 7 if dot.is_complete else 5
        axes.plot([dot.at], [dot.value], "o", color=face, markeredgecolor=edge, markeredgewidth=1.4, markersize=size)
        if dot.is_best:
            axes.plot([dot.at], [dot.value], "o", color="none", markeredgecolor=figures.INK, markersize=13)


def _value_axis(axes: Axes, dots: Sequence[Dot], *, percent: bool, unit: str) -> None:
    axes.grid(axis="y", linewidth=1)
    axes.set_axisbelow(True)
    axes.margins(y=0.1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.set_ylabel(unit)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range on a logarithmic scale, at most five."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) >= 3:
            return inside[:: -(-len(inside) // 5)]
    return [low, high]


def _turn(number: int) -> float:
    """Number between 0 and 1 that spreads what follows each other: the golden ratio's multiples (van der Corput)."""
    return (0.5 + number * 0.6180339887498949) % 1.0
