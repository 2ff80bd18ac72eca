"""Figures of a comparison: learning curves of several candidates, and accuracy against cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from loupe.log import duration
from loupe.report import figures
from loupe.report.figures import Curve

DOT_PX = 7
# Positions of a name relative to its dot: right or left, above or below, and one line further up or down.
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 2.6), (1, -2.6), (-1, 2.6), (-1, -2.6))


@dataclass(frozen=True)
class Line:
    """Curve of one candidate, and the epoch or L2 strength of each of its values; `kept` gets a ring."""

    at: Sequence[float]
    curve: Curve
    kept: float | None = None

    @property
    def points(self) -> list[tuple[float, float]]:
        """Measured values; none for a candidate that failed, or whose run lies elsewhere."""
        return [(at, value) for at, value in zip(self.at, self.curve.values, strict=True) if value is not None]


def learning_curves(lines: Sequence[Line], unit: str, *, label: str, width_px: int, height_px: int = 320) -> str:
    """SVG of an accuracy over the epochs or L2 strengths, a line for each candidate.

    Line i has the class `series-i`, from 1.
    """
    with figures.canvas(width_px, height_px) as figure:
        axes = figure.add_subplot()
        axis = figures.Axis(unit, [at for line in lines for at, _ in line.points], logarithmic=unit == "L2 strength")
        for number, line in enumerate(lines, 1):
            if not line.points:
                continue
            dots = "o" if len(line.points) == 1 or axis.logarithmic else None
            [drawn] = axes.plot(*zip(*line.points, strict=True), color=line.curve.color, marker=dots, markersize=5)
            drawn.set_gid(f"series-{number}")
            if line.kept in dict(line.points):
                ring = axes.plot([line.kept], [dict(line.points)[line.kept]], "o", color=figures.SURFACE, markersize=8)[
                    0
                ]
                ring.set(markeredgecolor=line.curve.color, markeredgewidth=2, gid=f"series-{number}")
        axes.grid(axis="y", linewidth=1)
        axes.set_axisbelow(True)
        axes.margins(x=0.02, y=0.08)
        axis.draw(axes, width_px)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        return figures.svg(figure, label)


@dataclass(frozen=True)
class CostAxis:
    """Horizontal axis of a cost, on a logarithmic scale: its name, and the text of a value."""

    name: str
    text: Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """One candidate: cost (training time in seconds, or another), accuracy with its interval, and True if chosen."""

    name: str
    seconds: float
    value: float
    low: float | None = None
    high: float | None = None
    chosen: bool = False


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points with a higher value than all cheaper ones, by ascending cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, -point.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def accuracy_against_cost(
    points: Sequence[Point], *, label: str, width_px: int, height_px: int = 320, axis: CostAxis | None = None
) -> str:
    """SVG with a dot and a whisker for each candidate over its time (log scale), and the Pareto front as a line.

    Args:
        axis: cost, if it is another than the time of one training.
    """
    with figures.canvas(width_px, height_px) as figure:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        along = frontier(points)
        axes.step(
            [point.seconds for point in along],
            [point.value for point in along],
            where="post",
            color=figures.LINE,
            linewidth=3,
        )
        for point in points:
            _draw(axes, point)
        seconds = [point.seconds for point in points]
        low, high = min(seconds), max(seconds)
        room = (high / low) ** 0.12 if high > low else 2.0
        axes.set_xlim(low / room, high * room)
        axes.grid(axis="y", linewidth=1)
        axes.set_axisbelow(True)
        ends = [end for point in points for end in (point.low, point.high, point.value) if end is not None]
        margin = max(0.01, 0.16 * (max(ends) - min(ends)))
        axes.set_ylim(min(ends) - margin, max(ends) + margin)
        axes.xaxis.set_minor_locator(NullLocator())
        most = max(3, width_px // 110)
        if axis is None:
            ticks = _ticks(low / room, high * room, most=most)
            axes.set_xticks(ticks, [duration(tick).replace(".0 s", " s").replace(" min 0 s", " min") for tick in ticks])
        else:
            ticks = round_numbers(low / room, high * room, most=most)
            axes.set_xticks(ticks, [axis.text(tick) for tick in ticks])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if value <= 1 else ""))
        axes.set_xlabel(axis.name if axis else "time of one training")
        figure.draw_without_rendering()  # positions of names depend on the layout
        taken = [box for point in points for box in _drawn(axes, point)]
        for point in sorted(points, key=lambda point: not point.chosen):
            taken.append(_name(axes, point, taken))
        return figures.svg(figure, label)


def _draw(axes: Axes, point: Point) -> None:
    if point.low is not None and point.high is not None:
        axes.plot([point.seconds] * 2, [point.low, point.high], color=figures.MUTED, linewidth=1.2)
    face = figures.FIRST if point.chosen else figures.SURFACE
    edge = figures.FIRST if point.chosen else figures.INK
    axes.plot([point.seconds], [point.value], "o", color=face, markeredgecolor=edge, markersize=9, markeredgewidth=1.6)


def _drawn(axes: Axes, point: Point) -> list[Bbox]:
    """Boxes of a dot and its whisker, in pixels."""
    ends = [end for end in (point.low, point.value, point.high) if end is not None]
    x, y = axes.transData.transform((point.seconds, point.value))
    [_, low], [_, high] = axes.transData.transform([(point.seconds, min(ends)), (point.seconds, max(ends))])
    return [
        Bbox.from_extents(x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX),
        Bbox.from_extents(x - 1, low, x + 1, high),
    ]


def _name(axes: Axes, point: Point, taken: Sequence[Bbox]) -> Bbox:
    """Write the name beside its dot with the least overlap, and return its box."""
    places = []
    for right, up in CORNERS:
        name = axes.annotate(
            figures.plain(point.name),
            (point.seconds, point.value),
            xytext=(9 * right, 9 * up),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="bottom" if up > 0 else "top",
            color=figures.INK if point.chosen else figures.MUTED,
            fontweight="bold" if point.chosen else "normal",
        )
        box = name.get_window_extent().expanded(1.15, 1)  # the font of the page can be wider
        outside = not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max))
        places.append((sum(box.overlaps(other) for other in taken) + 10 * outside, name, box))
    best = min(range(len(places)), key=lambda i: places[i][0])
    for i, (_, name, _) in enumerate(places):
        if i != best:
            name.remove()
    return places[best][2]


def round_numbers(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers within a range on a logarithmic scale: at least two where the range has two of one digit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for steps in ((1, 2, 5), range(1, 10)):
        inside = [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]
        if len(inside) > 1:
            break
    return inside[:: -(-len(inside) // most)] if inside else [low]


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round times within the range."""
    round_seconds = [s * 10.0**k for k in (-1, 0) for s in (1, 2, 5)]
    round_seconds += [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000, 36000, 86400, 259200]
    inside = [tick for tick in round_seconds if low <= tick <= high]
    step = -(-len(inside) // most) if inside else 1
    return inside[::step] or [low]
