"""The page of `loupe labels`: the images whose labels look wrong, and what leaving them out is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loupe import __version__
from loupe.files import write_atomic
from loupe.report import texts
from loupe.report.template import render

FIRST_SHOWN = 60  # that stand open; the others are one click away
MOST_PAIRS = 20
JUDGED = {"all": "all of them, by the labels as they are", "unsuspected": "those that do not look wrong"}


def write_page(path: Path, content: Mapping[str, Any], pictures: Sequence[str], doubtful: Sequence[str] = ()) -> None:
    """Writes the page.

    Args:
        content: what `loupe labels --json` prints, with `images`, `confused`, `files`, and the first doubtful ones.
        pictures: of the first suspects, as sources of an image; doubtful: of those that come after them.
    """
    shown = {
        **content,
        "version": __version__,
        "items": list(zip(content["suspects"], pictures, strict=False)),
        "others": list(zip(content["doubted"], doubtful, strict=True)),
        "first_shown": FIRST_SHOWN,
        "pairs": content["confused"][:MOST_PAIRS],
        "rows": [(words, cells(content["effect"][name])) for name, words in JUDGED.items()],
        "verdict": verdict(content["effect"]["all"]),
    }
    write_atomic(path, render("labels.html", shown))


def cells(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Images, accuracy with and without the suspects, and the difference in points: each with its interval below."""
    values = [(texts.count(judged["images"]), "")]
    values += [
        (texts.percent(judged[name]["value"]), texts.interval(judged[name], as_percent=True) or "")
        for name in ("with", "without")
    ]
    gap = judged["difference"]
    return [*values, (points(gap["value"]), f"{points(gap['low'])} to {points(gap['high'])}")]


def points(fraction: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def verdict(judged: Mapping[str, Any]) -> str:
    """Whether the heads that did not learn from the suspects are better, in words."""
    gap = judged["difference"]
    if gap["low"] > 0:
        return "Leaving them out helps"
    return "Leaving them out harms" if gap["high"] < 0 else "Whether leaving them out helps cannot be told"


def in_words(effect: Mapping[str, Any]) -> list[str]:
    """The effect of leaving the suspects out, in two sentences for a terminal."""
    every, rest = effect["all"], effect["unsuspected"]
    return [
        f"{verdict(every)}: of {texts.count(every['images'])} images, judged by heads that have not seen them and by "
        f"the labels as they are, {_share(every['with'])} are right where the heads learn from all labels, "
        f"{_share(every['without'])} where they learn without the suspects. Difference: {_gap(every)} points.",
        f"Without the suspects among the judged images: {_share(rest['with'])} and {_share(rest['without'])}, "
        f"difference {_gap(rest)}. {FLATTERS}",
    ]


FLATTERS = (
    "That flatters both, and the heads that learn from all labels more: a suspect is an image on which they and the "
    "label disagree."
)


def _share(estimate: Mapping[str, Any]) -> str:
    return f"{texts.percent(estimate['value'])} ({texts.between(estimate['low'], estimate['high'], as_percent=True)})"


def _gap(judged: Mapping[str, Any]) -> str:
    value, interval = cells(judged)[-1]
    return f"{value} ({interval})"
