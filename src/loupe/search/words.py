"""Sentences of a search: plan, a line for each candidate, reason for the choice, gain that more time may bring."""

from collections.abc import Sequence

from loupe.errors import counted, enumerated
from loupe.evaluate.blend_results import SURE, points
from loupe.evaluate.paired import Difference
from loupe.evaluate.search_results import Judged, SearchedCandidate
from loupe.log import duration
from loupe.models.at_hand import WeightsAtHand

SELECTED = ", with shares that were selected on other images"
CHOSEN = ", which also chose the runs: on other images it may be less"


def plan(
    at_hand: Sequence[WeightsAtHand], heads: int, images: dict[str, int], subsets: Sequence[int], limit: float
) -> list[str]:
    """Lines of the plan.

    Args:
        images: number of images in each split.
        subsets: number of images of each round of heads.
    """
    if at_hand:
        names = enumerated([one.backbone for one in at_hand], most=6)
        backbones = f"Pretrained weights at hand: {names}."
    else:
        backbones = (
            "No pretrained weights at hand: networks are trained from scratch alone. Name folders with weights in "
            "LOUPE_WEIGHTS, or let timm download some: loupe models"
        )
    first = ""
    if at_hand:
        rounds = [counted(subsets[0], "image"), *(f"the better half on {subset:,}" for subset in subsets[1:])]
        first = (
            f" {counted(heads, 'head')} on frozen features, judged out of fold on {', '.join(rounds)}; the best "
            f"on all {counted(images['train'], 'training image')}; then"
        )
    return [
        backbones,
        f"Plan for {duration(limit)}:{first} whole trainings with as many epochs as fit, judged on "
        f"{counted(images['val'], 'validation image')}; at the end {counted(images['test'], 'test image')}.",
    ]


def figures(judged: Judged) -> str:
    """Accuracy with its interval, the images, and the macro-F1 where it decides."""
    value, low, high = (100 * (x or 0.0) for x in (judged.accuracy.value, judged.accuracy.low, judged.accuracy.high))
    of = "out of fold" if judged.evidence == "out-of-fold" else "validation"
    of_f1 = "" if judged.macro_f1 is None else f", macro-F1 {100 * judged.macro_f1:.1f} %"
    return f"{value:.1f} % ({low:.1f} to {high:.1f}, {of}, {judged.images:,}){of_f1}"


def line(row: SearchedCandidate, spent: float, *, on_subset: bool = False) -> str:
    """Line of a candidate that has ended, or that was judged on the subset."""
    judged = row.subset if on_subset else row.judged
    parts = [f"{duration(spent):>11}  {row.title}: {figures(judged) if judged else row.status}"]
    if on_subset:
        return parts[0]
    if row.against_best is not None:
        parts.append(f"{points(row.against_best)} beside the best")
    if row.reason:
        parts.append(row.reason)
    return "; ".join(parts) + ("  <- best so far" if row.is_better else "")


def why(chosen: SearchedCandidate, tried: Sequence[SearchedCandidate]) -> str:
    """Reason for the delivered candidate, with a verdict on the closest other one."""
    others = [one for one in tried if one.name != chosen.name]
    if not others:
        return f"{chosen.title} is the only candidate that was reached."
    measures = "accuracy and log loss"
    if chosen.judged is not None and chosen.judged.macro_f1 is not None:
        measures = "macro-F1, accuracy and log loss"
    first = f"{chosen.title} is the best of {counted(len(others) + 1, 'candidate')} by {measures}"
    if chosen.against_best is None:
        return f"{first}; no later one was better."
    verdict = "a significant difference" if chosen.against_best.p < SURE else "a difference that may be chance"
    p = f"(p = {chosen.against_best.p:.2g})"
    return f"{first}: {points(chosen.against_best)} beside the best before it, {verdict} {p}."


def meaning(tried: int, judged: Judged | None) -> str:
    """Meaning of the figures that the choice was made by."""
    if judged is None:
        return ""
    were = "was" if tried == 1 else "were"
    return (
        f"{counted(tried, 'candidate')} {were} judged on {judged.images:,} images. The figure of the best is partly "
        "luck, the more so with many candidates and few images. That of the test images is not."
    )


def more(missed: Sequence[SearchedCandidate], curve: str | None) -> tuple[str, ...]:
    """Sentences about what more time may give."""
    known = [one for one in missed if one.expected_seconds]
    found = [curve] if curve else []
    if known:
        listed = enumerated([f"{one.title} (about {duration(one.expected_seconds or 0.0)})" for one in known], most=3)
        found.append(f"Not reached: {listed}.")
    elif missed:
        found.append(f"Not reached: {enumerated([one.title for one in missed], most=3)}.")
    return tuple(found)


def offered(titles: str, difference: Difference, times: float) -> str:
    """Gain of a blend of candidates beside the best of them; its time is the sum of those of its members."""
    chance = "" if difference.p < SURE else ", a difference that may be chance,"
    return (
        f"A blend of {titles} gives {points(difference)}{chance} beside the best candidate for about {times:.1f} times "
        f"the time of a prediction, on {counted(difference.images, 'validation image')}{SELECTED}."
    )


def resized(otherwise: int, images: int) -> str:
    """Remark on members that see resized images in a blend: it decides otherwise than their mean for some images."""
    return (
        "The runs read images of different sizes, and the blend resizes those of one size for them: its class is not "
        f"that of the mean of their own probabilities for {otherwise:,} of {counted(images, 'validation image')}."
    )
