"""Blend of trained runs: greedy selection of its members, and the verdict on it beside the best single run.

The verdict does not judge shares by the images that chose them: for it, the shares are selected on four fifths of the
validation images and judged on the last fifth, five times. The blend that is made has the shares of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.blend_results import BlendVerdict
from loupe.evaluate.paired import Candidate, difference_of_hits, matched_columns
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.evaluate.results import results_file
from loupe.report import run_page
from loupe.runs import blend as blends
from loupe.runs import soup as soups
from loupe.runs.predict_time import predict_seconds
from loupe.runs.run import Run
from loupe.search import words
from loupe.search.evidence import Evidence, ranked
from loupe.search.selection import greedy_selection

FOLDS = 5  # parts of the validation images, each judged by shares that the others selected

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Library:
    """Trained runs with their calibrated predictions of the same validation images.

    Attributes:
        log_p_MNK: logarithms of the probabilities of each run.
        label_N: true class of each image.
        fold_N: part of each image; copies of an image are in one part.
    """

    runs: tuple[Run, ...]
    log_p_MNK: Floats
    label_N: Ints
    fold_N: Ints

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs; their paths where two have one name."""
        names = tuple(run.directory.name for run in self.runs)
        return names if len(set(names)) == len(names) else tuple(str(run.path) for run in self.runs)

    @property
    def best(self) -> int:
        """Number of the best single run, as a search chooses it."""
        pairs = zip(self.names, self.log_p_MNK, strict=True)
        every = [Evidence(name, log_p_NK, self.label_N, of_folds=False) for name, log_p_NK in pairs]
        return self.names.index(ranked(every)[0].name)

    def shares(self, chosen_N: npt.NDArray[np.bool_] | None = None) -> tuple[float, ...]:
        """Shares that greedy selection finds on all images, or on some of them."""
        rows = slice(None) if chosen_N is None else chosen_N
        return greedy_selection(list(self.log_p_MNK[:, rows]), self.label_N[rows])

    def mean(self, shares: Sequence[float]) -> Floats:
        """Weighted mean of the probabilities, [N, K]."""
        total = sum(shares)
        mean_NK: Floats = np.tensordot(np.array(shares) / total, np.exp(self.log_p_MNK), axes=1)
        return mean_NK

    def of(self, made: Run) -> Floats:
        """Probabilities of another run for the validation images, [N, K]."""
        one = _validation(made)
        reference = Candidate("library", (_validation(self.runs[0]),), None)
        columns_N = matched_columns([reference, Candidate("made", (one,), None)])["made"][0]
        ordered_NK = np.empty_like(one.probabilities_NK)
        ordered_NK[columns_N] = one.probabilities_NK
        return ordered_NK

    def cross_fitted(self) -> Floats:
        """Mean probabilities of each image with shares that the other parts selected, [N, K]."""
        mean_NK = np.empty(self.log_p_MNK.shape[1:])
        for fold in np.unique(self.fold_N):
            here_N = self.fold_N == fold
            mean_NK[here_N] = self.mean(self.shares(~here_N))[here_N]
        return mean_NK


def library(runs: Sequence[Run]) -> Library:
    """Read the predictions of runs for their validation images, in one order.

    Raises:
        ConfigError: fewer than two runs, or runs of other classes, another split or an input that cannot be shared.
        RunStateError: a run has no predictions of validation images.
    """
    if len(runs) < 2:
        raise ConfigError("a blend is made of two runs or more. Give their folders or names: loupe blend RUN RUN")
    blends.check_together(runs)
    stored = [_validation(run) for run in runs]
    candidates = [Candidate(str(run.path), (one,), None) for run, one in zip(runs, stored, strict=True)]
    log_p_MNK, label_N = [], stored[0].label
    for columns, one in zip(matched_columns(candidates).values(), stored, strict=True):
        ordered_NK = np.empty_like(one.log_probabilities_NK)
        ordered_NK[columns[0]] = one.log_probabilities_NK
        log_p_MNK.append(ordered_NK)
    return Library(tuple(runs), np.stack(log_p_MNK), label_N, _folds(stored[0].content, runs[0].recipe.seed))


def _validation(run: Run) -> Predictions:
    """Calibrated predictions of the validation images, whose order of classes is that of the run."""
    file = run.directory.file("predictions.csv")
    stored = (read_splits(file) if file.is_file() else {}).get("val")
    if stored is None:
        raise RunStateError(f"{run.path} has no validation images, by which a blend is selected and judged.")
    return stored.calibrated(run.temperature)


def _folds(content: Sequence[str], seed: int) -> Ints:
    distinct, of_N = np.unique(np.array(content), return_inverse=True)
    order = np.random.default_rng([seed, 3]).permutation(len(distinct))
    return np.asarray(order[of_N] % min(FOLDS, len(distinct)), np.int64)


def blend(
    runs: Sequence[Run],
    shares: Sequence[float] | None = None,
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> Run:
    """Make a blend of trained runs with a verdict on it: greedy selection of the shares, unless they are given.

    Args:
        runs: finished runs on the same images and the same split.
        shares, output, name, open_test, device, quiet: as for `loupe.runs.blend.blend`.

    Raises:
        ConfigError: as for `library`; or no blend is better than one run alone by the validation log loss.
        RunStateError: as for `library`.
        DataError: the images are missing or have changed.
    """
    known = library(runs)
    selected = shares is None
    chosen = known.shares() if shares is None else tuple(shares)
    if selected and sum(share > 0 for share in chosen) < 2:
        alone = known.names[int(np.argmax(chosen))]
        raise ConfigError(
            f"no blend of these runs has a lower validation log loss than {alone} alone. Use it, or give --shares."
        )
    made = blends.blend(runs, chosen, output=output, name=name, open_test=open_test, device=device, quiet=quiet)
    own_NK, mean_NK = known.of(made), known.mean(chosen)
    otherwise = int((own_NK.argmax(axis=1) != mean_NK.argmax(axis=1)).sum())
    remark = words.resized(otherwise, len(own_NK)) if otherwise else None
    judged_NK, how = (known.cross_fitted(), words.SELECTED) if selected else (own_NK, "")
    return _with_verdict(made, judged(made, known, judged_NK, how=how, remark=remark, cross_fitted=selected))


def soup(
    runs: Sequence[Run],
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> Run:
    """Make a greedy soup of trained runs, one network, with a verdict on it.

    Args:
        runs: finished runs of one network with the same start, on the same images and the same split.
        output, name, open_test, device, quiet: as for `loupe.runs.soup.soup`.

    Raises:
        LoupeError: as for `library`, and as for `loupe.runs.soup.soup`.
    """
    known = library(runs)
    made = soups.soup(runs, output=output, name=name, open_test=open_test, device=device, quiet=quiet)
    return _with_verdict(made, judged(made, known, known.of(made), how=words.CHOSEN))


def _with_verdict(made: Run, verdict: BlendVerdict) -> Run:
    made.results = made.results.model_copy(update={"blend": verdict})
    made.results.write(results_file(made.directory))
    run_page.write_page(made.path)
    return made


def judged(
    made: Run, known: Library, judged_NK: Floats, *, how: str, remark: str | None = None, cross_fitted: bool = False
) -> BlendVerdict:
    """Verdict on a run of several: accuracy beside the best single run on the same images, time of a prediction.

    Args:
        made: run of the blend or the soup.
        known: runs that it was chosen from.
        judged_NK: probabilities that are judged, in the order of the images of `known`.
        how: words on the choice that the validation images made.
    """
    best = known.best
    names = known.names[best], made.directory.name if made.directory.name not in known.names else str(made.path)
    right = [(of_NK.argmax(axis=1) == known.label_N)[None] for of_NK in (known.log_p_MNK[best], judged_NK)]
    difference = difference_of_hits(*names, dict(zip(names, right, strict=True)))
    seconds = predict_seconds(made, known.runs[best])
    return BlendVerdict.of(difference, seconds, how, remark=remark, cross_fitted=cross_fitted)
