"""What calibration and promised precision are worth, from the predictions of finished runs. Prints Markdown.

    python benchmarks/confidence.py RUN... [--draws 200]

What the temperature does on test images; thresholds that were chosen on validation, on test; and both from fewer
validation images. Thresholds are drawn for at random from all images of a run, and judged on the rest: a promise is
broken in a draw where their precision falls short of the wanted one.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loupe.evaluate import calibration, selective
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.predictions import Predictions, read_splits
from setting import commit

SIZES = (100, 400, 1000, 4000)
WANTED = (0.9, 0.95, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    parts = {run.resolve().name: read_splits(run / "predictions.csv") for run in given.runs}
    print(f"commit {commit()}\n")
    table(
        ("run", "validation, missed", "temperature", "log loss of test", "change", "calibration error"),
        temperatures(parts),
    )
    table(("run", "wanted", "threshold", "validation: classified, right", "test: classified, right"), thresholds(parts))
    head = ("run", "validation", "missed", "temperature fitted", "log loss, change", "worst", "fitted always, worst")
    table(head, few_for_temperature(parts, given.draws))
    head = ("run", "validation", "wanted", "promised", "broken", "classified", "point estimate broken", "classified")
    table(head, few_for_threshold(parts, given.draws))


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def temperatures(parts: dict[str, dict[str, Predictions]]) -> Iterator[tuple[str, ...]]:
    for name, splits in parts.items():
        fitted = calibration.fit_temperature(splits["val"])
        test = calibration.compare(splits["test"], fitted.value)
        assert test is not None
        loss, error, change = test.log_loss, test.ece, test.log_loss.change
        assert change is not None
        span = f" ({fitted.low:.3f} to {fitted.high:.3f})" if fitted.why is None else ""
        yield (
            name,
            f"{fitted.images:,}, {fitted.mistakes:,}",
            f"{fitted.value:.3f}{span}",
            f"{loss.before:.4f} → {loss.after:.4f}",
            f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})",
            f"{error.before:.4f} → {error.after:.4f}",
        )


def thresholds(parts: dict[str, dict[str, Predictions]]) -> Iterator[tuple[str, ...]]:
    for name, splits in parts.items():
        block = selective.report(calibration.fit_temperature(splits["val"]).value, splits)
        for row in block.thresholds or ():
            if row.threshold is None:
                continue
            given = [part for part in (row.validation, row.test) if part]
            cells = [f"{percent(part.coverage)}, {percent(part.precision)}" for part in given]
            yield name, f"{100 * row.precision:g}", f"{row.threshold:.4f}", *cells
        yield name, "highest", f"{100 * (block.highest_precision or 0):.1f}", "", ""


def percent(metric: Estimate) -> str:
    if metric.value is None or metric.low is None or metric.high is None:
        return "–"
    return f"{100 * metric.value:.1f} ({100 * metric.low:.1f} to {100 * metric.high:.1f})"


def few_for_temperature(parts: dict[str, dict[str, Predictions]], draws: int) -> Iterator[tuple[str, ...]]:
    """`fitted always`: the worst change of the log loss if a temperature were fitted from however few mistakes."""
    for name, splits in parts.items():
        for images in SIZES:
            if images > len(splits["val"]):
                continue
            changes, always, fits, missed = [], [], 0, 0
            for few, _ in drawn(splits["val"], images, draws):
                fitted = calibration.fit_temperature(few)
                fits, missed = fits + (fitted.why is None), missed + fitted.mistakes
                changes.append(change_of_loss(splits["test"], fitted.value))
                always.append(change_of_loss(splits["test"], always_fitted(few)))
            figures = (f"{np.mean(changes):+.4f}", f"{max(changes):+.4f}", f"{max(always):+.4f}")
            yield name, f"{images:,}", f"{missed / draws:.0f}", f"{fits} of {draws}", *figures


def always_fitted(few: Predictions) -> float:
    fewest, calibration.FEWEST_MISTAKES = calibration.FEWEST_MISTAKES, 1
    try:
        return calibration.fit_temperature(few).value
    finally:
        calibration.FEWEST_MISTAKES = fewest


def change_of_loss(test: Predictions, temperature: float) -> float:
    rows = np.arange(len(test))
    before, after = (calibration.log_probabilities(test, t)[rows, test.label] for t in (1.0, temperature))
    return float((before - after).mean())


def few_for_threshold(parts: dict[str, dict[str, Predictions]], draws: int) -> Iterator[tuple[str, ...]]:
    for name, splits in parts.items():
        whole = joined(splits["val"], splits["test"])
        for images in SIZES:
            for wanted in WANTED if images <= len(whole) / 2 else ():
                promised, estimated = [], []
                for few, rest in drawn(whole, images, draws):
                    chosen = selective.threshold_for(few, wanted)
                    promised.append(judged(rest, chosen.value if chosen else None, wanted))
                    estimated.append(judged(rest, point_estimate(few, wanted), wanted))
                found = sum(share > 0 for _, share in promised)
                cells = [cell for outcome in (promised, estimated) for cell in summed(outcome)]
                yield name, f"{images:,}", f"{100 * wanted:g}", f"{found} of {draws}", *cells


def judged(rest: Predictions, threshold: float | None, wanted: float) -> tuple[bool, float]:
    """Whether the precision of the images that are kept falls short, and the share that is kept; none without one."""
    if threshold is None:
        return False, 0.0
    given = selective.achieved(rest, threshold, 1.0)
    precision = given.precision.value
    return precision is not None and precision < wanted, given.coverage.value or 0.0


def point_estimate(few: Predictions, wanted: float) -> float | None:
    """The lowest threshold at which the precision of the validation images themselves is the wanted one."""
    sure_N = calibration.confidence(few, 1.0)
    order_N = np.argsort(-sure_N, kind="stable")
    right_N = np.cumsum((few.predicted == few.label)[order_N])
    reached = np.flatnonzero(right_N >= wanted * np.arange(1, len(few) + 1))
    return float(sure_N[order_N][reached[-1]]) if len(reached) else None


def summed(outcome: list[tuple[bool, float]]) -> tuple[str, str]:
    broken, shares = zip(*outcome, strict=True)
    return str(sum(broken)), f"{100 * np.mean(shares):.1f} %"


def drawn(whole: Predictions, images: int, draws: int) -> Iterator[tuple[Predictions, Predictions]]:
    """So many images, drawn without replacement, and the rest."""
    random = np.random.default_rng(0)
    for _ in range(draws):
        order_N = random.permutation(len(whole))
        yield whole.select(order_N[:images]), whole.select(order_N[images:])


def joined(first: Predictions, second: Predictions) -> Predictions:
    return Predictions(
        path=first.path + second.path,
        content=first.content + second.content,
        label=np.concatenate([first.label, second.label]),
        logits_NK=np.concatenate([first.logits_NK, second.logits_NK]),
        classes=first.classes,
    )


if __name__ == "__main__":
    sys.exit(main())
