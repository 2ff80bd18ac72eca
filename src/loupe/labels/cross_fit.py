"""Out-of-fold predictions of linear heads, trained with all other labels and without those that look wrong.

Every image is in one fold, and is predicted by a head that was trained on the other folds. The L2 strength of that head
and the labels that it leaves out are chosen within these other folds too: by heads trained on all of them but one, and
evaluated on that one. A head without the folds A and B serves for A and for B, so that F folds need F(F - 1)/2 heads
for each strength. No label influences the prediction of its own image.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from loupe.config.optimizer import STRONGEST, WEAKEST
from loupe.log import progress_bar
from loupe.training.axes import Axes, axes
from loupe.training.logistic import Regression, Solution

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]

# From strong to weak, each a tenth of the one before.
STRENGTHS: tuple[float, ...] = tuple(np.geomspace(STRONGEST, WEAKEST, 6).tolist())
PATIENCE = 2  # strengths without a lower loss, after which weaker ones, which take longest, are not tried
LEAST_FOLDS = 3  # two are left out at a time


@dataclass(frozen=True)
class CrossFit:
    """Predictions of heads for images that they were not trained on.

    Attributes:
        probability_NK: of each class, by a head trained on the labels of all other folds.
        without_NK: the same, by a head trained without those that look wrong.
        strength_F: the L2 strength of the two heads of a fold.
        left_out_F: the number of labels left out of the training of the second.
    """

    probability_NK: Floats
    without_NK: Floats
    strength_F: tuple[float, ...]
    left_out_F: tuple[int, ...]


@dataclass
class _Inner:
    """Choices made without one fold; `probability_NK` is undefined for the images of that fold."""

    loss: float = np.inf
    strength: float = STRENGTHS[0]
    probability_NK: Floats | None = None
    waited: int = 0


def fold_counts(label_N: Ints, fold_N: Ints) -> Ints:
    """Number of folds in which each class has images, [K]; with fewer than three, some head would lack the class."""
    found_KF = np.zeros((label_N.max() + 1, fold_N.max() + 1), np.int64)
    found_KF[label_N, fold_N] = 1
    return np.asarray(found_KF.sum(axis=1))


@dataclass(frozen=True)
class HeadTask:
    """One head to solve.

    Attributes:
        penalty: strength of its L2 penalty.
        learned_N: mask of the images that it is fitted to; asked_N: of those that it predicts.
        path: solutions for stronger penalties, from which the search starts.
    """

    penalty: float
    learned_N: Bools
    asked_N: Bools
    path: tuple[Solution, ...] = ()


@dataclass(frozen=True)
class HeadData:
    """Images that all heads are fitted to: features, labels from 0 to `classes` - 1, and axes of the features."""

    feature_NC: Features
    label_N: Ints
    classes: int
    principal: Axes

    def solve(self, task: HeadTask) -> tuple[Floats, Solution]:
        """Probabilities of the images that are asked for, and the head."""
        feature_NC, label_N = torch.from_numpy(self.feature_NC), torch.from_numpy(self.label_N)
        regression = Regression(
            feature_NC[task.learned_N], label_N[task.learned_N], self.classes, principal=self.principal
        )
        head = regression.solve(task.penalty, task.path)
        logits_NK = feature_NC[task.asked_N] @ head.weight_KC.float().T + head.bias_K.float()
        return logits_NK.double().softmax(dim=1).numpy(), head


Solver = Callable[[Sequence[HeadTask]], Iterable[tuple[Floats, Solution]]]


def in_turn(data: HeadData) -> Solver:
    """Solver of heads in this process, one after the other."""
    return partial(map, data.solve)


def cross_fit(
    features_NC: Features,
    label_N: Ints,
    fold_N: Ints,
    *,
    suspects: Callable[[Ints, Floats], Bools],
    solver: Callable[[HeadData], Solver] = in_turn,
) -> CrossFit:
    """Predict every image by heads that were not trained on its fold.

    Args:
        label_N: from 0 to K - 1; each class has images in at least three folds.
        fold_N: the fold of each image, from 0.
        suspects: function from labels [N] and out-of-fold probabilities [N, K] to the mask of labels that look wrong.
        solver: function from the images to the solver of independent heads, which keeps their order.
    """
    folds = int(fold_N.max()) + 1
    pairs, classes = list(combinations(range(folds), 2)), int(label_N.max()) + 1
    principal = axes(torch.from_numpy(features_NC))  # independent of labels, and no solution depends on them
    solve_all = solver(HeadData(features_NC, label_N, classes, principal))
    with progress_bar() as progress:
        bar = progress.add_task("heads", total=len(STRENGTHS) * len(pairs) + 2 * folds, note="")

        def solve(tasks: Sequence[HeadTask]) -> Iterator[tuple[Floats, Solution]]:
            for solved in solve_all(tasks):
                progress.update(bar, advance=1)
                yield solved

        inner_F = _settle(label_N, fold_N, pairs, solve)
        mine_FN = [fold_N == fold for fold in range(folds)]
        all_others = [HeadTask(inner.strength, ~mine_N, mine_N) for inner, mine_N in zip(inner_F, mine_FN, strict=True)]
        cleaned, left_out = [], []
        for inner, mine_N in zip(inner_F, mine_FN, strict=True):
            learned_N, wrong_N = ~mine_N, np.zeros(len(label_N), np.bool_)
            assert inner.probability_NK is not None
            wrong_N[learned_N] = suspects(label_N[learned_N], inner.probability_NK[learned_N])
            left_out.append(int(wrong_N.sum()))
            cleaned.append(HeadTask(inner.strength, learned_N & ~wrong_N, mine_N))
        probability_NK, without_NK = np.zeros((len(label_N), classes)), np.zeros((len(label_N), classes))
        for number, (said_NK, _) in enumerate(solve([*all_others, *cleaned])):
            (probability_NK if number < folds else without_NK)[mine_FN[number % folds]] = said_NK
    return CrossFit(probability_NK, without_NK, tuple(inner.strength for inner in inner_F), tuple(left_out))


def _settle(label_N: Ints, fold_N: Ints, pairs: list[tuple[int, int]], solve: Solver) -> list[_Inner]:
    """L2 strength of each fold with the lowest log loss on the other folds, and their predictions at that strength."""
    inner_F = [_Inner() for _ in range(int(fold_N.max()) + 1)]
    heads: dict[tuple[int, int], tuple[Solution, ...]] = dict.fromkeys(pairs, ())  # of the last two strengths
    for penalty in STRENGTHS:
        said: list[Floats] = [np.zeros((len(label_N), int(label_N.max()) + 1)) for _ in inner_F]
        left = [pair for pair in pairs if any(inner_F[fold].waited < PATIENCE for fold in pair)]
        asked = [np.isin(fold_N, pair) for pair in left]
        tasks = [HeadTask(penalty, ~asked_N, asked_N, heads[pair]) for pair, asked_N in zip(left, asked, strict=True)]
        for pair, asked_N, (said_MK, head) in zip(left, asked, solve(tasks), strict=True):
            both_NK = np.zeros_like(said[0])
            both_NK[asked_N] = said_MK
            heads[pair] = (*heads[pair][-1:], head)
            for fold, other in (pair, pair[::-1]):
                said[fold][fold_N == other] = both_NK[fold_N == other]
        for fold, inner in enumerate(inner_F):
            if inner.waited < PATIENCE:  # its own patience: that of another fold has seen this one's labels
                _weigh(inner, penalty, said[fold], label_N, fold_N != fold)
    return inner_F


def _weigh(inner: _Inner, penalty: float, said_NK: Floats, label_N: Ints, rest_N: Bools) -> None:
    """Keep the strength if its loss is lower than those before."""
    chosen_M = said_NK[rest_N, label_N[rest_N]]
    loss = float(-np.log(np.maximum(chosen_M, 1e-15)).mean())
    if loss < inner.loss:
        inner.loss, inner.strength, inner.probability_NK, inner.waited = loss, penalty, said_NK, 0
    else:
        inner.waited += 1
