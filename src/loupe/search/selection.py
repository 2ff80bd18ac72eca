"""Greedy selection of the members of a blend: each round adds the candidate with which the log loss is lowest."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.runs.blend import check_together
from loupe.runs.run import Run

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

ROUNDS = 25
LEAST_GAIN = 1e-9  # of the log loss, by which a later round is better; less is rounding


def greedy_selection(log_probabilities: Sequence[Floats], label_N: Ints, rounds: int = ROUNDS) -> tuple[float, ...]:
    """Shares of candidates in the mean of probabilities with the lowest log loss that greedy selection finds.

    Each round adds one candidate to the mean, with replacement: a candidate that is added twice has twice the share. In
    a tie the first candidate is added. The blend is that of the round with the lowest log loss, the earliest in a tie,
    so that no candidate is in it that does not lower the loss.

    Source: Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble Selection from Libraries of Models", section 2.

    Args:
        log_probabilities: calibrated, of each candidate for the same images that it did not learn from, [N, K].
        label_N: true class of each image.
        rounds: most members, each counted as often as it is added.

    Returns:
        Share of each candidate; their sum is 1.

    Raises:
        ConfigError: no candidate, no image or no round, or candidates of other images or classes.
    """
    _check(log_probabilities, label_N, rounds)
    rows_N = np.arange(len(label_N))
    true_MN = np.exp([np.asarray(one, np.float64)[rows_N, label_N] for one in log_probabilities])
    sum_N, counts_M = np.zeros(len(label_N)), np.zeros(len(true_MN), np.int64)
    best, least = counts_M, np.inf
    for number in range(1, rounds + 1):
        with np.errstate(divide="ignore"):  # a probability of 0 for a true class is an infinite loss
            losses_M = -np.log((sum_N + true_MN) / number).mean(axis=1)
        chosen = int(losses_M.argmin())
        sum_N, counts_M = sum_N + true_MN[chosen], counts_M.copy()
        counts_M[chosen] += 1
        if number == 1 or losses_M[chosen] < least - LEAST_GAIN:
            best, least = counts_M, float(losses_M[chosen])
    return tuple(float(count) / float(best.sum()) for count in best)


def selected_shares(runs: Sequence[Run], rounds: int = ROUNDS) -> tuple[float, ...]:
    """Shares of trained runs by greedy selection on their stored predictions of the same validation images.

    Raises:
        RunStateError: a run has no predictions of validation images.
        ConfigError: their validation images differ, or the best blend is one run alone.
    """
    check_together(runs)
    stored = [_validation(run) for run in runs]
    first = stored[0]
    place = {key: row for row, key in enumerate(zip(first.content, first.path, strict=True))}
    order = []
    for run, one in zip(runs, stored, strict=True):
        rows = [place.get(key) for key in zip(one.content, one.path, strict=True)]
        if sorted(row for row in rows if row is not None) != list(range(len(first))):
            raise ConfigError(
                f"{run.directory.name} and {runs[0].directory.name} have other validation images. Give runs with the "
                "same split, or --shares."
            )
        order.append(np.argsort(np.asarray(rows, np.int64)))
    log_p = [
        log_softmax(one.logits_NK[rows_N] / one.temperature, axis=1) for one, rows_N in zip(stored, order, strict=True)
    ]
    shares = greedy_selection(log_p, first.label, rounds)
    if sum(share > 0 for share in shares) < 2:
        alone = runs[shares.index(max(shares))].directory.name
        raise ConfigError(
            f"no blend of these runs has a lower validation log loss than {alone} alone. Use it, or give --shares."
        )
    return shares


def _validation(run: Run) -> Predictions:
    """Calibrated predictions of the validation images."""
    file = run.directory.file("predictions.csv")
    stored = (read_splits(file) if file.is_file() else {}).get("val")
    if stored is None:
        raise RunStateError(f"{run.path} has no predictions of validation images to select by. Give --shares.")
    return stored.calibrated(run.temperature)


def _check(log_probabilities: Sequence[Floats], label_N: Ints, rounds: int) -> None:
    shapes = {np.shape(one) for one in log_probabilities}
    if not shapes or not len(label_N) or rounds < 1:
        raise ConfigError(
            f"a blend is selected from 1 candidate, 1 image and 1 round or more; got {len(log_probabilities)}, "
            f"{len(label_N)} and {rounds}."
        )
    shape = shapes.pop()
    if shapes or len(shape) != 2 or shape[0] != len(label_N):
        raise ConfigError(
            f"candidates of a blend need log-probabilities [{len(label_N)}, K] of the same images and classes; got "
            f"{', '.join(str(list(np.shape(one))) for one in log_probabilities)}."
        )
