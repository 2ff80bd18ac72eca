"""Principal axes of features, and coordinates of a linear head on them in which the loss is about equally curved."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

AXES_ROWS = 20_000  # images that the axes are estimated from
CHUNK_ROWS = 65_536
LEAST_CURVATURE = 1e-6


@dataclass(frozen=True)
class Axes:
    """Principal axes of features, as rows [R, C], the variances along them [R], and the mean of the features [C].

    R is at most the number of features and of images. With fewer images than features, every solution lies in the span
    of the axes.
    """

    axis_RC: Tensor
    variance_R: Tensor
    mean_C: Tensor

    def along(self, features_NC: Tensor) -> Tensor:
        """Centred features along the axes, float32 [N, R]."""
        return (features_NC - self.mean_C.float()) @ self.axis_RC.T.float()


def axes(features_NC: Tensor) -> Axes:
    """Principal axes of float32 features [N, C]; of many images, those of an evenly spread part that spans them."""
    images, columns = features_NC.shape
    step = -(-images // max(AXES_ROWS, 2 * columns))
    # In chunks: on a CPU PyTorch would first copy all of them to float64.
    mean_C = torch.zeros(columns, dtype=torch.float64, device=features_NC.device)
    for rows in chunks(images):
        mean_C += features_NC[rows].sum(dim=0, dtype=torch.float64) / images
    centred_MC = features_NC[::step] - mean_C.float()
    if len(centred_MC) < columns:
        _, root_R, axis_RC = torch.linalg.svd(centred_MC, full_matrices=False)
        variance_R = root_R.double().square() / len(centred_MC)
    else:
        covariance_CC = centred_MC.T @ centred_MC / len(centred_MC)
        # PyTorch finds no eigenvalues where most features are constant. The weights of constant features stay 0.
        varying_C = covariance_CC.diagonal() > 0
        variance_R, axis_VR = torch.linalg.eigh(covariance_CC[varying_C][:, varying_C])
        axis_RC = torch.zeros(len(variance_R), columns, device=centred_MC.device)
        axis_RC[:, varying_C] = axis_VR.T
    return Axes(axis_RC.double(), variance_R.double().clamp(min=0), mean_C)


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of a linear head, in which the curvature of the loss is about 1 in every direction.

    Weights are taken along the principal axes and divided by `scale_R`, biases, those of centred features, by `scale`.
    """

    axes: Axes
    scale_R: Tensor
    scale: float

    @classmethod
    def near(cls, axes: Axes, ridge: float, uncertainty: float) -> Self:
        """Coordinates near a head of that uncertainty (see `logistic.Solution`), with an L2 penalty `ridge`."""
        curvature = max(uncertainty, LEAST_CURVATURE)
        return cls(axes, (curvature * axes.variance_R + ridge).rsqrt(), curvature**-0.5)

    def point(self, weight_KC: Tensor, bias_K: Tensor) -> Floats:
        """Coordinates of a head."""
        weight_KR = (weight_KC @ self.axes.axis_RC.T) / self.scale_R
        return _numbers(weight_KR, (bias_K + weight_KC @ self.axes.mean_C) / self.scale)

    def head(self, point: Floats) -> tuple[Tensor, Tensor]:
        """Weights [K, C] and biases [K] of a point."""
        weight_KR, centred_K = self.along(point)
        weight_KC = weight_KR @ self.axes.axis_RC
        return weight_KC, centred_K - weight_KC @ self.axes.mean_C

    def along(self, point: Floats) -> tuple[Tensor, Tensor]:
        """Weights [K, R] along the axes and biases [K] of a point, those of features from `Axes.along`."""
        values, columns = torch.from_numpy(point).to(self.scale_R.device), len(self.scale_R)
        classes = len(values) // (columns + 1)
        return values[:-classes].view(classes, columns) * self.scale_R, values[-classes:] * self.scale

    def gradient(self, by_weight_KC: Tensor, by_bias_K: Tensor) -> Floats:
        """Gradient in these coordinates, from the gradient by weights and by biases."""
        centred_KC = by_weight_KC - by_bias_K[:, None] * self.axes.mean_C  # `head` has the weights change the biases
        return self.gradient_along(centred_KC @ self.axes.axis_RC.T, by_bias_K)

    def gradient_along(self, by_weight_KR: Tensor, by_bias_K: Tensor) -> Floats:
        """Gradient in these coordinates, from that by the weights and biases of `along`."""
        return _numbers(by_weight_KR * self.scale_R, by_bias_K * self.scale)


def _numbers(weight_KR: Tensor, bias_K: Tensor) -> Floats:
    values: Floats = torch.cat([weight_KR.flatten(), bias_K]).cpu().numpy()
    return values


def chunks(rows: int) -> list[slice]:
    """Slices of at most CHUNK_ROWS rows each."""
    return [slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS)]
