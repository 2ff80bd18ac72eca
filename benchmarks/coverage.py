"""Coverage of intervals and error rates of tests, on simulated test sets of known populations.

A population is a set of predictions; its own figures are the truth, and test sets are drawn from it, image by image,
with replacement. The populations are made of normal logits; predictions of real runs are added with --population.
Candidates for comparison are right where their skill, the ease of the image and chance come to more than 0, so that
their true accuracies are known. Everything goes to results/statistics.md.

    python benchmarks/coverage.py --population runs/NAME/predictions.csv
"""

import argparse
import os
import time
from itertools import combinations
from pathlib import Path

import numpy as np

from loupe.evaluate import estimate, metrics
from loupe.evaluate.paired import difference_of_hits, holm, sign_flip
from loupe.evaluate.predictions import Predictions
from setting import commit, machine
from simulated import (
    Generator,
    chance,
    clopper_pearson,
    holding,
    jeffreys,
    plain_interval,
    populations,
    simulated_hits,
    wilson,
)

RESULTS = Path(__file__).parents[1] / "results"
METRICS = ("macro_f1", "weighted_f1", "roc_auc", "log_loss")
BAND = (0.93, 0.97)
MOST_REJECTED = 0.065

Lines = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=Path, action="append", default=[], help="predictions.csv of a real run")
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS / "statistics.md")
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--section", action="append", default=[], choices=names, help="only this one; repeatable")
    given = parser.parse_args()
    began, sections = time.perf_counter(), []
    for section in [section for section in SECTIONS if not given.section or section.__name__ in given.section]:
        extra = (given.population,) if section is metric_intervals else ()
        sections.append(section(np.random.default_rng(5), given.simulations, *extra))
        print("\n".join(sections[-1]), flush=True)
    given.output.write_text(page(given, sections, time.perf_counter() - began), encoding="utf-8")


def page(given: argparse.Namespace, sections: list[Lines], seconds: float) -> str:
    place = machine(os.cpu_count() or 1)
    words = [f"--population runs/{path.parent.name}/{path.name}" for path in given.population]
    words += [f"--section {name}" for name in given.section]
    words += [f"--simulations {given.simulations}"] if given.simulations != 1000 else []
    by_chance = 196 * (0.95 * 0.05 / given.simulations) ** 0.5
    head = [
        "# Coverage of intervals and error rates of tests, in simulations",
        "",
        f"`{' '.join(['python benchmarks/coverage.py', *words])}`, commit {commit()}, {place['processor']}, "
        f"{place['cores']} cores, {seconds / 60:.0f} minutes. {given.simulations:,} simulated test sets in each row: "
        f"by chance alone a share of 95 % comes out as 95 ± {by_chance:.1f} %. **Bold**: outside 93 to 97 %, or "
        "rejected in more than 6.5 %.",
        "",
    ]
    return "\n".join(head + ["\n".join([*section, ""]) for section in sections])


def accuracy(random: Generator, simulations: int) -> Lines:
    lines = [
        "## Accuracy: Wilson's interval",
        "",
        "| true accuracy | images | simulated | by exact calculation |",
        "|---|---|---|---|",
    ]
    for images, truth in [(n, p) for n in (180, 1000) for p in (0.02, 0.05, 0.5, 0.95, 0.98)]:
        holds = holding(wilson(images), truth)
        simulated = holds[random.binomial(images, truth, size=simulations)].mean()
        lines.append(
            f"| {100 * truth:.0f} % | {images:,} | {share(simulated)} | {share(chance(holds, images, truth), 2)} |"
        )
    return [*lines, "", *accuracy_near_the_ends()]


def accuracy_near_the_ends() -> Lines:
    """Wilson's interval beside the others in use, by exact calculation."""
    lines = [
        "Hits are whole numbers, so that the coverage of any interval goes up and down with the true accuracy. Over "
        "true accuracies from 95 to 99.5 % (and as much from 0), by exact calculation:",
        "",
        "| interval | images | mean | lowest | highest | share of the accuracies with 93 to 97 % |",
        "|---|---|---|---|---|---|",
    ]
    truths = np.linspace(0.95, 0.995, 181)
    for images in (180, 1000):
        ends = {"Wilson": wilson, "Jeffreys": jeffreys, "Clopper-Pearson": clopper_pearson}
        for name, interval in ends.items():
            found = np.array([chance(holding(interval(images), truth), images, truth) for truth in truths])
            inside = np.mean((found >= BAND[0]) & (found <= BAND[1]))
            numbers = [f"{100 * x:.1f} %" for x in (found.mean(), found.min(), found.max())]
            lines.append(f"| {name} | {images:,} | " + " | ".join(numbers) + f" | {100 * inside:.0f} % |")
    return lines


def metric_intervals(random: Generator, simulations: int, real: list[Path]) -> Lines:
    cases = populations(random)
    cases += [(f"{path.parent.name}, test images", Predictions.read(path, "test"), 1000) for path in real]
    lines = [
        "## Macro-F1, weighted F1, ROC AUC, log loss: jackknife over images",
        "",
        "In brackets the true value. Logits are normal where nothing else is said. A real population is the whole test "
        "split of a run.",
        "",
        "| population | accuracy | images | macro-F1 | weighted F1 | ROC AUC | log loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, population, images in cases:
        whole = metrics.evaluate(population)
        held, given = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
        for _ in range(simulations):
            block = metrics.evaluate(population.select(random.integers(len(population), size=images)))
            for metric in METRICS:
                low, high = block.metric(metric).low, block.metric(metric).high
                given[metric] += low is not None
                held[metric] += low is not None and low <= whole.metric(metric).value <= high
        cells = [f"{share(held[m] / given[m])} ({whole.metric(m).value:.3f})" for m in METRICS]
        cells = [
            cell + (f", none in {simulations - given[metric]}" if given[metric] < simulations else "")
            for metric, cell in zip(METRICS, cells, strict=True)
        ]
        lines.append(f"| {name} | {100 * whole.accuracy.value:.1f} % | {images:,} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def difference_intervals(random: Generator, simulations: int) -> Lines:
    lines = [
        "## Difference of two candidates: paired bootstrap with two pseudo-images",
        "",
        "Discordant: the images that only one has right, on average. Plain: without the pseudo-images.",
        "",
        "| true accuracies | images | seeds | discordant | coverage | plain |",
        "|---|---|---|---|---|---|",
    ]
    cases = [(0.9, 0.9), (0.9, 0.92), (0.98, 0.98), (0.98, 0.99), (0.5, 0.55)]
    for images, seeds, (first, second) in [(n, s, c) for n in (180, 1000) for s in (1, 3) for c in cases]:
        held, plain, discordant, truth = 0, 0, 0.0, second - first
        for trial in range(simulations):
            hits = simulated_hits(random, {"a": first, "b": second}, images, seeds)
            found = difference_of_hits("a", "b", hits, seed=trial)
            held += found.low - 1e-12 <= truth <= found.high + 1e-12
            discordant += found.only_first + found.only_second
            low, high = plain_interval(hits["a"].mean(axis=0), hits["b"].mean(axis=0), trial)
            plain += low - 1e-12 <= truth <= high + 1e-12
        lines.append(
            f"| {100 * first:.0f} %, {100 * second:.0f} % | {images:,} | {seeds} | {discordant / simulations:.1f} | "
            f"{share(held / simulations)} | {share(plain / simulations)} |"
        )
    return lines


def family(random: Generator, simulations: int) -> Lines:
    lines = [
        "## Equal candidates: rate of false differences",
        "",
        "The share of test sets in which a true null is rejected after Holm's correction over all pairs; in brackets "
        "without it. McNemar's exact test with one seed, the exact sign-flip test with three.",
        "",
        "| true accuracy | images | seeds | 2 candidates | 4 candidates | 6 candidates |",
        "|---|---|---|---|---|---|",
    ]
    for level, images, seeds in [(a, n, s) for a in (0.9, 0.98) for n in (180, 1000) for s in (1, 3)]:
        cells = []
        for count in (2, 4, 6):
            skill = {str(name): level for name in range(count)}
            found = [p_values(simulated_hits(random, skill, images, seeds)) for _ in range(simulations)]
            corrected = np.mean([min(holm(p)) < 0.05 for p in found])
            bare = np.mean([min(p) < 0.05 for p in found])
            mark = "**" if corrected > MOST_REJECTED else ""
            cells.append(f"{mark}{100 * corrected:.1f} %{mark} ({100 * bare:.1f} %)")
        lines.append(f"| {100 * level:.0f} % | {images:,} | {seeds} | " + " | ".join(cells) + " |")
    return lines


def power(random: Generator, simulations: int) -> Lines:
    """Information: how often a true difference is found."""
    lines = [
        "## Power: rate at which a true difference is found",
        "",
        "One candidate is better by so much than an accuracy of 90 %; the others are equal. The share of test sets in "
        "which it is called different from the cheapest, after correction.",
        "",
        "| images | seeds | candidates | +0.5 points | +1 | +2 | +4 |",
        "|---|---|---|---|---|---|---|",
    ]
    for images, seeds, count in [(n, s, c) for n in (180, 1000, 10_000) for s in (1, 3) for c in (2, 6)]:
        cells = []
        for points in (0.5, 1, 2, 4):
            skill = {str(name): 0.9 for name in range(count)} | {"1": 0.9 + points / 100}
            # The pair of the first two comes first.
            found = [holm(p_values(simulated_hits(random, skill, images, seeds)))[0] for _ in range(simulations // 4)]
            cells.append(f"{100 * np.mean(np.array(found) < 0.05):.0f} %")
        lines.append(f"| {images:,} | {seeds} | {count} | " + " | ".join(cells) + " |")
    return [*lines, "", f"{simulations // 4} test sets in each cell."]


def selection(random: Generator, simulations: int) -> Lines:
    lines = [
        "## Selection bias of the best candidate",
        "",
        "Candidates whose true accuracy is 90 %, one seed. The best on 1,000 images: how much too high its accuracy is "
        "there on average, and how often its interval and that of its difference to the first candidate contain "
        "the true value; then on 1,000 new images. No method is at fault where the former fall below 95 %: they are "
        "the figures of a winner.",
        "",
        "| candidates | bias | coverage | coverage of the difference | on new images: bias | coverage "
        "| coverage of the difference |",
        "|---|---|---|---|---|---|---|",
    ]
    images = 1000
    for count in (2, 4, 6, 12):
        skill = {str(name): 0.9 for name in range(count)}
        outcomes = []
        for trial in range(simulations):
            here, new = (simulated_hits(random, skill, images, 1) for _ in range(2))
            best = max(skill, key=lambda name, hits=here: hits[name].mean())
            outcomes.append([x for hits in (here, new) for x in winner(hits, best, trial)])
        bias, held, apart, new_bias, new_held, new_apart = np.nanmean(outcomes, axis=0)
        lines.append(
            f"| {count} | {100 * bias:.2f} points | {share(held)} | {share(apart)} | {100 * new_bias:.2f} points | "
            f"{share(new_held)} | {share(new_apart)} |"
        )
    return lines


def winner(hits: dict[str, np.ndarray], best: str, trial: int) -> tuple[float, float, float]:
    """Excess of the best over its true 0.9, and whether its interval and that of its difference are right."""
    right, images = int(hits[best].sum()), hits[best].shape[1]
    low, high = estimate.wilson(right, images)
    if best == "0":
        return right / images - 0.9, low <= 0.9 <= high, np.nan
    apart = difference_of_hits("0", best, hits, seed=trial)
    return right / images - 0.9, low <= 0.9 <= high, apart.low <= 0 <= apart.high


def other_seeds(random: Generator, simulations: int) -> Lines:
    """Information: the tests are about networks; what happens where they are read as being about recipes."""
    lines = [
        "## Not covered by the tests: another seed",
        "",
        "Two recipes that are equally good on average at 90 %, while each training comes out better or worse by a "
        "standard deviation of so many points. How often the networks at hand are called different, which they are: "
        "read as a statement about the recipes, it is wrong that often.",
        "",
        "| images | seeds | no spread | 0.25 points | 0.5 points | 1 point |",
        "|---|---|---|---|---|---|",
    ]
    for images, seeds in [(n, s) for n in (1000, 10_000) for s in (1, 3)]:
        cells = []
        for spread in (0.0, 0.0025, 0.005, 0.01):
            found = [
                p_values(simulated_hits(random, {"a": 0.9, "b": 0.9}, images, seeds, spread))[0]
                for _ in range(simulations)
            ]
            cells.append(f"{100 * np.mean(np.array(found) < 0.05):.1f} %")
        lines.append(f"| {images:,} | {seeds} | " + " | ".join(cells) + " |")
    return lines


def p_values(hits: dict[str, np.ndarray]) -> list[float]:
    """Of every pair of candidates, not corrected."""
    return [sign_flip(a.sum(axis=0) - b.sum(axis=0)) for a, b in combinations(hits.values(), 2)]


def share(fraction: float, decimals: int = 1) -> str:
    text = f"{100 * fraction:.{decimals}f} %"
    return text if BAND[0] <= fraction <= BAND[1] else f"**{text}**"


SECTIONS = (accuracy, metric_intervals, difference_intervals, family, power, selection, other_seeds)

if __name__ == "__main__":
    main()
