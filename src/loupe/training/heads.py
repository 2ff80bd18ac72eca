"""Out-of-fold predictions of linear heads on features, with L2 strengths that go on until the log loss rises.

Every image is predicted by a head that was solved on the other folds. All folds have the strength with the lowest log
loss of these predictions together: one number chosen on the images that it is judged by, which raises their accuracy by
far less than the width of its interval.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loupe.config.optimizer import Logistic
from loupe.training.axes import Axes, axes
from loupe.training.logistic import Regression, Solution

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

RATIO = 10**-0.5  # of an L2 strength to the one before
WEAKEST = 1e-9  # at which a penalty no longer changes a head in float32
RISE = 1.001  # ratio to the lowest log loss from which on a loss has risen; on a plateau the search goes on
PATIENCE = 2  # strengths whose log loss has risen, after which no weaker one is tried
UNSEEN = 10.0  # bias of a class without training images, below the smallest bias of the others


def strengths(strongest: float = Logistic().strongest) -> Iterator[float]:
    """L2 strengths from the strongest to WEAKEST, each RATIO times the one before."""
    strength = strongest
    while strength >= WEAKEST:
        yield strength
        strength *= RATIO


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of each image by a head that did not learn from its fold.

    Attributes:
        logits_NK: at the best strength.
        strength: L2 strength with the lowest log loss over all images.
        losses: log loss of each strength that was tried, from strong to weak.
    """

    logits_NK: Floats
    strength: float
    losses: tuple[tuple[float, float], ...]


def out_of_fold(
    features_NC: Floats, label_N: Ints, fold_N: Ints, classes: int, *, weight_K: Floats | None = None
) -> OutOfFold:
    """Predict every image by a head that was solved on the other folds.

    Args:
        features_NC: outputs of the frozen blocks after pooling.
        label_N: from 0 to `classes` - 1.
        fold_N: fold of each image, from 0. The images of all folds but one have two classes or more.
        weight_K: weight of the images of each class; None: 1.
    """
    x_NC, y_N = torch.from_numpy(features_NC), torch.from_numpy(label_N)
    principal = axes(x_NC)  # independent of labels, and no solution depends on them
    folds = np.unique(fold_N)
    heads = [_FoldHead.of(x_NC[fold_N != fold], y_N[fold_N != fold], weight_K, principal) for fold in folds]
    best, least, losses = np.zeros((len(label_N), classes), np.float32), np.inf, list[tuple[float, float]]()
    for strength in strengths():
        logits_NK = np.empty((len(label_N), classes), np.float32)
        for fold, head in zip(folds, heads, strict=True):
            logits_NK[fold_N == fold] = head.logits(strength, x_NC[fold_N == fold], classes).numpy()
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits_NK).double(), y_N).item()
        losses.append((strength, loss))
        if loss < least:
            best, least = logits_NK, loss
        if sum(later > RISE * least for _, later in losses[[one for _, one in losses].index(least) :]) >= PATIENCE:
            break
    return OutOfFold(best, min(losses, key=lambda one: one[1])[0], tuple(losses))


@dataclass
class _FoldHead:
    """Heads of one fold: solutions for ever weaker strengths, over the classes that its training images have."""

    regression: Regression
    class_L: Tensor
    path: list[Solution]

    @classmethod
    def of(cls, x_MC: Tensor, y_M: Tensor, weight_K: Floats | None, principal: Axes) -> "_FoldHead":
        class_L, label_M = torch.unique(y_M, return_inverse=True)
        weight_M = None if weight_K is None else torch.from_numpy(np.asarray(weight_K, np.float32))[y_M]
        return cls(Regression(x_MC, label_M, len(class_L), weight_N=weight_M, principal=principal), class_L, [])

    def logits(self, strength: float, x_MC: Tensor, classes: int) -> Tensor:
        """Logits of some images by the head of this strength, which starts from the heads before."""
        solution = self.regression.solve(strength, self.path)
        self.path = [*self.path[-1:], solution]
        logits_MK = torch.full((len(x_MC), classes), float(solution.bias_K.min()) - UNSEEN)
        logits_MK[:, self.class_L] = (x_MC @ solution.weight_KC.float().T + solution.bias_K.float()).cpu()
        return logits_MK
