"""Page of a search within a time limit: its candidates in time, the frontier, and the reason for the chosen one.

It is made from search.json alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.errors import RunStateError, counted
from loupe.evaluate.search_results import FILE, Judged, SearchedCandidate, SearchResults
from loupe.files import write_atomic
from loupe.report import charts, search_charts, texts
from loupe.report.content import Drawing
from loupe.report.template import render

PAGE = "search.html"
WIDE_PX, NARROW_PX, HALF_PX = 760, 330, 540
MOST_BARS = 40
STATES = {"planned": "not reached", "skipped": "skipped", "stopped": "stopped", "failed": "failed"}
PREDICTION = charts.CostAxis("time of a prediction", lambda seconds: f"{1000 * seconds:.3g} ms")
SIZE = charts.CostAxis("size of the weights", lambda count: f"{count / 1e6:.3g} MB")


@dataclass(frozen=True)
class Row:
    """Row of the table of candidates."""

    name: str
    title: str
    state: str
    accuracy: str
    interval: str
    difference: str
    time: str
    predict: str
    size: str
    is_chosen: bool


def write_page(folder: Path) -> None:
    """Write the page of the search whose search.json lies in `folder`, beside it.

    Raises:
        RunStateError: there is no search.json, or it is damaged.
    """
    results = SearchResults.read_if_there(folder / FILE)
    if results is None:
        raise RunStateError(
            f"{folder} has no {FILE}: it is no search. Start one with: loupe train DATA --time-limit 10m"
        )
    write_atomic(folder / PAGE, render("search.html", _gather(results)))


def _gather(results: SearchResults) -> dict[str, Any]:
    """Values of the template."""
    chosen = results.chosen
    reached = [one for one in results.candidates if one.began_seconds is not None and one.seconds is not None]
    return {
        "content": results,
        "chosen": chosen,
        "accuracy": _accuracy(chosen.judged) if chosen and chosen.judged else None,
        "interval": _interval(chosen.judged) if chosen and chosen.judged else None,
        "evidence": _evidence(chosen.judged) if chosen and chosen.judged else None,
        "facts": _facts(results, chosen),
        "timeline": _timeline(results, reached),
        "left_out": max(0, len(reached) - MOST_BARS),
        "frontiers": _frontiers(results),
        "rows": [_row(one, results.delivered) for one in results.candidates],
        "unreached": sum(one.status == "planned" for one in results.candidates),
        "environment": {
            name: value for name, value in results.environment.items() if value is not None and name != "command"
        },
    }


def _facts(results: SearchResults, chosen: SearchedCandidate | None) -> dict[str, str]:
    """Figures beside the title."""
    limit = results.limit_seconds
    return {
        "Time limit": texts.duration(limit),
        "Time used": texts.duration(results.seconds.total),
        "Candidates tried": f"{len(results.tried)} of {len(results.candidates)}",
        "Prediction of an image": _predict(chosen.predict_seconds if chosen else None),
    }


def _accuracy(judged: Judged) -> str:
    return texts.percent(judged.accuracy.value)


def _interval(judged: Judged) -> str | None:
    return texts.interval(judged.accuracy, as_percent=True)


def _evidence(judged: Judged) -> str:
    if judged.evidence == "out-of-fold":
        return f"out-of-fold predictions of {counted(judged.images, 'image')}"
    return counted(judged.images, "validation image")


def _timeline(results: SearchResults, reached: Sequence[SearchedCandidate]) -> Drawing | None:
    """Candidates that were begun, as bars over the time; the last ones where there are many. None without any."""
    shown = sorted(reached, key=lambda one: (one.began_seconds or 0.0, one.name))
    kept = {one.name for one in shown[-MOST_BARS:]} | {results.delivered}
    bars = [_bar(one, results.delivered) for one in shown if one.name in kept]
    if not bars:
        return None
    words = f"Timeline of a limit of {texts.duration(results.limit_seconds)}. " + " ".join(
        f"{bar.name}: from {texts.duration(bar.began_seconds)} for {texts.duration(bar.seconds)}, {bar.text}."
        for bar in bars
    )
    wide = search_charts.timeline(bars, results.limit_seconds, label=words, width_px=WIDE_PX)
    narrow = search_charts.timeline(bars, results.limit_seconds, label=words, width_px=NARROW_PX, names_above=True)
    return Drawing("Candidates over the time", wide, narrow)


def _bar(one: SearchedCandidate, delivered: str | None) -> search_charts.Bar:
    judged = one.judged or one.subset
    text = STATES.get(one.status, "")
    if judged:
        figures = f"{_accuracy(judged)} ({_interval(judged)})" if _interval(judged) else _accuracy(judged)
        text = figures if one.judged else f"{figures} on a subset"
    return search_charts.Bar(
        texts.short(one.name, 42),
        one.began_seconds or 0.0,
        one.seconds or 0.0,
        text or "finished",
        is_finished=one.status in {"finished", "skipped"},
        is_chosen=one.name == delivered,
    )


def _frontiers(results: SearchResults) -> list[Drawing]:
    """Accuracy against the time of a prediction, and against the size of the weights."""
    both: tuple[tuple[charts.CostAxis, Callable[[SearchedCandidate], float | None]], ...] = (
        (PREDICTION, lambda one: one.predict_seconds),
        (SIZE, lambda one: one.weights_bytes),
    )
    return [drawing for axis, cost in both if (drawing := _frontier(results, axis, cost))]


def _frontier(
    results: SearchResults, axis: charts.CostAxis, cost: Callable[[SearchedCandidate], float | None]
) -> Drawing | None:
    """Chart of the candidates whose cost is known; None without any. Of equal ones, the chosen one or the best."""
    points: dict[tuple[float, float], charts.Point] = {}
    for one in results.tried:
        spent, judged = cost(one), one.judged
        if not spent or judged is None or judged.accuracy.value is None:
            continue
        accuracy = judged.accuracy
        is_chosen = one.name == results.delivered
        key = (float(spent), judged.accuracy.value)
        if key in points and not is_chosen:
            continue
        points[key] = charts.Point(
            texts.short(one.name, 26), float(spent), judged.accuracy.value, accuracy.low, accuracy.high, is_chosen
        )
    if not points:
        return None
    drawn = list(points.values())
    title = f"Accuracy against {axis.name}"
    words = f"{title}. " + " ".join(
        f"{one.name}: {texts.percent(one.value)} at {axis.text(one.seconds)}{', chosen' if one.chosen else ''}."
        for one in drawn
    )
    wide, narrow = (
        charts.accuracy_against_cost(drawn, label=words, width_px=width_px, axis=axis)
        for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing(title, wide, narrow)


def _row(one: SearchedCandidate, delivered: str | None) -> Row:
    judged = one.judged or one.subset
    state = "finished" if one.status == "finished" else STATES[one.status]
    if one.reason:
        state = f"{state}: {one.reason}"
    elif judged is not None and one.judged is None:
        state = f"{state}, judged on a subset of the images"
    return Row(
        name=one.name,
        title=one.title,
        state=state,
        accuracy=_accuracy(judged) if judged else texts.UNDEFINED,
        interval=(_interval(judged) or "") if judged else "",
        difference=_difference(one),
        time=texts.duration(one.seconds),
        predict=_predict(one.predict_seconds),
        size=texts.UNDEFINED if one.weights_bytes is None else SIZE.text(one.weights_bytes),
        is_chosen=one.name == delivered,
    )


def _difference(one: SearchedCandidate) -> str:
    """Points against the best candidate before it, with the interval."""
    found = one.against_best
    if found is None:
        return texts.UNDEFINED
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _predict(seconds: float | None) -> str:
    return "not measured" if seconds is None else PREDICTION.text(seconds)
