"""Figures as SVG with the colours of the page around them, for light mode, dark mode and print.

Matplotlib draws with placeholder colours, which become CSS variables in the finished text. Text stays text, in the font
of the page. The same input gives the same bytes. Neither pyplot nor other shared state is used.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from loupe.log import rounded

# Placeholder colours that nothing else draws with; matplotlib writes them in lower case.
INK, MUTED, LINE, SURFACE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08", "#0a0b09", "#0a0b0a"
SERIES = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SURFACE: "var(--surface)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
    FOURTH: "var(--fourth)",
    FIFTH: "var(--fifth)",
    SIXTH: "var(--sixth)",
}
_PX = 1 / 72  # inches: matplotlib's SVG has 72 units to the inch, so that one unit is one CSS pixel
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "grid.color": LINE,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart: a name and a value for each epoch, None where it was not measured."""

    name: str
    values: Sequence[float | None]
    color: str


@dataclass(frozen=True)
class Axis:
    """Horizontal axis of learning curves.

    Attributes:
        unit: what its values are: `epoch` or `L2 strength`.
        values: a value for each point of a curve.
        kept: the value whose weights were kept, which gets a mark on every curve.
        stage_starts: first epochs of the stages after the first.
    """

    unit: str
    values: Sequence[float]
    kept: float | None = None
    stage_starts: Sequence[float] = ()
    logarithmic: bool = False

    def draw(self, axes: Axes, width_px: int) -> None:
        """Set scale, ticks and name."""
        axes.set_xlabel(self.unit)
        if not self.logarithmic:
            ticks = MaxNLocator(integer=True, nbins=max(2, width_px // 60), steps=[1, 2, 5, 10], min_n_ticks=1)
            axes.xaxis.set_major_locator(ticks)
            return
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        ends = [math.log10(value) for value in (min(self.values), max(self.values))]
        powers = range(math.ceil(ends[0] - 1e-9), math.floor(ends[1] + 1e-9) + 1)
        step = -(-len(powers) // max(2, width_px // 60)) or 1
        named = [10.0**power for power in powers[::step]] if len(powers) > 1 else sorted({*self.values})
        axes.set_xticks(named, [rounded(value) for value in named])


def learning_curve(
    axis: Axis, curves: Sequence[Curve], *, label: str, width_px: int, height_px: int = 260, percent: bool = False
) -> str:
    """SVG of one quantity over the epochs or L2 strengths; `label` is its alt text."""
    with canvas(width_px, height_px) as figure:
        axes = figure.add_subplot()
        for start in axis.stage_starts:
            axes.axvline(start - 0.5, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        if axis.kept is not None and axis.kept in axis.values:
            axes.axvline(axis.kept, color=LINE, linewidth=6)
        for curve in curves:
            _draw(axes, axis, curve)
        axes.grid(axis="y", linewidth=1)
        axes.set_axisbelow(True)
        axes.margins(x=0.02, y=0.08)
        axis.draw(axes, width_px)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        return svg(figure, label)


def chart(draw: Callable[[Axes], None], *, label: str, width_px: int, height_px: int) -> str:
    """SVG of what `draw` puts on the axes, in the colours above; `label` is its alt text."""
    with canvas(width_px, height_px) as figure:
        draw(figure.add_subplot())
        return svg(figure, label)


def bars(
    values: Mapping[str, float],
    texts: Sequence[str],
    *,
    label: str,
    width_px: int,
    color: str = FIRST,
    bar_px: int = 30,
) -> str:
    """SVG of horizontal bars from zero, one for each named value, with its text at the bar's end."""
    height_px = bar_px * len(values) + 8
    with canvas(width_px, height_px) as figure:
        axes = figure.add_subplot()
        rows = range(len(values))
        axes.barh(rows, list(values.values()), height=0.55, color=color, linewidth=0)
        largest = max([*values.values(), 0.0]) or 1.0
        for row, (value, text) in enumerate(zip(values.values(), texts, strict=True)):
            axes.text(value + largest * 0.015, row, text, va="center", ha="left", color=INK)
        axes.set_yticks(rows, list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        longest = max((len(text) for text in texts), default=0)
        axes.set_xlim(0, largest * (1 + 8.5 * longest / width_px))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return svg(figure, label)


@dataclass(frozen=True)
class Bar:
    """One bar of a group, with its text; `low` and `high` are the ends of its whisker, where it has one."""

    value: float
    text: str
    low: float | None = None
    high: float | None = None

    @property
    def end(self) -> float:
        return self.value if self.high is None else max(self.value, self.high)


def grouped_bars(
    groups: Sequence[tuple[str, Bar | None, Bar | None]],
    *,
    label: str,
    width_px: int,
    names_above: bool = False,
    bar_px: int = 18,
) -> str:
    """SVG of groups of two horizontal bars from zero: a hollow one for the reference, a filled one for the measurement.

    A group is its name, the reference bar and the measured bar; None leaves a bar out and centres the other.
    `names_above` puts the names above their groups instead of left of them, for narrow figures.
    """
    step_px = 2 * bar_px + (bar_px + 8 if names_above else 10)
    with canvas(width_px, step_px * len(groups) + 8) as figure:
        axes = figure.add_subplot()
        names_px = 0 if names_above else 7 * max((len(name) for name, _, _ in groups), default=0)
        plot_px = max(60, width_px - names_px)
        limit = _limit(groups, plot_px)
        for row, (name, reference, measured) in enumerate(groups):
            middle = row + (bar_px / 2 / step_px if names_above else 0)
            apart = bar_px / 2 / step_px if reference and measured else 0.0
            for bar, at, filled in ((reference, middle - apart, False), (measured, middle + apart, True)):
                if bar is not None:
                    _bar(axes, bar, at, thickness=0.72 * bar_px / step_px, gap=6 * limit / plot_px, filled=filled)
            if names_above:
                top = middle - (bar_px if apart else bar_px / 2) / step_px
                axes.text(0, top - 0.02, plain(name), va="bottom", ha="left", color=MUTED)
        axes.set_yticks(range(len(groups)), ["" if names_above else plain(name) for name, _, _ in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlim(0, limit)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return svg(figure, label)


def _limit(groups: Sequence[tuple[str, Bar | None, Bar | None]], plot_px: int) -> float:
    """Upper end of the axis, with room for the text of each bar."""
    drawn = [bar for _, *pair in groups for bar in pair if bar is not None]
    ends = [bar.end / max(0.3, 1 - (7.5 * len(bar.text) + 8) / plot_px) for bar in drawn]
    return max(ends, default=0.0) or 1.0


def _bar(axes: Axes, bar: Bar, at: float, *, thickness: float, gap: float, filled: bool) -> None:
    """One bar with its whisker and its text, hollow or filled, so that they differ without colour too."""
    edge = FIRST if filled else MUTED
    axes.barh(at, bar.value, height=thickness, color=FIRST if filled else SURFACE, edgecolor=edge, linewidth=1.2)
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [at, at], color=SURFACE, linewidth=4, solid_capstyle="butt")
        axes.plot([bar.low, bar.high], [at, at], color=INK, linewidth=1.5, marker="|", markersize=7)
    axes.text(bar.end + gap, at, bar.text, va="center", ha="left", color=INK)


def plain(name: str) -> str:
    """Name on one line, without control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in name)


def _draw(axes: Axes, axis: Axis, curve: Curve) -> None:
    """Line of one curve, dots if it has one point or L2 strengths, and a ring at the point whose weights were kept."""
    points = {at: value for at, value in zip(axis.values, curve.values, strict=True) if value is not None}
    dots = "o" if len(points) == 1 or axis.logarithmic else None
    axes.plot(list(points), list(points.values()), color=curve.color, marker=dots, markersize=5)
    if axis.kept in points:
        axes.plot(
            [axis.kept],
            [points[axis.kept]],
            "o",
            color=SURFACE,
            markersize=7,
            markeredgecolor=curve.color,
            markeredgewidth=2,
        )


@contextmanager
def canvas(width_px: int, height_px: int) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width_px * _PX, height_px * _PX), layout="constrained")


def svg(figure: Figure, label: str) -> str:
    """SVG element of a figure with CSS variables for colours, safe to place in an HTML page beside others.

    Elements with a gid such as `series-1` keep it as a class, so that a page can show and hide them.
    """
    text = io.StringIO()
    # Ids of clipping paths come from this salt and the path; with the label in it, no two figures of a page share one.
    with mpl.rc_context({"svg.hashsalt": f"{label} {figure.get_size_inches()}"}):
        # `savefig` would draw everything twice: once without output, to lay it out, which drawing does anyway.
        canvas_of_figure: Any = FigureCanvasSVG(figure)  # without types
        canvas_of_figure.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Its style element would reach every element of the page; its ids of groups are the same in every figure.
    drawn = re.sub(r"<(metadata|style)\b.*?</\1>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="(series-\d+)"', r'<g class="\1"', drawn)
    drawn = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", drawn)
    width, height = (round(inches / _PX) for inches in figure.get_size_inches())
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    view = f'<svg {size} role="img" aria-label="{_attribute(label)}">'
    drawn = re.sub(r"<svg[^>]*>", lambda _: view, drawn, count=1)
    drawn = re.sub(r"font: [^;\"]*?([\d.]+)px[^;\"]*", r"font-size: \1px", drawn)
    return re.sub(r"#0a0b0[0-9a-f]", lambda found: VARIABLES[found.group()], drawn)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
