"""Out-of-fold predictions of linear heads on features, with L2 strengths that go on until the log loss rises.

Every image is predicted by a head that was solved on the other folds. All folds have the strength with the lowest log
loss, or the highest macro-F1, of these predictions together: one number chosen on the images that it is judged by,
which raises their accuracy by far less than the width of its interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loupe.config.optimizer import Logistic
from loupe.evaluate.paired_f1 import macro_f1
from loupe.training.axes import Axes, axes
from loupe.training.logistic import Regression, Solution
from loupe.training.strengths import PATIENCE, PATIENCE_OF_F1, UNLIMITED, nearest_last, next_strength

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

UNSEEN = 10.0  # bias of a class without training images, below the smallest bias of the others


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of each image by a head that did not learn from its fold.

    Attributes:
        logits_NK: at that strength.
        strength: best L2 strength over all images.
        losses: strengths and their log losses, or 1 - macro-F1, in the order in which they were tried.
    """

    logits_NK: Floats
    strength: float
    losses: tuple[tuple[float, float], ...]


def out_of_fold(
    features_NC: Floats,
    label_N: Ints,
    fold_N: Ints,
    classes: int,
    *,
    weight_K: Floats | None = None,
    spec: Logistic = UNLIMITED,
    weight_N: npt.NDArray[np.float64] | None = None,
    strengths: Sequence[float] | None = None,
    log_prior_K: Floats | None = None,
    before_each: Callable[[], None] = lambda: None,
    by_f1: bool = False,
) -> OutOfFold:
    """Predict every image by a head that was solved on the other folds.

    Args:
        features_NC: outputs of the frozen blocks after pooling.
        label_N: from 0 to `classes` - 1.
        fold_N: fold of each image, from 0. The images of all folds but one have two classes or more.
        weight_K: weight of the images of each class; None: 1.
        spec: ends of the series of strengths, see `next_strength`.
        weight_N: weight of each image, also in the log loss; None: 1.
        strengths: strengths to try; None for a series that goes on by itself.
        log_prior_K: logit adjustment of each class, subtracted from all logits; None: none.
        before_each: function called before each head is solved; what it raises ends the search.
        by_f1: the best strength has the highest macro-F1, and of those with the same one the lowest log loss. It does
            not depend on weights of images.
    """
    x_NC, y_N = torch.from_numpy(features_NC), torch.from_numpy(label_N)
    share_N = torch.ones(len(y_N), dtype=torch.float64) if weight_N is None else torch.from_numpy(weight_N)
    each_N = share_N if weight_K is None else share_N * torch.from_numpy(np.asarray(weight_K, np.float64))[y_N]
    principal = axes(x_NC)  # independent of labels, and no solution depends on them
    folds = np.unique(fold_N)
    heads = [
        _FoldHead.of(x_NC[fold_N != fold], y_N[fold_N != fold], each_N[fold_N != fold], principal) for fold in folds
    ]
    best, chosen, least = np.zeros((len(label_N), classes), np.float32), 0.0, (np.inf, np.inf)
    losses = list[tuple[float, float]]()
    adjustment_K = 0.0 if log_prior_K is None else log_prior_K
    for strength in _tried(strengths, losses, spec, PATIENCE_OF_F1 if by_f1 else PATIENCE):
        logits_NK = np.empty((len(label_N), classes), np.float32)
        for fold, head in zip(folds, heads, strict=True):
            before_each()
            logits_NK[fold_N == fold] = head.logits(strength, x_NC[fold_N == fold], classes).numpy() - adjustment_K
        loss_N = torch.nn.functional.cross_entropy(torch.from_numpy(logits_NK).double(), y_N, reduction="none")
        log_loss = float(loss_N @ share_N / share_N.sum())
        loss = 1 - macro_f1(label_N, logits_NK.argmax(axis=1)[None]) if by_f1 else log_loss
        losses.append((strength, loss))
        if (loss, log_loss) < least:
            best, chosen, least = logits_NK, strength, (loss, log_loss)
    return OutOfFold(best, chosen, tuple(losses))


def _tried(
    strengths: Sequence[float] | None, losses: Sequence[tuple[float, float]], spec: Logistic, patience: int
) -> Iterator[float]:
    """Strengths to try: those that are named, or a series that goes on by the losses so far."""
    if strengths is not None:
        yield from strengths
        return
    while (strength := next_strength(losses, spec, patience)) is not None:
        yield strength


@dataclass
class _FoldHead:
    """Heads of one fold, with the solutions at both ends of the series, over the classes of its training images."""

    regression: Regression
    class_L: Tensor
    path: list[Solution]

    @classmethod
    def of(cls, x_MC: Tensor, y_M: Tensor, weight_M: Tensor, principal: Axes) -> "_FoldHead":
        class_L, label_M = torch.unique(y_M, return_inverse=True)
        return cls(Regression(x_MC, label_M, len(class_L), weight_N=weight_M, principal=principal), class_L, [])

    def logits(self, strength: float, x_MC: Tensor, classes: int) -> Tensor:
        """Logits of some images by the head of this strength, which starts from the heads before."""
        near = nearest_last([one.penalty for one in self.path], strength)
        solution = self.regression.solve(strength, [self.path[number] for number in near])
        in_order = sorted([*self.path, solution], key=lambda one: one.penalty)
        self.path = [*in_order[:2], *in_order[2:][-2:]]  # the series goes on at its ends alone
        logits_MK = torch.full((len(x_MC), classes), float(solution.bias_K.min()) - UNSEEN)
        logits_MK[:, self.class_L] = (x_MC @ solution.weight_KC.float().T + solution.bias_K.float()).cpu()
        return logits_MK
