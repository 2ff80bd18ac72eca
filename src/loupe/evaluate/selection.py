"""Which of several candidates to take: paired comparisons, corrected for their number, and verdicts in words.

What choosing does to the numbers. The best of several candidates on some images is in part the luckiest on them: its
accuracy there is too high on average, and its interval holds the truth less often than 95 % says, as do those of its
differences (`results/statistics.md` has by how much). The corrected p-values stay valid, since they cover every pair
that the choice could have ended on. So choose on validation images, and quote the figures of the chosen candidate on
test images, which chose nothing. `judge` on test predictions shows what these would have said; whoever chooses by that
has no test set left.

What it does not say. Images are drawn, networks are given: a test is about the trained networks at hand, and more
images do not make up for few seeds. Two recipes that are equally good, but whose trainings scatter by 0.5 points, are
told apart on 10,000 images in nearly half of all cases, by one seed or by three (the same page). A verdict says so
where the seeds of two candidates overlap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from loupe import log
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

__all__ = ["SIGNIFICANCE", "Candidate", "Difference", "Judgement", "holm", "judge", "mcnemar", "paired_difference"]

SIGNIFICANCE = 0.05
_SAME_TIME = 1.05  # times within this factor are called the same
_FINE_IMAGES = 10_000  # from here on one image is 0.01 points, and a second decimal says something

Pairs = dict[tuple[str, str], Difference]


@dataclass(frozen=True)
class Judgement:
    """The outcome of `judge`.

    best: the one of the highest accuracy. chosen: the cheapest that no other is significantly better than.
    differences: every other candidate against `chosen`, in order of cost. verdicts: name to a sentence. conclusion: a
    sentence or two.
    """

    best: str
    chosen: str
    differences: tuple[Difference, ...]
    verdicts: Mapping[str, str]
    conclusion: str


def judge(candidates: Sequence[Candidate], *, resamples: int = 2000, seed: int = 0) -> Judgement:
    """Which candidate to take, by one rule: the cheapest that no other candidate is significantly better than.

    A difference is significant where its p-value is below 0.05 after Holm's correction over all pairs of candidates:
    which of them is the best was found on the same images, so that the pairs with the best alone would be too small a
    family. Where nothing is significant, as on few images, the cheapest is chosen. That does not show that it is as
    good, and the conclusion says how much better the best may be. What costs nobody knows how much is taken for dearer
    than all of known cost. LoupeError where candidates cannot be compared.
    """
    hits = matched_hits(candidates)
    by_cost = sorted(candidates, key=lambda one: (_cost(one), -hits[one.name].mean()))
    pairs = _all_pairs([one.name for one in by_cost], hits, resamples, seed)
    best = max(by_cost, key=lambda one: float(hits[one.name].mean()))  # of equal ones the first: the cheapest
    chosen = next(one for one in by_cost if not _better_than(one, pairs))
    verdicts = {one.name: _verdict(one, chosen, pairs, hits) for one in by_cost if one is not chosen}
    why = _why(chosen, best, by_cost)
    return Judgement(
        best=best.name,
        chosen=chosen.name,
        differences=tuple(pairs[chosen.name, name] for name in verdicts),
        verdicts={one.name: verdicts.get(one.name, f"{one.name}: {why}; take it") for one in candidates},
        conclusion=_conclusion(chosen, best, why, pairs, hits),
    )


def _cost(one: Candidate) -> float:
    return math.inf if one.seconds is None else one.seconds


def _all_pairs(names: Sequence[str], hits: dict[str, Hits], resamples: int, seed: int) -> Pairs:
    """Every two of the candidates, both ways round, with p-values corrected over all of them."""
    found = [difference_of_hits(*pair, hits, resamples=resamples, seed=seed) for pair in combinations(names, 2)]
    pairs = {}
    for difference, corrected in zip(found, holm([one.p for one in found]), strict=True):
        pairs[difference.first, difference.second] = replace(difference, p_corrected=corrected)
        pairs[difference.second, difference.first] = replace(difference.mirrored(), p_corrected=corrected)
    return pairs


def _significant(difference: Difference) -> bool:
    return difference.p_corrected < SIGNIFICANCE


def _better_than(candidate: Candidate, pairs: Pairs) -> list[Difference]:
    """The comparisons in which another is significantly better, the largest difference first."""
    won = [one for (first, _), one in pairs.items() if first == candidate.name and one.value > 0 and _significant(one)]
    return sorted(won, key=lambda one: -one.value)


def _why(chosen: Candidate, best: Candidate, by_cost: Sequence[Candidate]) -> str:
    if len(by_cost) == 1:
        return "the only candidate"
    if chosen.seconds is None:
        return "the best, at a time that is not known"
    if chosen is best:
        return "the best and the cheapest" if chosen is by_cost[0] else "the best, and whatever is cheaper is worse"
    if chosen is by_cost[0]:
        return "the cheapest, and no other beats it significantly"
    return "the cheapest that no other beats significantly"


def _verdict(one: Candidate, chosen: Candidate, pairs: Pairs, hits: dict[str, Hits]) -> str:
    """One candidate beside the chosen one: points, interval, time, what it comes to, what to take."""
    difference = pairs[chosen.name, one.name]
    value, low, high = (_points(x, difference.images) for x in (difference.value, difference.low, difference.high))
    outcome = _worse(hits[chosen.name], hits[one.name]) if _significant(difference) else _tie(difference, pairs)
    better = _better_than(one, pairs)
    if better and not _significant(difference):
        outcome += f", but {better[0].second} is better than it"
    return f"{one.name}: {value} points, interval {low} to {high}, {_times(one, chosen)}: {outcome}; take {chosen.name}"


def _worse(chosen_SN: Hits, other_SN: Hits) -> str:
    overlap = other_SN.mean(axis=1).max() >= chosen_SN.mean(axis=1).min()
    return "worse on average, though their seeds overlap" if overlap else "worse"


def _tie(difference: Difference, pairs: Pairs) -> str:
    """A tie, with its p-value where the interval by itself would have said otherwise."""
    if difference.low <= 0 <= difference.high:
        return "a tie"
    comparisons = len(pairs) // 2
    corrected = f" after correction for {comparisons} comparisons" if comparisons > 1 else ""
    return f"a tie (p = {difference.p_corrected:.3f}{corrected})"


def _conclusion(chosen: Candidate, best: Candidate, why: str, pairs: Pairs, hits: dict[str, Hits]) -> str:
    images = hits[chosen.name].shape[1]
    evidence = f"on {images:,} {'image' if images == 1 else 'images'}"
    if all(len(one) == 1 for one in hits.values()):
        evidence += ", one seed each"
    said = f"Take {chosen.name}: {why} ({evidence})."
    if chosen is best:
        return said
    more = pairs[chosen.name, best.name]
    value, low, high = (_points(x, more.images) for x in (more.value, more.low, more.high))
    return f"{said} {best.name} is the best here, by {value} points (interval {low} to {high}), {_times(best, chosen)}."


def _points(fraction: float, images: int) -> str:
    """A difference in percentage points, signed where it is not zero as shown."""
    text = f"{100 * fraction:+.{2 if images >= _FINE_IMAGES else 1}f}"
    return text if float(text) else text[1:]


def _times(one: Candidate, chosen: Candidate) -> str:
    """What a candidate costs beside the chosen one."""
    if one.seconds is None or chosen.seconds is None:
        return "in a time that is not known" if one.seconds is None else f"in {log.duration(one.seconds)}"
    if not one.seconds or not chosen.seconds:
        same = one.seconds == chosen.seconds
        spent, other = log.duration(one.seconds), log.duration(chosen.seconds)
        return "in the same time" if same else f"in {spent} against {other}"
    ratio = one.seconds / chosen.seconds
    if 1 / _SAME_TIME < ratio < _SAME_TIME:
        return "in the same time"
    if ratio < 0.01:
        return "for less than 0.01 times the time"
    return f"for {ratio:,.0f} times the time" if ratio >= 10 else f"for {ratio:.2g} times the time"
