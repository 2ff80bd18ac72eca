"""Multinomial logistic regression with an L2 penalty, solved to convergence in few passes over the features.

Features of a network vary far more in some directions than in others, and L-BFGS takes hundreds of passes over them. In
coordinates in which the curvature of the loss is about the same in every direction it takes tens: the principal axes of
the features, scaled by the penalty and by how undecided the head still is. Only the way there is another; the
objective, and with it the solution, is scikit-learn's.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

MOST_STEPS = 1000
TOLERANCE = 1e-4  # of the gradient's largest entry, in the coordinates of the search
MEMORY = 20  # pairs of steps and gradients from which L-BFGS learns the curvature that is left
AXES_ROWS = 20_000  # tell the principal axes well enough
CHUNK_ROWS = 65_536
LEAST_CURVATURE = 1e-6
USUAL_PASSES = 20  # over the features, for a strength: 5 to 65, and the weakest, which take most, are seldom reached
TIMED_ROWS = 8_192


@dataclass(frozen=True)
class Solution:
    """A head: `weight_KC` and `bias_K` in float64, and how it does on the images that it learned from.

    Attributes:
        loss, accuracy: the means over these images; `loss` is without the penalty.
        undecided: the mean of p (1 - p) over images and classes.
        converged: False where it was given up after MOST_STEPS steps.
    """

    weight_KC: Tensor
    bias_K: Tensor
    loss: float
    accuracy: float
    undecided: float
    converged: bool


@dataclass(frozen=True)
class Axes:
    """The principal axes of features, as rows [R, C], their variances [R], and the mean that they go out from [C].

    There are no more of them than features or images: where images are fewer, no solution leaves the span of these.
    """

    axis_RC: Tensor
    variance_R: Tensor
    mean_C: Tensor


def axes(features_NC: Tensor) -> Axes:
    """Those of the features, float32 [N, C]; of many images, those of a part, evenly spread, where it spans them."""
    images, columns = features_NC.shape
    most = max(AXES_ROWS, 2 * columns)
    step = -(-images // most)
    # In parts: on a CPU PyTorch would first make float64 of all of them.
    mean_C = torch.zeros(columns, dtype=torch.float64, device=features_NC.device)
    for rows in _chunks(images):
        mean_C += features_NC[rows].sum(dim=0, dtype=torch.float64) / images
    centred_MC = features_NC[::step] - mean_C.float()
    if len(centred_MC) < columns:
        _, root_R, axis_RC = torch.linalg.svd(centred_MC, full_matrices=False)
        variance_R = root_R.double().square() / len(centred_MC)
    else:
        covariance_CC = centred_MC.T @ centred_MC / len(centred_MC)
        # Where most features are the same for every image, PyTorch finds no eigenvalues. No weight falls to these.
        varying_C = covariance_CC.diagonal() > 0
        variance_R, axis_VR = torch.linalg.eigh(covariance_CC[varying_C][:, varying_C])
        axis_RC = torch.zeros(len(variance_R), columns, device=centred_MC.device)
        axis_RC[:, varying_C] = axis_VR.T
    return Axes(axis_RC.double(), variance_R.double().clamp(min=0), mean_C)


class Regression:
    """Images to learn from; `solve` gives the head for one strength of the penalty.

    The objective is penalty · ‖W‖² / 2 + Σ weight · cross-entropy, biases left out of the penalty. With two classes it
    is that of one row of weights for the second class against the first, as scikit-learn has it, and the rows are the
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
        """Takes float32 features and int64 labels from 0 to `classes` - 1, each of which occurs, on one device.

        Args:
            weight_N: of each image; None: 1. principal: the axes of these features, or of more that hold these.
        """
        self.features_NC, self.label_N, self.classes = features_NC, label_N, classes
        weight_N = torch.ones(len(label_N), device=label_N.device) if weight_N is None else weight_N
        self.total = float(weight_N.sum(dtype=torch.float64))
        self.share_N = (weight_N / self.total).float()
        self.axes = principal or axes(features_NC)

    def solve(self, penalty: float, start: Solution | None = None) -> Solution:
        """The head at that penalty; the search begins at `start`, which is best that of a penalty near by."""
        ridge = penalty * (2 if self.classes == 2 else 1) / self.total
        undecided = start.undecided if start else (self.classes - 1) / self.classes**2
        curvature = max(undecided, LEAST_CURVATURE)
        scale_R = (curvature * self.axes.variance_R + ridge).rsqrt()
        scale = curvature**-0.5
        found = minimize(
            lambda point: self._objective(point, ridge, scale_R, scale),
            self._point(start, scale_R, scale),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MOST_STEPS, "gtol": TOLERANCE, "ftol": 0.0, "maxcor": MEMORY},
        )
        weight_KC, bias_K = self._head(found.x, scale_R, scale)
        return self._solution(weight_KC, bias_K, converged=found.nit < MOST_STEPS)

    def pass_over(self) -> None:
        """What a step of the search costs: the objective and its gradient once."""
        scale_R = torch.ones_like(self.axes.variance_R)
        self._objective(self._point(None, scale_R, 1.0), 0.0, scale_R, 1.0)

    def _point(self, start: Solution | None, scale_R: Tensor, scale: float) -> npt.NDArray[np.float64]:
        """Where the search begins, in its coordinates."""
        if start is None:
            return np.zeros(self.classes * (len(scale_R) + 1))
        weight_KR = (start.weight_KC @ self.axes.axis_RC.T) / scale_R
        bias_K = (start.bias_K + start.weight_KC @ self.axes.mean_C) / scale
        return torch.cat([weight_KR.flatten(), bias_K]).cpu().numpy()

    def _head(self, point: npt.NDArray[np.float64], scale_R: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Weights and biases at a point of the search."""
        where = torch.from_numpy(point).to(scale_R.device)
        weight_KC = (where[: -self.classes].view(self.classes, -1) * scale_R) @ self.axes.axis_RC
        return weight_KC, where[-self.classes :] * scale - weight_KC @ self.axes.mean_C

    def _objective(
        self, point: npt.NDArray[np.float64], ridge: float, scale_R: Tensor, scale: float
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The objective, divided by the sum of the weights, and its gradient there."""
        weight_KC, bias_K = self._head(point, scale_R, scale)
        loss = 0.5 * ridge * weight_KC.square().sum()
        towards_KC, towards_K = ridge * weight_KC, torch.zeros_like(bias_K)
        for rows in _chunks(len(self.label_N)):
            x, y, share = self.features_NC[rows], self.label_N[rows, None], self.share_N[rows, None]
            log_p = torch.addmm(bias_K.float(), x, weight_KC.float().T).log_softmax(dim=1)
            loss -= (share * log_p.gather(1, y)).sum(dtype=torch.float64)
            error = log_p.exp_().scatter_add_(1, y, -torch.ones_like(share)).mul_(share)
            towards_KC += (error.T @ x).double()
            towards_K += error.sum(dim=0, dtype=torch.float64)
        towards_KC -= towards_K[:, None] * self.axes.mean_C  # the weights move the biases, see `_head`
        gradient_KR = (towards_KC @ self.axes.axis_RC.T) * scale_R
        return loss.item(), torch.cat([gradient_KR.flatten(), towards_K * scale]).cpu().numpy()

    def _solution(self, weight_KC: Tensor, bias_K: Tensor, *, converged: bool) -> Solution:
        loss = hits = undecided = 0.0
        for rows in _chunks(len(self.label_N)):
            logits = torch.addmm(bias_K.float(), self.features_NC[rows], weight_KC.float().T)
            log_p, y = logits.log_softmax(dim=1), self.label_N[rows]
            loss -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64).item()
            hits += (logits.argmax(dim=1) == y).sum().item()
            p = log_p.exp_()
            undecided += (p - p.square()).sum(dtype=torch.float64).item()
        images = len(self.label_N)
        mean = undecided / (images * self.classes)
        return Solution(weight_KC, bias_K, loss / images, hits / images, mean, converged)


def expected_seconds(images: int, columns: int, classes: int, penalties: int, device: torch.device) -> float:
    """What solving for that many penalties is likely to take, from axes and one pass for a part of so many images."""
    rows = min(images, TIMED_ROWS)
    features_NC = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(device)
    label_N = torch.arange(rows, device=device) % classes
    began = time.perf_counter()
    one = Regression(features_NC, label_N, classes)
    one.pass_over()  # the first is slower
    ready = time.perf_counter()
    one.pass_over()
    return ready - began + (time.perf_counter() - ready) * images / rows * USUAL_PASSES * penalties


def _chunks(images: int) -> list[slice]:
    return [slice(start, start + CHUNK_ROWS) for start in range(0, images, CHUNK_ROWS)]
