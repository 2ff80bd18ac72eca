"""Selection among candidates: paired comparisons, corrected for multiplicity, with verdicts in words.

Effect of the selection on the figures. The best of several candidates on some images is partly the luckiest: there its
accuracy is biased upwards, and the coverage of its interval and of its differences is below 95 %
(`results/statistics.md` has the amounts). The corrected p-values remain valid, because they cover every pair that could
have been selected. So select on validation images, and report the selected candidate on test images. `judge` also
accepts test predictions, but a selection based on them leaves no independent test set.

Limits. The images are a random sample, the networks are fixed: a test is about these trained networks, and more images
do not replace seeds. Two equally good recipes whose trainings vary by 0.5 points differ significantly on 10,000 images
in nearly half of all cases, with one seed or with three (same page). The verdict mentions when the seeds of two
candidates overlap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count

import numpy as np

from loupe import log
from loupe.errors import counted
from loupe.evaluate.chance import LabelCounts, association
from loupe.evaluate.metrics import confusion_matrix
from loupe.evaluate.paired import (
    Candidate,
    Difference,
    Hits,
    difference_of_hits,
    holm,
    matched_hits,
    mcnemar,
    paired_difference,
)
from loupe.evaluate.paired_f1 import MacroF1Difference, macro_f1_difference, matched_predictions

__all__ = ["SIGNIFICANCE", "Candidate", "Difference", "Judgement", "holm", "judge", "mcnemar", "paired_difference"]

SIGNIFICANCE = 0.05
_SAME_TIME = 1.05  # times within this factor are reported as the same
UNBALANCED = 3.0
"""Ratio of the largest to the smallest class of the judged images, above which macro-F1 is judged too."""
_FINE_IMAGES = 10_000  # from here on one image is at most 0.01 points, and a second decimal is meaningful

Pairs = dict[tuple[str, str], Difference]


@dataclass(frozen=True)
class Judgement:
    """Result of `judge`.

    Attributes:
        best: name of the candidate with the highest accuracy.
        chosen: name of the cheapest candidate that no other is significantly better than.
        differences: every other candidate compared with `chosen`, in order of cost.
        verdicts: one sentence for each name.
        conclusion: one to three sentences, and one for each other candidate where the classes are unbalanced.
        macro_f1: the same comparisons by macro-F1, where the largest class has more than `UNBALANCED` times the images
            of the smallest; else empty.
    """

    best: str
    chosen: str
    differences: tuple[Difference, ...]
    verdicts: Mapping[str, str]
    conclusion: str
    macro_f1: tuple[MacroF1Difference, ...] = ()


def judge(candidates: Sequence[Candidate], *, resamples: int = 2000, seed: int = 0) -> Judgement:
    """Choose the cheapest candidate that no other candidate is significantly better than.

    A difference is significant if its p-value is below 0.05 after Holm's correction over all pairs of candidates. The
    family is all pairs and not only those with the best, because the best was determined on the same images. Without
    any significant difference, as on few images, the cheapest is chosen. That does not prove that it is as good; the
    conclusion states how much better the best may be. Candidates of unknown cost sort last.

    Args:
        candidates: candidates with predictions for the same images.
        resamples: number of bootstrap resamples for the intervals.
        seed: seed of the resamples.

    Raises:
        LoupeError: the candidates cannot be compared.
    """
    hits = matched_hits(candidates)
    by_cost = sorted(candidates, key=lambda one: (_cost(one), -hits[one.name].mean(), one.name))
    pairs = _all_pairs([one.name for one in by_cost], hits, resamples, seed)
    best = max(by_cost, key=lambda one: float(hits[one.name].mean()))  # in a tie the first, the cheapest
    chosen = next(one for one in by_cost if not _better_than(one, pairs))
    verdicts = {one.name: _verdict(one, chosen, pairs, hits) for one in by_cost if one is not chosen}
    why = _why(chosen, by_cost, pairs, hits)
    by_f1 = _by_macro_f1(candidates, chosen, [*verdicts], resamples, seed)
    return Judgement(
        best=best.name,
        chosen=chosen.name,
        differences=tuple(pairs[chosen.name, name] for name in verdicts),
        verdicts={one.name: verdicts.get(one.name, f"{one.name}: {why}; take it") for one in candidates},
        conclusion=" ".join(
            [_conclusion(chosen, best, why, pairs, hits), *_of_macro_f1(by_f1), *_chance(candidates, hits)]
        ),
        macro_f1=by_f1,
    )


def _by_macro_f1(
    candidates: Sequence[Candidate], chosen: Candidate, others: Sequence[str], resamples: int, seed: int
) -> tuple[MacroF1Difference, ...]:
    """Every other candidate compared with the chosen one by macro-F1, corrected over all pairs; empty if balanced."""
    label_N, predicted = matched_predictions(candidates)
    counts = np.bincount(label_N)
    if not others or counts.max() <= UNBALANCED * counts[counts > 0].min():
        return ()
    names = [chosen.name, *others]
    pairs = [
        macro_f1_difference(first, second, label_N, predicted, resamples=resamples, seed=seed)
        for first, second in combinations(names, 2)
    ]
    corrected = holm([one.p for one in pairs])
    return tuple(
        replace(one, p_corrected=p) for one, p in zip(pairs, corrected, strict=True) if one.first == chosen.name
    )


def _of_macro_f1(differences: Sequence[MacroF1Difference]) -> list[str]:
    """Sentences on the differences in macro-F1, the largest gain first."""
    if not differences:
        return []
    said = []
    for one in sorted(differences, key=lambda one: -one.value):
        value, low, high = (_points(x, one.images) for x in (one.value, one.low, one.high))
        outcome = "significant" if one.p_corrected < SIGNIFICANCE else "not significant"
        said.append(f"{one.second} {value} points (interval {low} to {high}, p = {one.p_corrected:.3f}, {outcome})")
    return [f"The classes are unbalanced. Macro-F1 against {differences[0].first}: {'; '.join(said)}."]


def fewest_images(comparisons: int) -> int:
    """Smallest number of images on which one of so many differences can be significant: one candidate has all right."""
    return next(images for images in count(1) if comparisons * mcnemar(0, images) < SIGNIFICANCE)


def can_tell(images: int, candidates: int) -> bool:
    """True if so many images can show a difference between any two of the candidates."""
    return images >= fewest_images(candidates * (candidates - 1) // 2)


def _cost(one: Candidate) -> float:
    return math.inf if one.seconds is None else one.seconds


def _all_pairs(names: Sequence[str], hits: dict[str, Hits], resamples: int, seed: int) -> Pairs:
    """Differences of all ordered pairs of candidates, with p-values corrected over all pairs."""
    differences = [difference_of_hits(*pair, hits, resamples=resamples, seed=seed) for pair in combinations(names, 2)]
    pairs = {}
    for difference, corrected in zip(differences, holm([one.p for one in differences]), strict=True):
        pairs[difference.first, difference.second] = replace(difference, p_corrected=corrected)
        pairs[difference.second, difference.first] = replace(difference.mirrored(), p_corrected=corrected)
    return pairs


def _significant(difference: Difference) -> bool:
    return difference.p_corrected < SIGNIFICANCE


def _better_than(candidate: Candidate, pairs: Pairs) -> list[Difference]:
    """Comparisons in which another candidate is significantly better, largest difference first."""
    mine = [one for (first, _), one in pairs.items() if first == candidate.name]
    return sorted((one for one in mine if one.value > 0 and _significant(one)), key=lambda one: -one.value)


def _why(chosen: Candidate, by_cost: Sequence[Candidate], pairs: Pairs, hits: dict[str, Hits]) -> str:
    if len(by_cost) == 1:
        return "the only candidate"
    images = hits[chosen.name].shape[1]
    if not can_tell(images, len(by_cost)):
        least = fewest_images(len(pairs) // 2)
        first = "at an unknown cost" if chosen.seconds is None else "the cheapest"
        return f"{first}; {counted(images, 'image')} cannot tell which is better, and {least} or more may"
    best = all(_beats(chosen, one, pairs) for one in by_cost if one is not chosen)
    if chosen.seconds is None:
        return "the most accurate, at an unknown cost" if best else "at an unknown cost, and no other is better"
    if chosen is by_cost[0]:
        return "the most accurate and the cheapest" if best else "the cheapest, and no other is significantly better"
    return (
        "the most accurate, and all cheaper ones are worse"
        if best
        else "the cheapest that no other significantly beats"
    )


def _beats(one: Candidate, other: Candidate, pairs: Pairs) -> bool:
    difference = pairs[other.name, one.name]
    return difference.value > 0 and _significant(difference)


def _verdict(one: Candidate, chosen: Candidate, pairs: Pairs, hits: dict[str, Hits]) -> str:
    """Verdict on a candidate against the chosen one: points, interval, time, outcome, recommendation."""
    difference = pairs[chosen.name, one.name]
    value, low, high = (_points(x, difference.images) for x in (difference.value, difference.low, difference.high))
    outcome = _worse(hits[chosen.name], hits[one.name]) if _significant(difference) else _tie(difference, pairs, hits)
    better = _better_than(one, pairs)
    if better and not _significant(difference):
        outcome += f", but {better[0].second} is significantly better"
    return f"{one.name}: {value} points, interval {low} to {high}, {_times(one, chosen)}: {outcome}; take {chosen.name}"


def _worse(chosen_SN: Hits, other_SN: Hits) -> str:
    overlap = other_SN.mean(axis=1).max() >= chosen_SN.mean(axis=1).min()
    return "worse on average, though their seeds overlap" if overlap else "worse"


def _tie(difference: Difference, pairs: Pairs, hits: dict[str, Hits]) -> str:
    """Outcome of a difference that is not significant, with the p-value where the interval excludes 0."""
    if not can_tell(difference.images, len(hits)):
        return f"cannot be told from {counted(difference.images, 'image')}"
    if difference.low <= 0 <= difference.high:
        return "no significant difference"
    comparisons = len(pairs) // 2
    corrected = f" after correction for {comparisons} comparisons" if comparisons > 1 else ""
    return f"no significant difference (p = {difference.p_corrected:.3f}{corrected})"


def _conclusion(chosen: Candidate, best: Candidate, why: str, pairs: Pairs, hits: dict[str, Hits]) -> str:
    images = hits[chosen.name].shape[1]
    evidence = f"on {counted(images, 'image')}"
    if all(len(one) == 1 for one in hits.values()):
        evidence += ", one seed each"
    advice = f"Take {chosen.name}: {why} ({evidence})."
    if chosen is best:
        return advice
    gain = pairs[chosen.name, best.name]
    value, low, high = (_points(x, gain.images) for x in (gain.value, gain.low, gain.high))
    return (
        f"{advice} {best.name} has the highest accuracy, by {value} points (interval {low} to {high}), "
        f"{_times(best, chosen)}."
    )


def _chance(candidates: Sequence[Candidate], hits: dict[str, Hits]) -> list[str]:
    """Sentence where no candidate is significantly better than always predicting the most common class."""
    label_N = candidates[0].predictions[0].label
    commonest = int(max((label_N == label).sum() for label in set(label_N.tolist())))
    counts = LabelCounts(len(label_N), commonest)
    for one in candidates:
        # Of several seeds each has a test of its own, so the smallest p-value counts as often as there are seeds.
        smallest = min(
            association(confusion_matrix(seed.label, seed.predicted, len(seed.classes)).tolist())
            for seed in one.predictions
        )
        own = replace(counts, association=min(1.0, len(one.predictions) * smallest))
        if own.exceeded_by(float(hits[one.name].mean())):
            return []
    always = f"better than always predicting the most common class ({100 * counts.share:.1f} %)"
    if counts.decides:
        return [f"No candidate is clearly {always}."]
    return [f"{counted(counts.images, 'image')} cannot tell whether any candidate is {always}."]


def _points(fraction: float, images: int) -> str:
    """Difference in percentage points, with a sign unless it rounds to zero."""
    text = f"{100 * fraction:+.{2 if images >= _FINE_IMAGES else 1}f}"
    return text if float(text) else text[1:]


def _times(one: Candidate, chosen: Candidate) -> str:
    """Cost of a candidate relative to the chosen one."""
    if one.seconds is None or chosen.seconds is None:
        return "in an unknown time" if one.seconds is None else f"in {log.duration(one.seconds)}"
    if not one.seconds or not chosen.seconds:
        same = one.seconds == chosen.seconds
        seconds, reference = log.duration(one.seconds), log.duration(chosen.seconds)
        return "in the same time" if same else f"in {seconds} instead of {reference}"
    ratio = one.seconds / chosen.seconds
    if 1 / _SAME_TIME < ratio < _SAME_TIME:
        return "in the same time"
    if ratio < 0.01:
        return "in less than 0.01 times the time"
    return f"in {ratio:,.0f} times the time" if ratio >= 10 else f"in {ratio:.2g} times the time"
