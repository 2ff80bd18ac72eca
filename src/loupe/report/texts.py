"""Numbers as text: percent, intervals, durations, counts; and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loupe import log
from loupe.errors import counted, enumerated, sentences
from loupe.evaluate.confidence_results import WIDEST, Calibration
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.history import StageResult
from loupe.evaluate.results import RunResults
from loupe.evaluate.spread import Spread
from loupe.provenance import ParentRun

UNDEFINED = "–"
FRACTIONS = {2: "half", 3: "two thirds", 4: "three quarters", 5: "four fifths"}  # of the images, without one fold
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


def temperature_span(low: float, high: float) -> str:
    """Interval of a temperature, within the range in which one is searched: `0.9 to 1.4`, `below 0.001 to 12`."""
    ends = (
        f"below {1 / WIDEST:g}" if low < 1 / WIDEST else f"{low:.3f}",
        f"above {WIDEST:,.0f}" if high > WIDEST else f"{high:.3f}",
    )
    return " to ".join(ends)


def fitted_on(calibration: Calibration) -> str:
    """Images on which the temperature was fitted."""
    return "out-of-fold predictions" if calibration.fitted_on == "folds" else "validation images"


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


def strengths(number: float) -> str:
    """`1 L2 strength`, `11 L2 strengths`."""
    return "1 L2 strength" if number == 1 else f"{number:,.3g} L2 strengths"


def length(stages: Sequence[StageResult], rows: float) -> str:
    """Length of a training: `30 epochs`, `11 L2 strengths`, `11 L2 strengths, 8 epochs`.

    Args:
        stages: its stages; empty where they are not known.
        rows: rows of its metrics.csv.
    """
    tried, epochs = _lengths(stages, rows)
    trained = "1 epoch" if epochs == 1 else f"{epochs:,g} epochs"
    return ", ".join(text for text, number in ((strengths(tried), tried), (trained, epochs)) if number) or "0 epochs"


def length_in_short(stages: Sequence[StageResult], rows: float) -> str:
    """Length of a training for a narrow column, whose heading is epochs: `30`, `11 L2`, `11 L2 + 8`."""
    tried, epochs = _lengths(stages, rows)
    return (
        " + ".join(text for text in (f"{tried:g} L2" if tried else "", f"{epochs:g}" if epochs else "") if text) or "0"
    )


def _lengths(stages: Sequence[StageResult], rows: float) -> tuple[float, float]:
    """Numbers of L2 strengths and of epochs."""
    tried = sum(stage.strengths or 0 for stage in stages)
    return tried, sum(stage.epochs or 0 for stage in stages) if stages else rows


def seconds_per_epoch(stages: Sequence[StageResult]) -> float | None:
    """Mean time of an epoch over the stages that were trained in steps; None if there are none."""
    trained = [stage for stage in stages if stage.epochs]
    epochs = sum(stage.epochs or 0 for stage in trained)
    return sum(stage.seconds for stage in trained) / epochs if epochs else None


def kept(stages: Sequence[StageResult], row: int) -> str:
    """Kept weights: `epoch 17` or `L2 strength 464`; epochs are numbered without the strengths before them.

    Args:
        row: row of metrics.csv, from 1.
    """
    before = tried = 0.0
    for stage in stages:
        if row <= before + stage.rows and stage.l2_strength is not None:
            return f"L2 strength {log.rounded(stage.l2_strength)}"
        if row <= before + stage.rows:
            break
        before, tried = before + stage.rows, tried + (stage.strengths or 0)
    return f"epoch {row - tried:g}"


def part(stage: StageResult) -> str:
    """Trained part of the network: `head`, `last-block`, `all blocks`."""
    return "all blocks" if stage.part == "all" else stage.part


def solved(stage: StageResult) -> str:
    """Solving of a head in words, after its name."""
    if stage.strengths == 1:
        return f"solved for L2 strength {log.rounded(stage.l2_strength or 0)} in {duration(stage.seconds)}"
    selected = "" if stage.l2_strength is None else f", {log.rounded(stage.l2_strength)} selected"
    return f"solved for {strengths(stage.strengths or 0)} in {duration(stage.seconds)}{selected}"


def started(results: RunResults) -> str:
    """Classifier from whose weights a run started, and images that it was trained on; empty without one.

    Of a blend, the runs that it was made of, and the verdict on it; of a student, the verdict beside its teacher.
    """
    if results.made_of:
        made_of = enumerated([log.printable(one.name) for one in results.made_of])
        verdict = (results.blend.text, results.blend.remark or "") if results.blend else ()
        return sentences(f"Made of the runs {made_of}", *verdict)
    taught = _taught(results)
    parent = results.parent
    if parent is None:
        return taught
    return sentences(_started(results, parent), taught)


def _taught(results: RunResults) -> str:
    """Verdict on a network that learned from another run, in sentences; empty for others."""
    verdict = results.distilled
    if verdict is None:
        return ""
    said = "The network learned the probabilities of a teacher beside the labels"
    return sentences(f"{said}: {verdict.text}", verdict.remark or "")


def _started(results: RunResults, parent: ParentRun) -> str:
    origin = f"Training started from the weights of {log.printable(parent.name)}"
    seen = {"validation image": (parent.seen_validation, results.images.val)}
    seen["test image"] = (parent.seen_test, results.images.test)
    told = [f"{images:,} of {counted(of, kind)}" for kind, (images, of) in seen.items() if images]
    if told:
        return f"{origin}, which was trained on {enumerated(told)}: figures are too high."
    if parent.seen_validation is None or parent.seen_test is None:
        return f"{origin}. Not all its training images are known: some may be among those evaluated here."
    return f"{origin}."


def folded(results: RunResults) -> str:
    """Meaning of the figures of the folds, in sentences; empty without any."""
    block = results.folds
    if block is None:
        return ""
    kinds = "training and validation images" if results.images.val else "training images"
    own = results.refit.images if results.refit else results.images.train
    return (
        f"Folds: each of the {block.images:,} {kinds} predicted by a head that learned from the other "
        f"{FRACTIONS[block.folds]} ({block.learned:,} images). The head of this run learned from {own:,}."
    )


def refitted(results: RunResults) -> str:
    """Images that the head of a run learned from in its refit, and what its figures are of; empty without one."""
    found = results.refit
    if found is None:
        return ""
    before = results.stages[0].l2_strength if results.stages else None
    beside = "" if before is None else f" ({log.rounded(before)} on validation images)"
    test = " The test figures are of this head, which saw no test image." if results.test else ""
    return (
        f"Refit: the head learned from all {found.images:,} training and validation images, at L2 strength "
        f"{log.rounded(found.l2_strength)}, the best of the folds{beside}.{test}"
    )


def unevaluated(results: RunResults) -> str:
    """Reason why a finished run has no figures of images that it was not trained on."""
    if results.images.val or results.images.test:
        return "Neither validation nor test images were evaluated."
    return "No images were held out for validation or test, so the accuracy on other images cannot be told."
