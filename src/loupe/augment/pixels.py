"""Pixel operations other than the warp: crops, normalisation, brightness, cutout, mixup, cutmix.

An augmentation receives its random numbers, uniform in [0, 1), as arguments [B]; it draws none itself. To add one,
write it here, add its draws and its step to `pipeline.py`, and its setting to `AugmentSpec`.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from loupe.augment.geometry import box_map
from loupe.config.base import RGB
from loupe.config.size import Size

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_RATIO = (3 / 4, 4 / 3)


def centre_crop(x_BCHW: Tensor, size: Size) -> Tensor:
    """Centre of the images, as a view. An odd margin loses its extra pixel at the bottom and at the right."""
    rows, columns = size.centred_in(Size(*x_BCHW.shape[2:]))
    return x_BCHW[:, :, rows, columns]


def normalise(x_BCHW: Tensor, mean: RGB, std: RGB) -> Tensor:
    """Normalised images, (x / 255 - mean) / std, as a new float32 channels-last tensor; `x` has levels 0 to 255.

    Images of one channel take the first mean and deviation.
    """
    channels, size = x_BCHW.shape[1], Size(*x_BCHW.shape[2:])
    scale_1CHW, offset_1CHW = _scale_and_offset(mean[:channels], std[:channels], size, x_BCHW.device)
    normal_BCHW = torch.empty(x_BCHW.shape, device=x_BCHW.device, memory_format=torch.channels_last)
    # Multiply, then add, each rounded: a fused operation may round differently in a vector loop and in its remainder.
    return normal_BCHW.copy_(x_BCHW).mul_(scale_1CHW).add_(offset_1CHW)


def padded_crop_map(padding_px: int, *, row_B: Floats, column_B: Floats) -> Floats:
    """Maps of a random crop of the original size from the padded image, [B, 2, 3]: shifts by whole pixels."""
    shift_B2 = np.floor(np.stack([row_B, column_B], axis=1) * (2 * padding_px + 1)) - padding_px
    return box_map(np.ones_like(shift_B2), shift_B2)


def resized_crop_map(
    load_size: Size,
    size: Size,
    area: tuple[float, float],
    *,
    area_B: Floats,
    ratio_B: Floats,
    row_B: Floats,
    column_B: Floats,
) -> Floats:
    """Maps of a random crop of a fraction of the image's area, resized to `size`, [B, 2, 3].

    As in Szegedy et al., "Going deeper with convolutions" (2015), section 6, and torchvision's RandomResizedCrop: the
    area is uniform, and width / height is log-uniform in [3/4, 4/3], for a rectangle in these multiples of its own
    width / height, so that crops are stretched as those of a square. For crops that do not fit, torchvision draws
    again and takes a central crop after ten attempts. Here the range is limited to the ratios that fit, so the area
    is always the one drawn. Crops are not rounded to whole pixels.
    """
    share, wide = area[0] + (area[1] - area[0]) * area_B, _relative_width(load_size, size)
    low, high = (np.log(np.clip(ratio, share * wide, wide / share)) for ratio in _RATIO)
    ratio = np.exp(low + (high - low) * ratio_B)
    side_B2 = np.array(load_size) * np.sqrt(np.stack([share * wide / ratio, share * ratio / wide], axis=1))
    corner_B2 = np.stack([row_B, column_B], axis=1) * (np.array(load_size) - side_B2)
    step_B2 = side_B2 / np.array(size)
    return box_map(step_B2, corner_B2 + step_B2 / 2 - 0.5)


def _relative_width(load_size: Size, size: Size) -> float:
    """Width / height of the whole image in multiples of that of the result; 1 if both have the same proportions."""
    return (load_size.width_px * size.height_px) / (load_size.height_px * size.width_px)


def resized_crop_samples(load_size: Size, size: Size, area: tuple[float, float]) -> int:
    """Number of samples along a pixel's side that puts them at most 1.5 source pixels apart in the largest crop.

    Linear interpolation alone skips almost nothing up to a reduction by 1.5. Beyond, the mean of n x n samples is
    close to the area average. The number is the same for all crops, so that no shape depends on a draw.
    """
    wide = _relative_width(load_size, size)
    longest_2 = (
        side * min(1.0, max(area[1], math.sqrt(area[1] * stretch * _RATIO[1])))
        for side, stretch in zip(load_size, (wide, 1 / wide), strict=True)
    )
    return max(1, *(math.ceil(longest / side / 1.5) for longest, side in zip(longest_2, size, strict=True)))


def brighten(x_BCHW: Tensor, factor_B: Floats) -> Tensor:
    """Grey levels multiplied by one factor for each image, clipped at 255.

    Keras uses Pillow, which also truncates to integers; this function does not.
    """
    factors = torch.from_numpy(factor_B.astype(np.float32)).to(x_BCHW.device)
    return torch.mul(x_BCHW, factors[:, None, None, None]).clamp_(max=255.0)


def cut_out(x_BCHW: Tensor, side_px: int, *, row_B: Floats, column_B: Floats) -> Tensor:
    """Cutout (DeVries and Taylor 2017), in place: a square around a uniformly drawn pixel, clipped at the edges, is 0.

    On normalised pixels 0 is the mean, the fill of the paper. `x` is channels-last.
    """
    edges_B4 = _box_edges(Size(*x_BCHW.shape[2:]), np.full((len(row_B), 2), side_px), row_B, column_B)
    rows = _rows(x_BCHW)
    rows.addcmul_(rows, _boxes(edges_B4, x_BCHW), value=-1)
    return x_BCHW


def reduce(x_BCHW: Tensor, size: Size) -> Tensor:
    """Images reduced to a smaller size, channels-last: each value is the mean of a rectangle of whole pixels."""
    return F.interpolate(x_BCHW, size, mode="area").contiguous(memory_format=torch.channels_last)


def beta_quantile(u_B: Floats, alpha: float) -> Floats:
    """Draws of Beta(alpha, alpha) from uniform draws, by the inverse distribution function."""
    quantile: Floats = u_B if alpha == 1 else betaincinv(alpha, alpha, u_B)
    return quantile


def cutmix_boxes(size: Size, weight_B: Floats, *, row_B: Floats, column_B: Floats) -> tuple[Ints, Floats]:
    """CutMix boxes [B, 4] (top, bottom, left, right) and the fraction of each image outside its box [B].

    As in Yun et al. 2019, appendix A: sides of sqrt(1 - weight) times the image's, a uniform centre, clipped at the
    edges.
    """
    box_px_B2 = np.floor(np.array(size) * np.sqrt(1 - weight_B)[:, None]).astype(np.int64)
    box_B4 = _box_edges(size, box_px_B2, row_B, column_B)
    covered = (box_B4[:, 1] - box_B4[:, 0]) * (box_B4[:, 3] - box_B4[:, 2])
    return box_B4, 1 - covered / size.area_px


def blend(x_BCHW: Tensor, partner_x_BCHW: Tensor, weight_B: Floats) -> Tensor:
    """Mixup (Zhang et al. 2018): weight * image + (1 - weight) * partner. A weight of 1 keeps the image's bits."""
    weights = torch.from_numpy(weight_B.astype(np.float32)).to(x_BCHW.device)
    return torch.lerp(partner_x_BCHW, x_BCHW, weights[:, None, None, None])


def paste(x_BCHW: Tensor, partner_x_BCHW: Tensor, box_B4: Ints) -> Tensor:
    """Images with a box replaced by their partners' pixels, both channels-last; an empty box changes nothing."""
    pasted = torch.lerp(_rows(x_BCHW), _rows(partner_x_BCHW), _boxes(box_B4, x_BCHW))
    return pasted.view(x_BCHW.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def _box_edges(size: Size, box_px_B2: Ints, row_B: Floats, column_B: Floats) -> Ints:
    """Top, bottom, left and right of boxes around a random pixel, clipped at the edges, [B, 4]; ends are exclusive."""
    sides_2 = np.array(size)
    start_B2 = np.floor(np.stack([row_B, column_B], axis=1) * sides_2).astype(np.int64) - box_px_B2 // 2
    edges_B22 = np.stack([start_B2, start_B2 + box_px_B2], axis=2).clip(0, sides_2[:, None])
    return edges_B22.reshape(-1, 4)


def _boxes(box_B4: Ints, x_BCHW: Tensor) -> Tensor:
    """Mask of the boxes, 1 inside and 0 outside, for every value of channels-last images, float32 [B, H, W * C].

    Floats in long rows: PyTorch's CPU kernels are several times slower on bools, and on an innermost dimension of 3.
    """
    channels, height_px, width_px = x_BCHW.shape[1:]
    edges = torch.from_numpy(box_B4).to(x_BCHW.device)[:, :, None]
    row = torch.arange(height_px, device=x_BCHW.device)
    column = torch.arange(width_px, device=x_BCHW.device).repeat_interleave(channels)
    rows_BH = (row >= edges[:, 0]) & (row < edges[:, 1])
    columns_BV = (column >= edges[:, 2]) & (column < edges[:, 3])
    return rows_BH[:, :, None].float() * columns_BV[:, None, :].float()


def _rows(x_BCHW: Tensor) -> Tensor:
    """Channels-last images as a view [B, H, W * C].

    Raises:
        RuntimeError: the images are not channels-last.
    """
    batch, channels, height_px, width_px = x_BCHW.shape
    return x_BCHW.permute(0, 2, 3, 1).view(batch, height_px, width_px * channels)


@lru_cache(maxsize=16)
def _scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], size: Size, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and -mean / std for every value of one image; broadcasting 3 channels is five times slower."""
    per_channel = np.array([[1 / (255 * s), -m / s] for m, s in zip(mean, std, strict=True)])
    values = torch.from_numpy(per_channel.astype(np.float32)).to(device)
    full = values.T[:, None, :, None, None].expand(2, 1, len(mean), *size)
    scale, offset = (value.contiguous(memory_format=torch.channels_last) for value in full)
    return scale, offset
