"""Display of the differences in accuracy between one run and others, on the same validation images."""

from collections.abc import Sequence
from dataclasses import dataclass

from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.history import read_history, strength_of
from loupe.evaluate.paired import Candidate, Difference, difference_of_hits, holm, matched_hits
from loupe.evaluate.predictions import read_splits
from loupe.evaluate.results import results_of
from loupe.evaluate.selection import SIGNIFICANCE
from loupe.notebook.display import Display, display
from loupe.report import charts, figures, texts
from loupe.report.comparison_page import COLORS, NARROW_PX, WIDE_PX
from loupe.report.content import Drawing
from loupe.rundir import RunDirectory

LEAST_SIDE = 0.02  # of the axis of differences, to each side of 0


@dataclass(frozen=True)
class Row:
    """Run with its accuracy and its difference from the reference, in points and as positions in percent of the axis.

    Attributes:
        points: difference with the limits of its interval; None for the reference itself.
        at: lower limit, difference and upper limit on the axis.
        color: class of its curve; None where there are more curves than colours.
    """

    name: str
    accuracy: Estimate
    color: str | None
    points: tuple[str, str, str] | None = None
    at: tuple[float, float, float] | None = None
    verdict: str = "reference"

    @property
    def text(self) -> str:
        """The row in words."""
        accuracy = f"{self.name}: {texts.percent(self.accuracy.value)}"
        if self.points is None:
            return f"{accuracy}, {self.verdict}"
        value, low, high = self.points
        return f"{accuracy}, {value} points (interval {low} to {high}): {self.verdict}"


def differences(reference: RunDirectory, others: Sequence[RunDirectory]) -> Display:
    """Accuracy of other runs minus that of a reference on validation images, and the curves of all.

    Each difference has a paired bootstrap interval over the images and an exact McNemar test. Holm's method corrects
    the tests for the number of other runs.

    Raises:
        ConfigError: no other run is given, or two have the same name.
        RunStateError: a run is not finished, or has no predictions of validation images.
        DataError: the runs have different validation images.
    """
    if not others:
        raise ConfigError("differences needs at least one other run, as in run.differences([other]).")
    runs = [reference, *others]
    candidates = [_candidate(run) for run in runs]
    hits = matched_hits(candidates)
    found = [difference_of_hits(candidates[0].name, one.name, hits) for one in candidates[1:]]
    side = max([LEAST_SIDE, *(abs(limit) for one in found for limit in (one.low, one.high))])
    colors = COLORS if len(runs) <= len(COLORS) else (None,) * len(runs)
    rows = [Row(candidates[0].name, _accuracy(reference), colors[0])]
    for run, one, p, color in zip(others, found, holm([one.p for one in found]), colors[1:], strict=False):
        low, value, high = one.low, one.value, one.high
        points = (f"{100 * value:+.1f}", f"{100 * low:+.1f}", f"{100 * high:+.1f}")
        at = (_place(low, side), _place(value, side), _place(high, side))
        rows.append(Row(one.second, _accuracy(run), color, points, at, _verdict(one, p)))
    shown = {
        "name": rows[0].name,
        "rows": rows,
        "images": found[0].images,
        "curves": _curves(rows, runs) if colors[0] else None,
    }
    text = "\n".join([f"Accuracy on {found[0].images:,} validation images", *(row.text for row in rows)])
    height_px = 270 + 76 * len(rows) + (430 if shown["curves"] else 0)
    return display("cell_differences.html", shown, text=text, height_px=height_px)


def _candidate(run: RunDirectory) -> Candidate:
    """Stored predictions of the validation images.

    Raises:
        RunStateError: there are none.
    """
    file = run.file("predictions.csv")
    found = read_splits(file).get("val") if file.is_file() else None
    if found is None:
        raise RunStateError(f"{run.path} has no predictions of validation images, on which runs are compared.")
    return Candidate(run.path.resolve().name, (found,), None)


def _accuracy(run: RunDirectory) -> Estimate:
    results = results_of(run)
    if results is None or results.validation is None:
        raise RunStateError(f"{run.path} is not finished. Resume with: {run.resume_command}")
    return results.validation.accuracy


def _place(value: float, side: float) -> float:
    """Place on an axis from -side to side, in percent."""
    return round(50 + 50 * value / side, 2)


def _verdict(one: Difference, p: float) -> str:
    if p >= SIGNIFICANCE:
        return f"no difference can be told (p = {p:.2f})"
    return f"{'better' if one.value > 0 else 'worse'} (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})"


def _curves(rows: Sequence[Row], runs: Sequence[RunDirectory]) -> Drawing | None:
    """Validation accuracy of each run over its epochs; None where no epoch was validated."""
    lines = []
    for row, run, color in zip(rows, runs, figures.SERIES, strict=False):
        epochs = [one for one in read_history(run) if strength_of(one) is None]
        curve = figures.Curve(row.name, [one.get("val_accuracy") for one in epochs], color)
        lines.append(charts.Line([*map(float, range(1, len(epochs) + 1))], curve))
    if not any(line.points for line in lines):
        return None
    title = "Validation accuracy by epoch"
    label = f"{title}: {', '.join(row.name for row in rows)}."
    wide, narrow = (charts.learning_curves(lines, "epoch", label=label, width_px=px) for px in (WIDE_PX, NARROW_PX))
    return Drawing(title, wide, narrow)
