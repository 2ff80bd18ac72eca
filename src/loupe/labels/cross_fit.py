"""Out-of-fold predictions of linear heads, trained with all other labels and without those that look wrong.

Every image is in one fold, and is predicted by a head that was trained on the other folds. The L2 strength of that head
and the labels that it leaves out are chosen within these other folds too: by heads trained on all of them but one, and
evaluated on that one. A head without the folds A and B serves for A and for B, so that F folds need F(F - 1)/2 heads
for each strength. No label influences the prediction of its own image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from loupe.config.optimizer import Logistic
from loupe.log import progress_bar
from loupe.training.axes import axes
from loupe.training.logistic import Regression, Solution

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]

# From strong to weak, each a tenth of the one before.
STRENGTHS: tuple[float, ...] = tuple(np.geomspace(Logistic().strongest, Logistic().weakest, 6).tolist())
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


def cross_fit(
    features_NC: Features,
    label_N: Ints,
    fold_N: Ints,
    *,
    suspects: Callable[[Ints, Floats], Bools],
) -> CrossFit:
    """Predict every image by heads that were not trained on its fold.

    Args:
        label_N: from 0 to K - 1; each class has images in at least three folds.
        fold_N: the fold of each image, from 0.
        suspects: function from labels [N] and out-of-fold probabilities [N, K] to the mask of labels that look wrong.
    """
    folds = int(fold_N.max()) + 1
    pairs = list(combinations(range(folds), 2))
    feature_NC, place_N, classes = torch.from_numpy(features_NC), torch.from_numpy(label_N), int(label_N.max()) + 1
    principal = axes(feature_NC)  # independent of labels, and no solution depends on them
    with progress_bar() as progress:
        bar = progress.add_task("heads", total=len(STRENGTHS) * len(pairs) + 2 * folds, note="")

        def solve(
            penalty: float, learned_N: Bools, asked_N: Bools, path: Sequence[Solution] = ()
        ) -> tuple[Floats, Solution]:
            progress.update(bar, advance=1)
            regression = Regression(feature_NC[learned_N], place_N[learned_N], classes, principal=principal)
            head = regression.solve(penalty, path)
            logits_NK = feature_NC[asked_N] @ head.weight_KC.float().T + head.bias_K.float()
            return logits_NK.double().softmax(dim=1).numpy(), head

        inner_F = _settle(label_N, fold_N, pairs, solve)
        shape = (len(label_N), classes)
        probability_NK, without_NK, left_out = np.zeros(shape), np.zeros(shape), []
        for fold, inner in enumerate(inner_F):
            mine_N = fold_N == fold
            learned_N = ~mine_N
            probability_NK[mine_N], _ = solve(inner.strength, learned_N, mine_N)
            assert inner.probability_NK is not None
            wrong_N = np.zeros(len(label_N), np.bool_)
            wrong_N[learned_N] = suspects(label_N[learned_N], inner.probability_NK[learned_N])
            left_out.append(int(wrong_N.sum()))
            without_NK[mine_N], _ = solve(inner.strength, learned_N & ~wrong_N, mine_N)
    return CrossFit(probability_NK, without_NK, tuple(inner.strength for inner in inner_F), tuple(left_out))


def _settle(
    label_N: Ints, fold_N: Ints, pairs: list[tuple[int, int]], solve: Callable[..., tuple[Floats, Solution]]
) -> list[_Inner]:
    """L2 strength of each fold with the lowest log loss on the other folds, and their predictions at that strength."""
    inner_F = [_Inner() for _ in range(int(fold_N.max()) + 1)]
    heads: dict[tuple[int, int], list[Solution]] = {pair: [] for pair in pairs}  # of the last two strengths
    for penalty in STRENGTHS:
        said: list[Floats] = [np.zeros((len(label_N), int(label_N.max()) + 1)) for _ in inner_F]
        for pair in pairs:
            if all(inner_F[fold].waited >= PATIENCE for fold in pair):
                continue
            asked_N = np.isin(fold_N, pair)
            both_NK = np.zeros_like(said[0])
            both_NK[asked_N], head = solve(penalty, ~asked_N, asked_N, heads[pair])
            heads[pair] = [*heads[pair][-1:], head]
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
