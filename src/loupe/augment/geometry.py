"""Batched affine warps: one map for each image, sampled once on the device of the images.

A *map* takes a pixel position in the result to the position in the source from which its value is read:
`source = A @ result + t`, in pixels, (row, column), with pixel centres at integers. Maps are float64 arrays [B, 2, 3].
NumPy computes them on the CPU, so they are the same on every device. Several maps are composed before pixels are read,
and then cost a single sampling.

Angles, shifts and zooms have the meaning of Keras's `ImageDataGenerator`
(keras_preprocessing.image.apply_affine_transform), which passes the same matrix to `scipy.ndimage.affine_transform`
with order 1. The four fill modes are those of SciPy, including its edge cases.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from loupe.config.size import Size

Floats = npt.NDArray[np.float64]
Fill = Literal["nearest", "constant", "reflect", "wrap"]


def keras_map(
    size: Size,
    *,
    rotation_degrees_B: Floats,
    row_shift_px_B: Floats,
    column_shift_px_B: Floats,
    shear_degrees_B: Floats,
    row_zoom_B: Floats,
    column_zoom_B: Floats,
) -> Floats:
    """Maps of Keras's rotation @ shift @ shear @ zoom about the centre of an image, [B, 2, 3].

    With rotation a and shear s the product is [[zr cos a, -zc sin(a+s)], [zr sin a, zc cos(a+s)]], and the shift is
    rotated by a. Keras's `tx` is the row shift, drawn from `height_shift_range`.
    """
    angle, sheared = np.deg2rad(rotation_degrees_B), np.deg2rad(rotation_degrees_B + shear_degrees_B)
    cos, sin = np.cos(angle), np.sin(angle)
    map_B23 = np.empty((len(angle), 2, 3))
    map_B23[:, 0, 0] = cos * row_zoom_B
    map_B23[:, 0, 1] = -np.sin(sheared) * column_zoom_B
    map_B23[:, 1, 0] = sin * row_zoom_B
    map_B23[:, 1, 1] = np.cos(sheared) * column_zoom_B
    centre_2 = (np.array(size) - 1) / 2
    map_B23[:, 0, 2] = cos * row_shift_px_B - sin * column_shift_px_B
    map_B23[:, 1, 2] = sin * row_shift_px_B + cos * column_shift_px_B
    # centre - A @ centre, in the terms that give a square the same bits whatever the other side.
    crossed_B2 = np.stack([map_B23[:, 0, 1], map_B23[:, 1, 0]], axis=1)
    map_B23[:, :, 2] += centre_2 - map_B23[:, :, :2].sum(-1) * centre_2 - crossed_B2 * (centre_2[::-1] - centre_2)
    return map_B23


def flip_map(size: Size, *, vertical_B: npt.NDArray[np.bool_], horizontal_B: npt.NDArray[np.bool_]) -> Floats:
    """Maps that flip the marked images vertically, horizontally or both, [B, 2, 3]."""
    flipped_B2 = np.stack([vertical_B, horizontal_B], axis=1)
    return box_map(np.where(flipped_B2, -1.0, 1.0), np.where(flipped_B2, np.array(size) - 1.0, 0.0))


def box_map(step_B2: Floats, start_B2: Floats) -> Floats:
    """Maps that read an axis-aligned box, [B, 2, 3]: pixel 0 at `start`, the following ones `step` apart."""
    map_B23 = np.zeros((len(step_B2), 2, 3))
    map_B23[:, 0, 0], map_B23[:, 1, 1] = step_B2.T
    map_B23[:, :, 2] = start_B2
    return map_B23


def compose(inner_B23: Floats, outer_B23: Floats) -> Floats:
    """One map [B, 2, 3] for a warp by `inner` followed by a warp by `outer`, without an intermediate crop."""
    composed_B23 = inner_B23[:, :, :2] @ outer_B23
    composed_B23[:, :, 2] += inner_B23[:, :, 2]
    return composed_B23


def warp(
    x_BCHW: Tensor,
    map_B23: Floats,
    *,
    size_px: tuple[int, int] | None = None,
    fill: Fill = "nearest",
    fill_value: float = 0.0,
    whole_pixels: bool = False,
    samples: int = 1,
) -> Tensor:
    """Images sampled through their maps, with linear interpolation.

    Args:
        x_BCHW: images.
        map_B23: one map for each image.
        size_px: (height, width) of the result; by default that of the source.
        fill: values outside the image, as in SciPy. `nearest` repeats the edge pixel. `reflect` mirrors at the outer
            side of the edge pixel. `constant` gives `fill_value` beyond the outermost pixel centres. `wrap` repeats
            with a period of one pixel less than the side.
        fill_value: value for `constant`, in the units of the source.
        whole_pixels: read one source pixel instead of interpolating four. Valid only for maps to integer positions
            (flips, shifts, crops); gives the same grey levels without the rounding of the interpolation.
        samples: average n x n positions within each pixel of the result, against aliasing in maps that shrink.

    Returns:
        Float32 [B, C, *size_px] in the units of the source, not rounded.
    """
    height_px, width_px = x_BCHW.shape[2], x_BCHW.shape[3]
    sides_px = (width_px, height_px)
    inside_BHW = None
    if fill in ("nearest", "reflect"):
        maps = _normalised(map_B23, (height_px, width_px))
        position_B2HW = _positions(maps, size_px or (height_px, width_px), samples, x_BCHW.device)
    else:
        # Both modes are discontinuous at the edge, so positions are computed in pixels: integers are exact there.
        position_B2HW = _positions(map_B23, size_px or (height_px, width_px), samples, x_BCHW.device)
        planes = position_B2HW.unbind(1)
        if fill == "wrap":
            planes = tuple(_wrapped(plane, side) for plane, side in zip(planes, sides_px, strict=True))
        else:
            inside = [(plane >= 0) & (plane <= side - 1) for plane, side in zip(planes, sides_px, strict=True)]
            inside_BHW = inside[0] & inside[1]
        scaled = [plane * (2 / side) + (1 / side - 1) for plane, side in zip(planes, sides_px, strict=True)]
        position_B2HW = torch.stack(scaled, dim=1)
    padding = "reflection" if fill == "reflect" else "border"
    if padding == "border" and x_BCHW.device.type == "mps":
        position_B2HW, padding = clamp_to_edge(position_B2HW, sides_px), "zeros"
    sampled = F.grid_sample(
        x_BCHW.to(torch.float32),
        position_B2HW.permute(0, 2, 3, 1),
        mode="nearest" if whole_pixels else "bilinear",
        padding_mode=padding,
        align_corners=False,
    )
    if inside_BHW is not None:
        sampled = torch.where(inside_BHW[:, None], sampled, fill_value)
    return F.avg_pool2d(sampled, samples) if samples > 1 else sampled


def _normalised(map_B23: Floats, source_px: tuple[int, int]) -> Floats:
    """Maps in grid_sample's units: -1 and 1 are the outer sides of the outermost pixels."""
    sides = np.array(source_px, np.float64)[:, None]
    normalised = map_B23 * (2 / sides)
    normalised[:, :, 2:] += 1 / sides - 1
    return normalised


def _positions(map_B23: Floats, size_px: tuple[int, int], samples: int, device: torch.device) -> Tensor:
    """Source position of each sample, [B, 2, height, width], columns before rows as grid_sample expects.

    Products and sums are rounded one by one, so that the result does not depend on the batch size or the number of
    threads. One plane for each axis is faster than interleaved pairs, in the arithmetic and in the sampling.
    """
    maps = torch.from_numpy(map_B23[:, ::-1].astype(np.float32)).to(device)
    rows, columns = (_sample_centres(side, samples, device) for side in size_px)
    along_rows = maps[:, :, 0, None] * rows + maps[:, :, 2, None]
    along_columns = maps[:, :, 1, None] * columns
    return along_rows[:, :, :, None] + along_columns[:, :, None, :]


def clamp_to_edge(position_B2HW: Tensor, sides_px: tuple[int, int]) -> Tensor:
    """Positions clamped to the outermost pixel centres.

    Equivalent to the padding mode `border`, which PyTorch 2.9 does not support on Metal (pytorch/pytorch#125098). On
    other devices `grid_sample` clamps after its own rounding, which keeps the pixels' bits.
    """
    planes = zip(position_B2HW.unbind(1), sides_px, strict=True)
    return torch.stack([plane.clamp(1 / side - 1, 1 - 1 / side) for plane, side in planes], dim=1)


def _sample_centres(side_px: int, samples: int, device: torch.device) -> Tensor:
    centres = torch.arange(side_px * samples, dtype=torch.float32, device=device)
    return centres if samples == 1 else (centres + 0.5) / samples - 0.5


def _wrapped(position: Tensor, side_px: int) -> Tensor:
    """Positions folded into [0, side - 1] as by SciPy's `wrap`; a seam reached from below gives the last pixel."""
    period = side_px - 1
    if period == 0:
        return torch.zeros_like(position)
    below = position + period * ((-position / period).floor() + 1)
    above = position - period * (position / period).floor()
    return torch.where(position < 0, below, torch.where(position > period, above, position))
