"""Whitening layer: a fixed first convolution with the principal components of patches of the training images."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loupe.data.pixels.store import PixelStore
from loupe.models.classifier import Classifier

EPSILON = 5e-4  # added to the variance of each component, as a share of the mean variance
SAMPLED_IMAGES = 5000  # their patches are many times as many
CHUNK_IMAGES = 250
SMALLEST_VARIANCE = 1e-4  # of all images of one colour

Floats = npt.NDArray[np.float64]


class Whitening(nn.Module):
    """Fixed convolution without padding, and a GELU: [B, C, H, W] to [B, 2 C k k, H - k + 1, W - k + 1].

    The second half of the filters are the negatives of the first, so that both signs of a component pass the GELU. The
    filters are no parameters: they are stored with the weights, and no stage trains them.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498.
    """

    weight: Tensor

    def __init__(self, channels: int, side_px: int) -> None:
        super().__init__()
        self.channels, self.side_px = channels, side_px
        self.filters = 2 * channels * side_px**2
        self.register_buffer("weight", torch.empty(self.filters, channels, side_px, side_px))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.gelu(F.conv2d(x_BCHW, self.weight))

    def reset(self) -> None:
        """Filters of a layer that has seen no images: each passes one value of the patch on, or its negative."""
        self.set_filters(np.eye(self.filters // 2))

    def set_filters(self, components_PP: Floats) -> None:
        """Set the filters: rows of a square matrix over the values of a patch, channel by channel."""
        rows = np.concatenate([components_PP, -components_PP])
        self.weight.copy_(torch.from_numpy(rows.astype(np.float32)).view(self.weight.shape))

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.filters}, side_px={self.side_px}"


class PatchStatistics:
    """Exact sums over patches of uint8 images, whatever their order: of values, and of products of two values."""

    def __init__(self, channels: int, side_px: int) -> None:
        values = channels * side_px**2
        self._side_px, self._patches = side_px, 0
        self._sum_P, self._products_PP = np.zeros(values), np.zeros((values, values))

    def add(self, x_BHWC: npt.NDArray[np.uint8]) -> None:
        """Add all patches of images. Sums of integers are exact in float64 up to 2**53, about 10**11 patches."""
        side = (self._side_px, self._side_px)
        patches_BHWCkk = np.lib.stride_tricks.sliding_window_view(x_BHWC, side, axis=(1, 2))
        patches_NP = patches_BHWCkk.reshape(-1, len(self._sum_P)).astype(np.float64)
        self._patches += len(patches_NP)
        self._sum_P += patches_NP.sum(axis=0)
        self._products_PP += patches_NP.T @ patches_NP

    def components(self, std_C: Floats) -> Floats:
        """Principal components of the normalised patches as rows, each divided by its deviation.

        Args:
            std_C: deviations by which pixels from 0 to 1 are divided.
        """
        mean_P = self._sum_P / self._patches
        scale_P = np.repeat(255.0 * std_C, self._side_px**2)
        covariance_PP = (self._products_PP / self._patches - np.outer(mean_P, mean_P)) / np.outer(scale_P, scale_P)
        variance_P, vectors_PP = np.linalg.eigh(covariance_PP)
        added = EPSILON * max(float(variance_P.mean()), SMALLEST_VARIANCE)
        largest_P = np.take_along_axis(vectors_PP, np.abs(vectors_PP).argmax(axis=0)[None], axis=0)[0]
        # The sign of an eigenvector is arbitrary: its largest entry is made positive.
        components_PP: Floats = (vectors_PP * np.sign(largest_P) / np.sqrt(np.maximum(variance_P, 0) + added)).T
        return components_PP[::-1]


def whiten(model: Classifier, store: PixelStore, train_N: npt.NDArray[np.int64]) -> None:
    """Set the filters of a network's whitening layer, if it has one, by evenly spread training images."""
    preprocessing, images = model.preprocessing, min(len(train_N), SAMPLED_IMAGES)
    rows, columns = preprocessing.size.centred_in(preprocessing.load_size)
    chosen_N = np.sort(train_N)[np.linspace(0, len(train_N) - 1, images, dtype=np.int64)]
    for layer in model.trunk:
        if isinstance(layer, Whitening):
            statistics = PatchStatistics(layer.channels, layer.side_px)
            for first in range(0, images, CHUNK_IMAGES):
                statistics.add(store.read(chosen_N[first : first + CHUNK_IMAGES])[:, rows, columns])
            layer.set_filters(statistics.components(np.array(preprocessing.std[: layer.channels])))
