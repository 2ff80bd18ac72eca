"""Calibration, selective prediction and accuracy by group of a run, as figures, sentences and tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from loupe.errors import counted
from loupe.evaluate import calibration
from loupe.evaluate.confidence_results import (
    Calibration,
    CalibrationOfSplit,
    CoveragePoint,
    FittedTemperature,
    ReliabilityBin,
    RiskCoverage,
)
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.results import GroupAccuracies, GroupsLeftOut, RunResults
from loupe.report import figures, texts
from loupe.report.content import NARROW_PX, WIDE_PX, Drawing
from loupe.report.figures import FIRST, LINE, MUTED, SECOND, SURFACE

HEIGHT_PX = 300
FEWEST_IN_LINE = 10  # images of a bin; bins with fewer are not part of the line


def shown(results: RunResults) -> dict[str, Any] | None:
    """Values of the template `confidence.html`; None if the run has no such figures, as in earlier versions.

    They are of test images if the run has evaluated some, else of validation images; `part` names the split.
    """
    calibrated, selective = results.calibration, results.selective
    if not calibrated or not selective:
        return None
    part, compared, curve = (
        ("test", calibrated.test, selective.test)
        if calibrated.test
        else ("validation", calibrated.validation, selective.validation)
    )
    if compared is None or curve is None:
        return None
    evaluated = results.splits.get(part)
    return {
        "part": part,
        "fitted": is_fitted(calibrated.temperature),
        "compared": compared,
        "reliability": reliability(calibrated.temperature, compared, part),
        "reliability_words": reliability_words(calibrated, compared, part),
        "curve": risk_coverage(curve, part),
        "curve_words": curve_words(curve, part),
        "thresholds": selective.thresholds,
        "thresholds_why": selective.why,
        "highest": selective.highest_precision,
        "promise": selective.confidence,
        "beside": ["validation", "test"] if selective.test else ["validation"],
        "groups": _groups(evaluated.per_group if evaluated else None),
    }


def is_fitted(temperature: FittedTemperature) -> bool:
    return temperature.why is None and temperature.low is not None and temperature.high is not None


def _groups(per_group: GroupAccuracies | None) -> dict[str, Any] | None:
    """Rows of the groups, lowest accuracy first, and the number left out; None without rows."""
    if not per_group or not per_group.rows:
        return None
    rows = sorted(per_group.rows, key=lambda row: row.accuracy.value or 0.0)
    return {"rows": rows, "left_out": per_group.left_out or GroupsLeftOut(groups=0, images=0)}


def reliability(temperature: FittedTemperature, compared: CalibrationOfSplit, part: str) -> Drawing:
    """Reliability diagram: accuracy against confidence by bin, before and after calibration."""
    series = [("before", _filled(compared.bins.before), MUTED)]
    if is_fitted(temperature):
        series.append(("after", _filled(compared.bins.after), FIRST))
    words = f"Accuracy by confidence of {part} images. " + " ".join(
        _bins_in_words(name, bins) for name, bins, _ in series
    )

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for name, bins, color in series:
            _draw_bins(axes, bins, color, hollow=name == "before")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _percents(axes, "confidence", "accuracy")

    return _drawn("Reliability", words, draw)


@dataclass(frozen=True)
class _Bin:
    """Bin of the diagram with images."""

    images: int
    confidence: float
    accuracy: float
    low: float
    high: float


def _filled(bins: Iterable[ReliabilityBin]) -> list[_Bin]:
    return [
        _Bin(one.images, one.confidence, one.accuracy, one.low or 0.0, one.high or 0.0)
        for one in bins
        if one.images and one.confidence is not None and one.accuracy is not None
    ]


def _bins_in_words(name: str, bins: Sequence[_Bin]) -> str:
    points = [f"{one.confidence:.2f}: {one.accuracy:.2f}" for one in bins]
    return f"{name.capitalize()} calibration, {', '.join(points)}."


def _draw_bins(axes: Axes, bins: Sequence[_Bin], color: str, *, hollow: bool) -> None:
    """Intervals as whiskers, points with an area that grows with the images of the bin, and a line."""
    sure, right = [one.confidence for one in bins], [one.accuracy for one in bins]
    axes.vlines(sure, [one.low for one in bins], [one.high for one in bins], color=color, linewidth=1.2)
    line = [one for one in bins if one.images >= FEWEST_IN_LINE]
    axes.plot([one.confidence for one in line], [one.accuracy for one in line], color=color, linewidth=1.2)
    most = max(one.images for one in bins)
    area = [14 + 50 * one.images / most for one in bins]
    axes.scatter(sure, right, s=area, color=SURFACE if hollow else color, edgecolors=color, linewidths=1.5, zorder=3)


def reliability_words(calibrated: Calibration, compared: CalibrationOfSplit, part: str) -> str:
    """Conclusions from the reliability diagram."""
    fitted, source = calibrated.temperature, texts.fitted_on(calibrated)
    error, loss = compared.ece, compared.log_loss
    images = counted(compared.images, f"{part} image")
    if fitted.low is None or fitted.high is None:
        return (
            f"The calibration error on {images} is {texts.number(error.before)}{_by_chance(compared)}. No temperature "
            f"was fitted: {fitted.why}."
        )
    span = texts.temperature_span(fitted.low, fitted.high)
    together = " and the training images together" if calibrated.fitted_on == "folds" else ""
    kept = f" The temperature was fitted on these images{together}." if part == "validation" else ""
    return (
        f"On {source} the network is {_verdict(fitted.value, fitted.low, fitted.high)}: temperature "
        f"{texts.number(fitted.value)} ({span}). On {images}, calibration changes the calibration error from "
        f"{texts.number(error.before)} to {texts.number(error.after)}{_by_chance(compared)}, and the log loss from "
        f"{texts.number(loss.before)} to {texts.number(loss.after)}: {_change(compared)}.{kept}"
    )


def _by_chance(compared: CalibrationOfSplit) -> str:
    """Calibration error that chance alone may give; after calibration, if there was one."""
    fitted = compared.ece.after != compared.ece.before
    error, bins = (compared.ece.after, compared.bins.after) if fitted else (compared.ece.before, compared.bins.before)
    limit = calibration.chance_error(bins)
    if error > limit:
        return f" (perfectly calibrated: at most {texts.number(limit)}, with 95 % confidence)"
    return f" (no evidence of an error: perfectly calibrated, it may be up to {texts.number(limit)})"


def _change(compared: CalibrationOfSplit) -> str:
    """Verdict on the change of the log loss."""
    change = compared.log_loss.change
    interval = calibration.change_interval(change, compared.images) if change else None
    if interval is None:
        return "whether this is better cannot be told from 1 image" if compared.images == 1 else "not judged"
    low, high = interval
    return "better" if high < 0 else "worse" if low > 0 else "no significant difference"


def _verdict(value: float, low: float, high: float) -> str:
    if low <= 1 <= high:
        return "neither significantly overconfident nor underconfident"
    return "overconfident" if value > 1 else "underconfident"


def risk_coverage(curve: RiskCoverage, part: str) -> Drawing:
    """Risk–coverage curve: error rate among the classified images against their share, with its interval."""
    points = curve.points
    coverage, risk = [point.coverage for point in points], [point.risk for point in points]
    chosen = [min(points, key=lambda point: abs(point.coverage - share)) for share in (0.5, 0.8, 1.0)]
    said = ", ".join(f"{point.risk:.3f} at {point.coverage:.2f}" for point in chosen)
    words = f"Risk by coverage of {part} images: {said}."

    def draw(axes: Axes) -> None:
        low, high = [point.low for point in points], [point.high for point in points]
        axes.fill_between(coverage, low, high, color=LINE, linewidth=0)
        axes.plot(coverage, risk, color=SECOND, marker="o" if len(points) == 1 else None)
        axes.set_xlim(0, 1.02)
        # The first points have few images, and much wider intervals than the others.
        axes.set_ylim(0, 1.15 * max(*high[len(high) // 10 :], *risk))
        _percents(axes, "coverage: share of images classified", "risk")

    return _drawn("Risk and coverage", words, draw)


def curve_words(curve: RiskCoverage, part: str) -> str:
    """Conclusions from the risk–coverage curve."""
    points, area, images = curve.points, curve.area, counted(curve.images, f"{part} image")
    last, half = points[-1], min(points, key=lambda point: abs(point.coverage - 0.5))
    on_all = f"The error rate is {_risk(last)} on {images}"
    if last.risk in (0, 1):
        what = "No image is" if not last.risk else "All images are"
        return f"{on_all}. {what} misclassified, so how well confidence tells errors from correct images is not known."
    if half is last:
        return f"{on_all}. All have the same confidence, which tells nothing about errors."
    return (
        f"{on_all}, and {_risk(half)} on the most confident {texts.percent(half.coverage, 0)}. The area under the "
        f"risk–coverage curve is {texts.number(area.value)}{_span(area)}; uninformative confidence would give "
        f"{texts.number(last.risk)}{_informs(area, last.risk)}."
    )


def _risk(point: CoveragePoint) -> str:
    return f"{texts.percent(point.risk)} ({texts.between(point.low, point.high, as_percent=True)})"


def _informs(area: Estimate, uninformative: float) -> str:
    """Verdict on the area, by its interval."""
    if area.low is None or area.high is None or area.low <= uninformative <= area.high:
        return ", from which these images cannot tell it"
    return ""


def _span(estimate: Estimate) -> str:
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
