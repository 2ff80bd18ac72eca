"""Multinomial logistic regression with an L2 penalty, solved to convergence in few passes over the features.

Features of a network vary far more in some directions than in others, and L-BFGS takes hundreds of passes over them. In
coordinates in which the curvature of the loss is about the same in every direction (`axes.py`) it takes tens. The
objective, and with it the solution, is that of scikit-learn.
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from loupe.training.axes import LEAST_CURVATURE, Axes, Coordinates, Floats, axes, chunks

MOST_STEPS = 1000
GAP = 1e-6  # of the objective to its minimum, relative to the objective
SAFETY = 5.0  # the estimated gap may be too small by this factor, so that a search goes on to GAP / SAFETY
OUTDATED = 0.3  # coordinates are renewed once the uncertainty has fallen to this share of the one they were made for
ALONG_ROWS = 20_000  # up to which features are kept along their axes too, which saves a change of coordinates a pass
# Products of a pass up to which one thread computes: a second one gains at most a third, and beside other work each of
# the many short passes waits for it (1,000 images x 768 features x 10 classes: 1.3 ms in a quiet moment, 65 ms beside).
ONE_THREAD_PRODUCTS = 20_000_000
MEMORY = 20  # pairs of steps and gradient changes that L-BFGS keeps
LINE_PASSES = 8  # at most, in one line search; they take 1 to 3, and more only where rounding hides the descent
USUAL_PASSES = 20  # over the features for one strength; measured: 5 to 90, the weakest seldom reached
TIMED_ROWS = 8_192

Evaluation = tuple[float, Floats, float]  # value of the objective, its gradient, and the uncertainty
Objective = Callable[[Coordinates, Floats], Evaluation]


@dataclass(frozen=True)
class Solution:
    """A head: `weight_KC` and `bias_K` in float64, and its scores on the images that it was fitted to.

    Attributes:
        penalty: strength of the penalty that it was solved for.
        passes: over the features, that solving took.
        loss, accuracy: means over these images; `loss` is without the penalty.
        uncertainty: mean of p (1 - p) over images and classes, to which the curvature of the loss is proportional.
        converged: False if MOST_STEPS, or rounding, ended the search before the objective was within GAP.
    """

    penalty: float
    passes: int
    weight_KC: Tensor
    bias_K: Tensor
    loss: float
    accuracy: float
    uncertainty: float
    converged: bool


class Search:
    """One search by L-BFGS, in one set of coordinates, that ends once the objective is close to its minimum.

    The gap to the minimum is estimated as half the squared Newton decrement, gᵀH⁻¹g / 2 (Boyd and Vandenberghe 2004,
    Convex Optimization, section 9.5.1), with the inverse Hessian that L-BFGS builds from its last steps (Nocedal and
    Wright 2006, Numerical Optimization, algorithm 7.4). The next step goes along H⁻¹g, so that the estimate costs
    nothing. SciPy's L-BFGS-B does not tell it, and takes several times as long, as it provides for bounds.

    Attributes:
        point: the last accepted point, at first the start.
        gap: estimated at this point, relative to the objective.
        uncertainty: of the head there, see `Solution`; infinite at the start.
        steps, passes: number of accepted points, and of evaluations.
    """

    def __init__(self, objective: Objective, coordinates: Coordinates, weight_KC: Tensor, bias_K: Tensor) -> None:
        self.objective, self.coordinates = objective, coordinates
        self.point = coordinates.point(weight_KC, bias_K)
        self.gap, self.uncertainty = math.inf, math.inf
        self.steps, self.passes = 0, 0
        self._pairs: deque[tuple[Floats, Floats, float]] = deque(maxlen=MEMORY)  # the last one: 1 / step @ change
        self._evaluated: tuple[Floats, Evaluation] | None = None

    def run(self, most_steps: int, least_uncertainty: float) -> None:
        """Take steps until the gap is at most GAP / SAFETY, or the uncertainty below `least_uncertainty`.

        It ends sooner after `most_steps`, and where rounding hides any further descent.
        """
        loss, gradient, _ = self._at(self.point)
        direction = self._direction(loss, gradient)
        while self.steps < most_steps and self.gap > GAP / SAFETY and self.uncertainty >= least_uncertainty:
            found = self._along(direction, loss, gradient)
            if found is None:
                return
            point, (loss, ahead, self.uncertainty) = found
            step, change = point - self.point, ahead - gradient
            if (curvature := float(step @ change)) > 0:
                self._pairs.append((step, change, 1 / curvature))
            self.point, gradient = point, ahead
            self.steps += 1
            direction = self._direction(loss, gradient)

    def _direction(self, loss: float, gradient: Floats) -> Floats:
        """Direction of descent, -H⁻¹g; sets the gap. The inverse Hessian starts as their 7.20."""
        descent, share_P = gradient.copy(), list[float]()
        for step, change, inverse in reversed(self._pairs):
            share_P.append(inverse * float(step @ descent))
            descent -= share_P[-1] * change
        if self._pairs:
            _, change, inverse = self._pairs[-1]
            descent /= inverse * float(change @ change)
        for (step, change, inverse), share in zip(self._pairs, reversed(share_P), strict=True):
            descent += (share - inverse * float(change @ descent)) * step
        self.gap = float(gradient @ descent) / 2 / loss
        return -descent

    def _along(self, direction: Floats, loss: float, gradient: Floats) -> tuple[Floats, Evaluation] | None:
        """Point along a direction that meets the strong Wolfe conditions; None where rounding hides the descent."""
        from scipy.optimize import line_search  # takes 0.2 s to import

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it has not converged
            length, *_ = line_search(
                lambda point: self._at(point)[0],
                lambda point: self._at(point)[1],
                self.point,
                direction,
                gradient,
                loss,
                maxiter=LINE_PASSES,
            )
        if length is None:
            return None
        point = self.point + length * direction
        return point, self._at(point)

    def _at(self, point: Floats) -> Evaluation:
        """Evaluation of a point, once."""
        if self._evaluated is None or not np.array_equal(self._evaluated[0], point):
            self._evaluated = point.copy(), self.objective(self.coordinates, point)
            self.passes += 1
        return self._evaluated[1]


class Regression:
    """Logistic regression on the features of images; `solve` gives the head for one strength of the penalty.

    The objective is penalty · ‖W‖² / 2 + Σ weight · cross-entropy, biases left out of the penalty. With two classes it
    is that of one row of weights for the second class against the first, as in scikit-learn, and the two rows are the
    halves of that one.
    """

    def __init__(
        self,
        features_NC: Tensor,
        label_N: Tensor,
        classes: int,
        *,
        weight_N: Tensor | None = None,
        principal: Axes | None = None,
    ) -> None:
        """Take float32 features and int64 labels from 0 to `classes` - 1, each of which occurs, on one device.

        Args:
            weight_N: weight of each image; None: 1.
            principal: axes of these features, or of a superset; None: computed.
        """
        self.features_NC, self.label_N, self.classes = features_NC, label_N, classes
        weight_N = torch.ones(len(label_N), device=label_N.device) if weight_N is None else weight_N
        self.total = float(weight_N.sum(dtype=torch.float64))
        self.share_N = (weight_N / self.total).float()
        self.axes = principal or axes(features_NC)
        self.along_NR = self.axes.along(features_NC) if len(features_NC) <= ALONG_ROWS else None

    def solve(self, penalty: float, path: Sequence[Solution] = ()) -> Solution:
        """Solve for one strength of the penalty.

        Args:
            path: solutions for other strengths, the nearest last; the search starts from their extrapolation.
        """
        with self._threads():
            return self._solve(penalty, path)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """One thread for short passes; as many as PyTorch has for long ones."""
        threads, products = torch.get_num_threads(), len(self.features_NC) * len(self.axes.variance_R) * self.classes
        if threads == 1 or products > ONE_THREAD_PRODUCTS:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _solve(self, penalty: float, path: Sequence[Solution]) -> Solution:
        ridge = penalty * (2 if self.classes == 2 else 1) / self.total
        weight_KC, bias_K, uncertainty = self._start(penalty, path)
        steps, passes, least_gap = 0, 0, math.inf
        while True:
            coordinates = Coordinates.near(self.axes, ridge, uncertainty)
            search = Search(partial(self._objective, ridge), coordinates, weight_KC, bias_K)
            search.run(MOST_STEPS - steps, OUTDATED * uncertainty)
            weight_KC, bias_K = coordinates.head(search.point)
            outdated, uncertainty = search.uncertainty < OUTDATED * uncertainty, min(uncertainty, search.uncertainty)
            converged = search.gap <= GAP and not outdated
            steps, passes = steps + search.steps, passes + search.passes
            stuck = not outdated and search.gap > least_gap / 2
            if converged or stuck or steps >= MOST_STEPS:
                return self._solution(penalty, passes, weight_KC, bias_K, converged=converged)
            least_gap = min(least_gap, search.gap)

    def pass_over(self) -> None:
        """Evaluate the objective and its gradient once, which is what a step of the search costs."""
        coordinates = Coordinates.near(self.axes, ridge=1.0, uncertainty=1.0)
        self._objective(1.0, coordinates, coordinates.point(*self._zero()))

    def _zero(self) -> tuple[Tensor, Tensor]:
        weight_KC = torch.zeros(
            self.classes, self.features_NC.shape[1], dtype=torch.float64, device=self.features_NC.device
        )
        return weight_KC, weight_KC[:, 0].clone()

    def _start(self, penalty: float, path: Sequence[Solution]) -> tuple[Tensor, Tensor, float]:
        """Weights, biases and uncertainty where the search starts.

        The last two solutions, extrapolated linearly in the logarithm of the penalty; the uncertainty geometrically.
        """
        if not path:
            return *self._zero(), (self.classes - 1) / self.classes**2
        last, before = path[-1], path[-2 if len(path) > 1 else -1]
        if last.penalty == before.penalty:
            return last.weight_KC, last.bias_K, last.uncertainty
        ahead = math.log(penalty / last.penalty) / math.log(last.penalty / before.penalty)
        ratio = last.uncertainty / max(before.uncertainty, LEAST_CURVATURE)
        return (
            last.weight_KC + ahead * (last.weight_KC - before.weight_KC),
            last.bias_K + ahead * (last.bias_K - before.bias_K),
            last.uncertainty * ratio**ahead,
        )

    def _objective(self, ridge: float, coordinates: Coordinates, point: Floats) -> tuple[float, Floats, float]:
        """Objective, divided by the sum of the weights, its gradient, and the uncertainty of the head at a point."""
        if self.along_NR is None:
            features_NC, (weight_KC, bias_K) = self.features_NC, coordinates.head(point)
        else:  # the axes are orthogonal, so that the penalty is the same
            features_NC, (weight_KC, bias_K) = self.along_NR, coordinates.along(point)
        loss = 0.5 * ridge * weight_KC.square().sum()
        by_weight_KC, by_bias_K = ridge * weight_KC, torch.zeros_like(bias_K)
        uncertainty = torch.zeros_like(loss)
        for rows in chunks(len(self.label_N)):
            x, y, share = features_NC[rows], self.label_N[rows, None], self.share_N[rows, None]
            # Softmax in float64: in float32, rounding hides the last digits of a small loss from the line search.
            log_p = torch.addmm(bias_K.float(), x, weight_KC.float().T).double().log_softmax(dim=1)
            loss -= (share * log_p.gather(1, y)).sum()
            p = log_p.exp_()
            uncertainty += (p - p.square()).sum()
            error = p.scatter_add_(1, y, -torch.ones_like(p[:, :1])).mul_(share).float()
            by_weight_KC += (error.T @ x).double()
            by_bias_K += error.sum(dim=0, dtype=torch.float64)
        mean = uncertainty.item() / (len(self.label_N) * self.classes)
        gradient = coordinates.gradient if self.along_NR is None else coordinates.gradient_along
        return loss.item(), gradient(by_weight_KC, by_bias_K), mean

    def _solution(self, penalty: float, passes: int, weight_KC: Tensor, bias_K: Tensor, *, converged: bool) -> Solution:
        loss = hits = uncertainty = 0.0
        for rows in chunks(len(self.label_N)):
            logits = torch.addmm(bias_K.float(), self.features_NC[rows], weight_KC.float().T)
            log_p, y = logits.log_softmax(dim=1), self.label_N[rows]
            loss -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64).item()
            hits += (logits.argmax(dim=1) == y).sum().item()
            p = log_p.exp_()
            uncertainty += (p - p.square()).sum(dtype=torch.float64).item()
        images = len(self.label_N)
        mean = uncertainty / (images * self.classes)
        return Solution(penalty, passes, weight_KC, bias_K, loss / images, hits / images, mean, converged)


def expected_seconds(images: int, columns: int, classes: int, penalties: int, device: torch.device) -> float:
    """Estimate the time of solving for that many penalties, from axes and one pass over a part of so many images."""
    rows = min(images, TIMED_ROWS)
    features_NC = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(device)
    label_N = torch.arange(rows, device=device) % classes
    began = time.perf_counter()
    regression = Regression(features_NC, label_N, classes)
    regression.pass_over()  # the first one is slower
    ready = time.perf_counter()
    regression.pass_over()
    return ready - began + (time.perf_counter() - ready) * images / rows * USUAL_PASSES * penalties
