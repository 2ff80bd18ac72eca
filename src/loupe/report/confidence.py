"""How far a run's confidence can be trusted, as figures, sentences and a table, from results.json alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from loupe.report import figures, texts
from loupe.report.content import NARROW_PX, WIDE_PX, Drawing
from loupe.report.figures import FIRST, LINE, MUTED, SECOND, SURFACE

Block = Mapping[str, Any]
HEIGHT_PX = 300
FEWEST_IN_LINE = 10  # images of a bin; the line of the diagram passes by points that are little but chance


def shown(results: Block) -> dict[str, Any] | None:
    """What the template `confidence.html` shows; None where the run has no such figures (as one of before them).

    Test images where the run has some, else those of validation; `part` says which.
    """
    calibration, selective = results.get("calibration"), results.get("selective")
    if not calibration or not selective:
        return None
    part = next((part for part in ("test", "validation") if calibration[part]), None)
    if part is None:
        return None
    return {
        "part": part,
        "temperature": calibration["temperature"],
        "compared": calibration[part],
        "reliability": reliability(calibration, part),
        "reliability_words": reliability_words(calibration, part),
        "curve": risk_coverage(selective[part], part),
        "curve_words": curve_words(selective[part], part),
        "thresholds": selective["thresholds"],
        "thresholds_why": selective.get("why"),
        "highest": selective["highest_precision"],
        "promise": selective["confidence"],
        "beside": ["validation", "test"] if selective["test"] else ["validation"],
        "groups": _groups((results.get(part) or {}).get("per_group")),
    }


def _groups(per_group: Block | None) -> dict[str, Any] | None:
    """The groups' rows, lowest accuracy first, and how many were left out; None where there are no rows to show."""
    if not per_group or not per_group["rows"]:
        return None
    rows = sorted(per_group["rows"], key=lambda row: row["accuracy"]["value"])
    return {"rows": rows, "left_out": per_group["left_out"]}


def reliability(calibration: Block, part: str) -> Drawing:
    """The reliability diagram: accuracy against confidence, bin by bin, before and after the temperature."""
    bins = calibration[part]["bins"]
    fitted = "why" not in calibration["temperature"]
    series = [("before", bins["before"], MUTED)] + ([("after", bins["after"], FIRST)] if fitted else [])
    words = f"Accuracy by confidence of {part} images. " + " ".join(
        _bins_in_words(name, rows) for name, rows, _ in series
    )

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for name, rows, color in series:
            _draw_bins(axes, [row for row in rows if row["images"]], color, hollow=name == "before")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _percents(axes, "confidence", "accuracy")

    return _drawn("Reliability", words, draw)


def _bins_in_words(name: str, rows: Sequence[Block]) -> str:
    points = [f"{row['confidence']:.2f}: {row['accuracy']:.2f}" for row in rows if row["images"]]
    return f"{name.capitalize()} calibration, {', '.join(points)}."


def _draw_bins(axes: Axes, rows: Sequence[Block], color: str, *, hollow: bool) -> None:
    """Intervals as whiskers, points whose area grows with the images of their bin, and a line through all but few."""
    sure, right = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
    axes.vlines(sure, [row["low"] for row in rows], [row["high"] for row in rows], color=color, linewidth=1.2)
    line = [row for row in rows if row["images"] >= FEWEST_IN_LINE]
    axes.plot([row["confidence"] for row in line], [row["accuracy"] for row in line], color=color, linewidth=1.2)
    most = max(row["images"] for row in rows)
    area = [14 + 50 * row["images"] / most for row in rows]
    axes.scatter(sure, right, s=area, color=SURFACE if hollow else color, edgecolors=color, linewidths=1.5, zorder=3)


def reliability_words(calibration: Block, part: str) -> str:
    """What the diagram says, in a sentence or two."""
    fitted, compared = calibration["temperature"], calibration[part]
    error = compared["ece"]
    if "why" in fitted:
        return (
            f"The calibration error of {part} images is {texts.number(error['before'])}. No temperature was fitted: "
            f"{fitted['why']}."
        )
    loss, span = compared["log_loss"], f"{texts.number(fitted['low'])} to {texts.number(fitted['high'])}"
    change, kept = loss["change"], " It was fitted on these images." if part == "validation" else ""
    clear = "an improvement" if change["high"] < 0 else "a loss" if change["low"] > 0 else "no clear difference"
    return (
        f"On validation images the network was {_verdict(fitted)}: temperature {texts.number(fitted['value'])} "
        f"({span}). On {part} images this takes the calibration error from {texts.number(error['before'])} to "
        f"{texts.number(error['after'])}, and the log loss from {texts.number(loss['before'])} to "
        f"{texts.number(loss['after'])}, {clear}.{kept}"
    )


def _verdict(fitted: Block) -> str:
    if fitted["low"] <= 1 <= fitted["high"]:
        return "neither clearly too sure nor too unsure"
    return f"{'surer' if fitted['value'] > 1 else 'less sure'} than its accuracy warrants"


def risk_coverage(curve: Block, part: str) -> Drawing:
    """The share of mistakes among the images that are kept, against the share that is kept, with its interval."""
    points = curve["points"]
    coverage, risk = [point["coverage"] for point in points], [point["risk"] for point in points]
    chosen = [min(points, key=lambda point: abs(point["coverage"] - share)) for share in (0.5, 0.8, 1.0)]
    said = ", ".join(f"{point['risk']:.3f} at {point['coverage']:.2f}" for point in chosen)
    words = f"Risk by coverage of {part} images: {said}."

    def draw(axes: Axes) -> None:
        low, high = [point["low"] for point in points], [point["high"] for point in points]
        axes.fill_between(coverage, low, high, color=LINE, linewidth=0)
        axes.plot(coverage, risk, color=SECOND, marker="o" if len(points) == 1 else None)
        axes.set_xlim(0, 1.02)
        # The first points are a few images each, whose intervals reach far above all that follows.
        axes.set_ylim(0, 1.15 * max(*high[len(high) // 10 :], *risk))
        _percents(axes, "coverage: share of images classified", "risk")

    return _drawn("Risk and coverage", words, draw)


def curve_words(curve: Block, part: str) -> str:
    """What the curve says, in a sentence or two."""
    points, area = curve["points"], curve["area"]
    half = min(points, key=lambda point: abs(point["coverage"] - 0.5))
    return (
        f"Of all {part} images {texts.percent(points[-1]['risk'])} are mistakes; of the surer half, "
        f"{texts.percent(half['risk'])}. The mean over all coverages, the area under the curve, is "
        f"{texts.number(area['value'])}{_span(area)}; confidence that says nothing would give "
        f"{texts.number(points[-1]['risk'])}."
    )


def _span(estimate: Block) -> str:
    span = texts.interval(estimate)
    return f" ({span})" if span else ""


def _percents(axes: Axes, x: str, y: str) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.grid(axis="y", linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _drawn(title: str, words: str, draw: Callable[[Axes], None]) -> Drawing:
    wide, narrow = (
        figures.chart(draw, label=words, width_px=width, height_px=HEIGHT_PX) for width in (WIDE_PX, NARROW_PX)
    )
    return Drawing(title, wide, narrow)
