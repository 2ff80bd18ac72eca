"""One affine warp for each image, all of them in one batched operation on the images' device.

A *map* leads from where a pixel of the result lies to where its value is read: `source = A @ result + t`, in pixels,
(row, column), pixel centres on whole numbers. Maps are float64 arrays [B, 2, 3] made with NumPy on the CPU, so that
they are the same whatever the device; composed before any pixel is touched, they cost one sampling however many.

Angles, shifts and zooms mean what they mean in Keras's `ImageDataGenerator`
(keras_preprocessing.image.apply_affine_transform), which gives the same matrix to `scipy.ndimage.affine_transform`
with order 1; the four ways to fill are SciPy's, its peculiarities included.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Floats = npt.NDArray[np.float64]
Fill = Literal["nearest", "constant", "reflect", "wrap"]


def keras_map(
    side_px: int,
    *,
    rotation_degrees_B: Floats,
    row_shift_px_B: Floats,
    column_shift_px_B: Floats,
    shear_degrees_B: Floats,
    row_zoom_B: Floats,
    column_zoom_B: Floats,
) -> Floats:
    """The map of Keras's rotation @ shift @ shear @ zoom about the centre of a square image, [B, 2, 3].

    With rotation a and shear s that product is [[zr cos a, -zc sin(a+s)], [zr sin a, zc cos(a+s)]], and the shift is
    turned by a. What Keras calls `tx` goes along rows, and is drawn from `height_shift_range`.
    """
    angle, sheared = np.deg2rad(rotation_degrees_B), np.deg2rad(rotation_degrees_B + shear_degrees_B)
    cos, sin = np.cos(angle), np.sin(angle)
    map_B23 = np.empty((len(angle), 2, 3))
    map_B23[:, 0, 0] = cos * row_zoom_B
    map_B23[:, 0, 1] = -np.sin(sheared) * column_zoom_B
    map_B23[:, 1, 0] = sin * row_zoom_B
    map_B23[:, 1, 1] = np.cos(sheared) * column_zoom_B
    centre = (side_px - 1) / 2
    map_B23[:, 0, 2] = cos * row_shift_px_B - sin * column_shift_px_B
    map_B23[:, 1, 2] = sin * row_shift_px_B + cos * column_shift_px_B
    map_B23[:, :, 2] += centre - map_B23[:, :, :2].sum(-1) * centre
    return map_B23


def flip_map(side_px: int, *, vertical_B: npt.NDArray[np.bool_], horizontal_B: npt.NDArray[np.bool_]) -> Floats:
    """The map that turns the marked images upside down, or left to right, [B, 2, 3]."""
    flipped_B2 = np.stack([vertical_B, horizontal_B], axis=1)
    return box_map(np.where(flipped_B2, -1.0, 1.0), np.where(flipped_B2, side_px - 1.0, 0.0))


def box_map(step_B2: Floats, start_B2: Floats) -> Floats:
    """The map of boxes whose sides follow the axes.

    Pixel 0 is read at `start`, the following ones `step` apart, [B, 2, 3].
    """
    map_B23 = np.zeros((len(step_B2), 2, 3))
    map_B23[:, 0, 0], map_B23[:, 1, 1] = step_B2.T
    map_B23[:, :, 2] = start_B2
    return map_B23


def compose(first: Floats, then: Floats) -> Floats:
    """One map for warping by `first` and the result by `then`, with nothing lost at the edges between, [B, 2, 3]."""
    composed = first[:, :, :2] @ then
    composed[:, :, 2] += first[:, :, 2]
    return composed


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
    """The images read through their maps: float32 [B, C, *size_px], in the source's units, not rounded.

    `size_px` is (height, width) of the result; without it, that of the source.

    Values between pixels are interpolated linearly. `whole_pixels` promises that the maps lead to whole pixels
    (flips, shifts, crops) and reads one pixel where four would be read: the same grey levels, without the
    interpolation's rounding. `samples` n averages n x n positions within each pixel of the result, which maps that
    shrink need so as not to alias.

    Outside the image `nearest` repeats the edge, `reflect` mirrors at the edge's outer side, `constant` is
    `fill_value` wherever the position is beyond the outermost pixel centres, and `wrap` repeats with a period of one
    pixel less than the side: as SciPy does.
    """
    height_px, width_px = x_BCHW.shape[2], x_BCHW.shape[3]
    sides_px = (width_px, height_px)
    inside_BHW = None
    if fill in ("nearest", "reflect"):
        maps = _normalised(map_B23, (height_px, width_px))
        position_B2HW = _positions(maps, size_px or (height_px, width_px), samples, x_BCHW.device)
    else:
        # Both jump at the edge, so positions are computed in pixels, in which whole numbers are exact.
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
        position_B2HW, padding = _to_the_edge(position_B2HW, sides_px), "zeros"
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
    """The map to grid_sample's units instead of pixels: -1 and 1 are the outer sides of the outermost pixels."""
    sides = np.array(source_px, np.float64)[:, None]
    normalised = map_B23 * (2 / sides)
    normalised[:, :, 2:] += 1 / sides - 1
    return normalised


def _positions(map_B23: Floats, size_px: tuple[int, int], samples: int, device: torch.device) -> Tensor:
    """Where each sample of the result is read, [B, 2, height, width], columns before rows as grid_sample wants them.

    Only products and sums, each rounded by itself: nothing here depends on the size of the batch or the number of
    threads. A plane for each axis makes both the arithmetic and the sampling faster than pairs would be.
    """
    maps = torch.from_numpy(map_B23[:, ::-1].astype(np.float32)).to(device)
    rows, columns = (_sample_centres(side, samples, device) for side in size_px)
    along_rows = maps[:, :, 0, None] * rows + maps[:, :, 2, None]
    along_columns = maps[:, :, 1, None] * columns
    return along_rows[:, :, :, None] + along_columns[:, :, None, :]


def _to_the_edge(position_B2HW: Tensor, sides_px: tuple[int, int]) -> Tensor:
    """Positions that lie beyond the outermost pixel centres moved onto them, so that nothing outside is read.

    That is what the padding `border` does, which PyTorch 2.9 refuses on Metal (pytorch/pytorch#125098). Elsewhere it is
    left to `grid_sample`, which clamps after its own rounding: the bits of the pixels stay as they were.
    """
    planes = zip(position_B2HW.unbind(1), sides_px, strict=True)
    return torch.stack([plane.clamp(1 / side - 1, 1 - 1 / side) for plane, side in planes], dim=1)


def _sample_centres(side_px: int, samples: int, device: torch.device) -> Tensor:
    centres = torch.arange(side_px * samples, dtype=torch.float32, device=device)
    return centres if samples == 1 else (centres + 0.5) / samples - 0.5


def _wrapped(position: Tensor, side_px: int) -> Tensor:
    """Positions folded into [0, side - 1] as SciPy's `wrap` folds them.

    At a seam that is reached from below, the last pixel wins.
    """
    period = side_px - 1
    if period == 0:
        return torch.zeros_like(position)
    below = position + period * ((-position / period).floor() + 1)
    above = position - period * (position / period).floor()
    return torch.where(position < 0, below, torch.where(position > period, above, position))
