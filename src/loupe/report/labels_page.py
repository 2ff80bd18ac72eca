"""Page of `loupe labels`: the images whose labels look wrong, and the effect of leaving them out."""

from collections.abc import Sequence
from pathlib import Path

from loupe import __version__
from loupe.errors import counted
from loupe.evaluate.label_results import LabelEffect, LabelFinding, LabelResults, PairedAccuracy, Share
from loupe.evaluate.selection import SIGNIFICANCE, fewest_images, mcnemar
from loupe.files import write_atomic
from loupe.report import texts
from loupe.report.template import render

FIRST_SHOWN = 60  # images; the others are in a closed section
MOST_PAIRS = 20
UPWARD_BIAS = (
    "Both figures are biased upwards, more so with all labels: a suspect is an image on which the heads trained on all "
    "labels disagree with its label."
)


def write_page(
    path: Path, results: LabelResults, pictures: Sequence[str], doubtful: Sequence[tuple[LabelFinding, str]] = ()
) -> None:
    """Write the page.

    Args:
        pictures: data URIs of the first suspects.
        doubtful: first of the images that are not suspects but have another most likely class, with their data URIs.
    """
    effect = results.effect
    shown = {
        "results": results,
        "version": __version__,
        "items": list(zip(results.suspects, pictures, strict=False)),
        "others": doubtful,
        "first_shown": FIRST_SHOWN,
        "pairs": results.confused[:MOST_PAIRS],
        "rows": [("all", cells(effect.all)), ("non-suspects", cells(effect.unsuspected))],
        "verdict": verdict(effect.all),
        "may_leave_out": may_leave_out(results),
        "clean": clean(results),
        "upward_bias": UPWARD_BIAS,
    }
    write_atomic(path, render("labels.html", shown))


def cells(pair: PairedAccuracy) -> list[tuple[str, str]]:
    """Images, accuracy with and without the suspects, and the difference in points, each with its interval."""
    gap = pair.difference
    return [
        (texts.count(pair.images), ""),
        *((texts.percent(share.value), _interval(share)) for share in (pair.with_suspects, pair.without)),
        (points(gap.value), f"{points(gap.low)} to {points(gap.high)}"),
    ]


def points(fraction: float) -> str:
    """Difference of two fractions in percentage points, with its sign."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def verdict(pair: PairedAccuracy) -> str:
    """Effect of leaving the suspects out, in a phrase, by the exact McNemar test."""
    if mcnemar(pair.lost, pair.gained) < SIGNIFICANCE:
        return f"Leaving the suspects out {'raises' if pair.gained > pair.lost else 'lowers'} accuracy"
    if pair.images < fewest_images(1):
        return f"Whether leaving the suspects out changes accuracy cannot be told from {counted(pair.images, 'image')}"
    return "Leaving the suspects out has no significant effect"


def may_leave_out(results: LabelResults) -> bool:
    """True if training without the suspects of the training images may help.

    It may not where there are none, where the heads have not learned the labels, or where accuracy falls without them.
    """
    pair = results.effect.all
    falls = pair.lost > pair.gained and mcnemar(pair.lost, pair.gained) < SIGNIFICANCE
    return bool(results.suspected.get("train")) and results.unlearned is None and not falls


def clean(results: LabelResults) -> str:
    """Conclusion where no label looks wrong."""
    return results.unlearned or "No label looks wrong to these heads; wrong labels that they repeat are not found."


def in_words(effect: LabelEffect) -> list[str]:
    """Effect of leaving the suspects out, as two paragraphs."""
    pair, rest = effect.all, effect.unsuspected
    return [
        f"{verdict(pair)}. Out-of-fold accuracy on {counted(pair.images, 'image')}: {_share(pair.with_suspects)} with "
        f"all labels, {_share(pair.without)} without the suspects; difference {_gap(pair)} points.",
        f"On the {counted(rest.images, 'image')} that are not suspects: {_share(rest.with_suspects)} and "
        f"{_share(rest.without)}; difference {_gap(rest)} points. {UPWARD_BIAS}",
    ]


def _share(share: Share) -> str:
    return f"{texts.percent(share.value)} ({_interval(share)})"


def _interval(share: Share) -> str:
    return texts.between(share.low, share.high, as_percent=True) or ""


def _gap(pair: PairedAccuracy) -> str:
    value, interval = cells(pair)[-1]
    return f"{value} ({interval})"
