"""Resizing of the pixel definition, as PyTorch operations that can be exported: bit for bit Pillow's, for any size.

Pillow (`src/libImaging/Resample.c`) resizes in two passes. In each, an output value is the sum of the input values
under a filter, with coefficients of 22 fractional bits, computed in double precision and rounded; the sum is rounded
to 8 bits. Here the outputs of a pass are cut into blocks, each of which needs a window of consecutive inputs: a pass
gathers the windows and multiplies each by the matrix of its coefficients. Sums are exact in 32-bit floats, as the
coefficients are split into digits small enough. The height and width of the images may be symbolic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loupe.config.recipe import Interpolation, Resize
from loupe.config.size import Size

FRACTION_BITS = 22
DIGIT_BITS = 7
BLOCK = 8
MOST_TAPS = 1024
"""Inputs under one filter up to which sums of digits are exact in 32-bit floats: 255 * 2**6 * 1024 < 2**24."""


def _triangle(x: Tensor) -> Tensor:
    return (1.0 - x.abs()).clamp(min=0.0)


def _cubic(x: Tensor) -> Tensor:
    """Keys's filter with a = -0.5, in the operations of Pillow."""
    x, a = x.abs(), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def _sinc(x: Tensor) -> Tensor:
    turns = x * torch.pi
    return torch.where(x == 0.0, torch.ones_like(x), turns.sin() / torch.where(x == 0.0, torch.ones_like(x), turns))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3.0), torch.zeros_like(x))


FILTERS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, _triangle),
    "bicubic": (2, _cubic),
    "lanczos": (3, _lanczos),
}
"""Half of the width of each filter, and the filter."""


Resizing = Callable[[Tensor, Size, Resize, Interpolation], Tensor]
"""Function that resizes uint8 [N, H, W, C] to whole float32 of a size, with a way to fit and a filter."""


@dataclass(frozen=True)
class Side:
    """Placement of one side of an image on that of the output.

    Attributes:
        begin: float64 scalar, begin of the box on the input.
        scale: float64 scalar, inputs for each output.
        first: float64 scalar, output at which the box begins.
        count: float64 scalar, outputs that the box covers.
        window_px: upper bound of the inputs that a block of outputs needs.
    """

    begin: Tensor
    scale: Tensor
    first: Tensor
    count: Tensor
    window_px: int


@dataclass(frozen=True)
class Taps:
    """Coefficients of one pass.

    Attributes:
        start_Q: int64, first input of each block of outputs.
        digits_QDW: float32 [Q, 3 * BLOCK, W], digits of the coefficients of a block.
    """

    start_Q: Tensor
    digits_QDW: Tensor


def resize(x_NHWC: Tensor, size: Size, mode: Resize, interpolation: Interpolation) -> Tensor:
    """Resize images of one size.

    Args:
        x_NHWC: uint8 [N, H, W, C].
        size: size of the outputs.
        mode, interpolation: as for `loupe.data.pixels.decode.resized`.

    Returns:
        float32 [N, H, W, C] of whole numbers from 0 to 255.
    """
    _, height, width, _ = x_NHWC.shape
    down, across = _sides(height, width, size, mode, interpolation)
    return in_two_passes(
        x_NHWC,
        size,
        _taps(height, down, size.height_px, interpolation),
        _taps(width, across, size.width_px, interpolation),
    )


def in_two_passes(x_NHWC: Tensor, size: Size, down: Taps, across: Taps) -> Tensor:
    """Images with both passes applied: uint8 [N, H, W, C] to whole float32 of the size."""
    n, height, width, channels = x_NHWC.shape
    # As a matrix, transposed: the axis of 3 channels alone would make the transposition several times as slow.
    columns_WM = x_NHWC.reshape(n, height, width * channels).permute(2, 0, 1).reshape(width, channels * n * height)
    wide_WM = _pass(columns_WM, across, size.width_px)
    rows_HM = wide_WM.view(size.width_px * channels * n, height).permute(1, 0)
    sized_HM = _pass(rows_HM, down, size.height_px)
    return sized_HM.view(size.height_px, size.width_px, channels, n).permute(3, 0, 1, 2)


def _sides(height: int, width: int, size: Size, mode: Resize, interpolation: Interpolation) -> tuple[Side, Side]:
    height_px, width_px = (torch.scalar_tensor(side, dtype=torch.float64) for side in (height, width))
    if mode == "crop":
        box_height = torch.minimum(height_px, width_px * size.height_px / size.width_px)
        box_width = torch.minimum(width_px, height_px * size.width_px / size.height_px)
        return (
            _cropped(height, height_px, box_height, size.height_px, interpolation),
            _cropped(width, width_px, box_width, size.width_px, interpolation),
        )
    if mode == "squash":
        return (
            _squashed(height, height_px, size.height_px, interpolation),
            _squashed(width, width_px, size.width_px, interpolation),
        )
    # Quotients of tensors: that of a number and a tensor is a product with the reciprocal, which is rounded twice.
    limits = (torch.full((), side, dtype=torch.float64) for side in (size.width_px, size.height_px))
    factor = torch.minimum(*(limit / side for limit, side in zip(limits, (width_px, height_px), strict=True)))
    # Either side has the larger scale, and rounding the count to 1 makes it up to one and a half times as large.
    largest = (3 * (height * size.width_px + width * size.height_px), 2 * size.height_px * size.width_px)
    return (
        _padded(height_px, factor, size.height_px, window_of(*largest, interpolation)),
        _padded(width_px, factor, size.width_px, window_of(*largest, interpolation)),
    )


def _cropped(length: int, length_px: Tensor, boxed_px: Tensor, outputs: int, interpolation: Interpolation) -> Side:
    begin = torch.floor((length_px - boxed_px) / 2)
    # Pillow takes the box in 32-bit floats.
    begin, end = begin.float(), (begin + boxed_px).float()
    scale = (end - begin).double() / outputs
    return Side(begin.double(), scale, *_all(outputs), window_of(length, outputs, interpolation))


def _squashed(length: int, length_px: Tensor, outputs: int, interpolation: Interpolation) -> Side:
    begin = torch.zeros((), dtype=torch.float64)
    return Side(begin, length_px / outputs, *_all(outputs), window_of(length, outputs, interpolation))


def _all(outputs: int) -> tuple[Tensor, Tensor]:
    return torch.zeros((), dtype=torch.float64), torch.full((), outputs, dtype=torch.float64)


def _padded(length_px: Tensor, factor: Tensor, outputs: int, window_px: int) -> Side:
    count = torch.round(length_px * factor).clamp(min=1.0)
    first = torch.floor((outputs - count) / 2)
    return Side(torch.zeros((), dtype=torch.float64), length_px / count, first, count, window_px)


def window_of(inputs: int, outputs: int, interpolation: Interpolation) -> int:
    """Inputs under the filters of a block, at a scale of at most `inputs / outputs`."""
    half = FILTERS[interpolation][0]
    # The filter is as wide as the larger of one input and the scale: at most their sum.
    return (BLOCK * inputs) // outputs + (2 * half * (inputs + outputs)) // outputs + 4


def _pass(x_LM: Tensor, taps: Taps, outputs: int) -> Tensor:
    """Resize the first axis: uint8 or whole float32 [L, M] to float32 [outputs, M]."""
    (length, lines), (blocks, _, window_px) = x_LM.shape, taps.digits_QDW.shape
    index_QW = (taps.start_Q[:, None] + torch.arange(window_px)).clamp(0, length - 1)
    windows_QWM = x_LM.index_select(0, index_QW.flatten()).view(blocks, window_px, lines).float()
    sums_QDBM = (taps.digits_QDW @ windows_QWM).view(blocks, 3, BLOCK, lines)
    low, middle, high = sums_QDBM[:, 0], sums_QDBM[:, 1], sums_QDBM[:, 2]
    # floor((high * 2**14 + middle * 2**7 + low + 2**21) / 2**22), digit by digit, so that every step is exact.
    base, half = 2**DIGIT_BITS, 2 ** (FRACTION_BITS - 1 - 2 * DIGIT_BITS)
    carried = torch.floor((middle + torch.floor(low / base)) / base)
    rounded = torch.floor((high + half + carried) / 2 ** (FRACTION_BITS - 2 * DIGIT_BITS)).clamp(0.0, 255.0)
    return rounded.reshape(blocks * BLOCK, lines)[:outputs]


def _taps(length: int, side: Side, outputs: int, interpolation: Interpolation) -> Taps:
    """Coefficients, as `precompute_coeffs` and `normalize_coeffs_8bpc` in Resample.c, in double precision."""
    half, filter_of = FILTERS[interpolation]
    blocks = -(-outputs // BLOCK)
    output_QB = torch.arange(blocks * BLOCK, dtype=torch.float64).view(blocks, BLOCK) - side.first
    center_QB = side.begin + (output_QB + 0.5) * side.scale
    stretch = side.scale.clamp(min=1.0)
    support = half * stretch
    low_QB = torch.floor(center_QB - support + 0.5).clamp(min=0.0)
    high_QB = torch.floor(center_QB + support + 0.5).clamp(max=torch.scalar_tensor(length, dtype=torch.float64))
    start_Q = low_QB[:, 0]
    input_QBW = (start_Q[:, None] + torch.arange(side.window_px, dtype=torch.float64))[:, None, :]
    weight_QBW = filter_of((input_QBW - center_QB[..., None] + 0.5) * (1.0 / stretch))
    inside_QBW = (input_QBW >= low_QB[..., None]) & (input_QBW < high_QB[..., None])
    inside_QBW = inside_QBW & ((output_QB >= 0.0) & (output_QB < side.count))[..., None]
    weight_QBW = torch.where(inside_QBW, weight_QBW, torch.zeros_like(weight_QBW))
    total_QB1 = weight_QBW.sum(2, keepdim=True)
    share_QBW = weight_QBW / torch.where(total_QB1 == 0.0, torch.ones_like(total_QB1), total_QB1)
    scaled_QBW = share_QBW * float(2**FRACTION_BITS)
    whole_QBW = torch.where(scaled_QBW < 0.0, torch.ceil(scaled_QBW - 0.5), torch.floor(scaled_QBW + 0.5))
    return Taps(start_Q.long(), in_digits(whole_QBW))


def in_digits(whole_QBW: Tensor) -> Tensor:
    """Digits of whole coefficients of any float type [..., B, W], as float32 [..., 3 * B, W]."""
    digits_QBW = []
    for _ in range(2):
        rest_QBW = torch.floor((whole_QBW + 2 ** (DIGIT_BITS - 1)) / 2**DIGIT_BITS)
        digits_QBW.append(whole_QBW - rest_QBW * 2**DIGIT_BITS)
        whole_QBW = rest_QBW
    return torch.cat([*digits_QBW, whole_QBW], dim=-2).float()
