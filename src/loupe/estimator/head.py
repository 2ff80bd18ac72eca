"""Linear heads on features, from weighted samples: the solution depends neither on their order nor on repetition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from loupe.errors import ConfigError, DataError, enumerated
from loupe.training.axes import Axes, axes
from loupe.training.heads import out_of_fold
from loupe.training.logistic import Regression

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FOLDS = 5
KEPT_AXES = 5  # as many as a grid search has folds; 13 MB each for 1,280 features
FEW_C = 1.0  # where a class has one sample, so that none can be left out: scikit-learn's default

_axes: dict[tuple[tuple[int, ...], bytes], Axes] = {}  # of the last features in this process


@dataclass(frozen=True)
class Head:
    """Weights of a linear head, [K, C] and [K], and the C that it was solved for."""

    weight_KC: Floats
    bias_K: Floats
    c: float

    def logits(self, features_NC: Features) -> Floats:
        """Logits, float64 [N, K]."""
        logits_NK: Floats = features_NC.astype(np.float64) @ self.weight_KC.T + self.bias_K
        return logits_NK


def solved(
    features_NC: Features,
    label_N: Ints,
    content: Sequence[str],
    weight_N: Floats,
    classes: int,
    c: float | Literal["auto"],
) -> Head:
    """Solve the head to convergence: the objective is that of scikit-learn's LogisticRegression with this C.

    Samples of the same content and class are one, with the sum of their weights, and all are taken in the order of
    their hashes. A class without a weight above 0 is never predicted.

    Args:
        content: hash of each sample.
        weight_N: weight of each sample; those with 0 have no influence.
        c: inverse of the L2 strength; auto: that with the lowest log loss in out-of-fold predictions.
    """
    some_N = np.flatnonzero(weight_N > 0)
    keys = sorted({(content[i], int(label_N[i])): i for i in some_N.tolist()}.items())
    place, sums_M = {key: number for number, (key, _) in enumerate(keys)}, np.zeros(len(keys))
    for i in some_N.tolist():
        sums_M[place[content[i], int(label_N[i])]] += weight_N[i]
    rows_M = np.array([i for _, i in keys], np.int64)
    kept, y_M = np.unique(label_N[rows_M], return_inverse=True)
    x_MC = np.ascontiguousarray(features_NC[rows_M])
    if c == "auto":
        fold_M = _folds([digest for (digest, _), _ in keys], y_M)
        c = FEW_C if fold_M is None else 1 / out_of_fold(x_MC, y_M, fold_M, len(kept), weight_N=sums_M).strength
    regression = Regression(
        torch.from_numpy(x_MC),
        torch.from_numpy(y_M),
        len(kept),
        weight_N=torch.from_numpy(sums_M),
        principal=_axes_of(x_MC),
    )
    solution = regression.solve(1 / c)
    weight_KC, bias_K = np.zeros((classes, features_NC.shape[1])), np.full(classes, -np.inf)
    weight_KC[kept], bias_K[kept] = solution.weight_KC.numpy(), solution.bias_K.numpy()
    return Head(weight_KC, bias_K, c)


def _axes_of(x_MC: Features) -> Axes:
    """Axes of the features, which a search over settings asks for again and again with the same folds."""
    key = (x_MC.shape, sha256(x_MC.tobytes()).digest())
    if key not in _axes:
        while len(_axes) >= KEPT_AXES:
            _axes.pop(next(iter(_axes)), None)
        _axes[key] = axes(torch.from_numpy(x_MC))
    return _axes[key]


def _folds(content: Sequence[str], label_M: Ints) -> Ints | None:
    """Fold of each sample, the classes spread evenly; None where a class has one sample. Copies are in one fold."""
    first = dict(zip(reversed(content), label_M[::-1].tolist(), strict=True))
    count = min(FOLDS, *np.unique([*first.values()], return_counts=True)[1].tolist())
    if count < 2 or len(set(first.values())) < len(np.unique(label_M)):
        return None
    of_class = sorted(first, key=lambda digest: (first[digest], digest))
    fold = {digest: number % count for number, digest in enumerate(of_class)}
    return np.array([fold[digest] for digest in content], np.int64)


def sample_weights(weight_N: Floats, label_N: Ints, labels: Sequence[Any], class_weight: Any) -> Floats:
    """Weights of samples times those of their classes.

    Args:
        labels: the classes, in order.
        class_weight: None, `balanced`, or weights by class; a class that is not among them has 1.

    Raises:
        ConfigError: the class weights are none of these, or name an unknown class.
        DataError: no weights, or negative ones.
    """
    if (weight_N < 0).any():
        raise DataError("sample_weight has negative values. Give weights of 0 or more.")
    if class_weight is None:
        weight_K = np.ones(len(labels))
    elif isinstance(class_weight, Mapping):
        known = [label.item() if isinstance(label, np.generic) else label for label in labels]
        if unknown := [label for label in class_weight if label not in known]:
            raise ConfigError(f"class_weight names {enumerated([*map(repr, unknown)])}, which y does not have.")
        weight_K = np.array([float(class_weight.get(label, 1.0)) for label in known])
        if not (np.isfinite(weight_K) & (weight_K >= 0)).all():
            raise ConfigError(f"class_weight has values that are negative or not finite: {dict(class_weight)}.")
    elif isinstance(class_weight, str) and class_weight == "balanced":
        sum_K = np.bincount(label_N, weights=weight_N, minlength=len(labels))
        weight_K = np.where(sum_K > 0, sum_K.sum() / ((sum_K > 0).sum() * np.where(sum_K > 0, sum_K, 1.0)), 0.0)
    else:
        raise ConfigError(f"class_weight={class_weight!r}: give None, 'balanced' or a dict of weights by class.")
    each_N: Floats = weight_N * weight_K[label_N]
    return each_N
