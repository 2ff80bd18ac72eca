"""Resizing with coefficients from pairs of 32-bit floats, for engines that compute 64-bit floats in 32 bits.

The result is that of `loupe.export.resize`, in more operations: the coefficients are the same whole numbers, as a pair
has about 20 bits more than they have. Sides may have up to 2**23 pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loupe.config.recipe import Interpolation, Resize
from loupe.config.size import Size
from loupe.export.pairs import Pair, constant, exact, product, quotient, where
from loupe.export.resize import BLOCK, FILTERS, FRACTION_BITS, Taps, in_digits, in_two_passes, window_of

TERMS = 14
"""Terms of the series of sin(pi x) / (pi x) for x up to 1."""
PAIRED_TERMS = 8
"""Those of them that are large enough to need pairs."""


@dataclass(frozen=True)
class _Sides:
    """Placement of height and width: begin of the box, inputs for each output, first output, outputs; float32 [2]."""

    begin_S: Tensor
    scale_S: Pair
    first_S: Tensor
    count_S: Tensor


def resize_in_fp32(x_NHWC: Tensor, size: Size, mode: Resize, interpolation: Interpolation) -> Tensor:
    """Resize images of one size, as `loupe.export.resize.resize`."""
    lengths = (x_NHWC.shape[1], x_NHWC.shape[2])
    outputs = (size.height_px, size.width_px)
    # Either side has the larger scale where they share one, and rounding makes it up to one and a half times as large.
    padded = (3 * (lengths[0] * outputs[1] + lengths[1] * outputs[0]), 2 * outputs[0] * outputs[1])
    windows = [
        window_of(*(padded if mode == "pad" else one), interpolation) for one in zip(lengths, outputs, strict=True)
    ]
    length_S = torch.stack([torch.scalar_tensor(length, dtype=torch.float32) for length in lengths])
    sides = SIDES[mode](length_S, outputs)
    start_SQ, digits_SQDW = _coefficients(length_S, sides, max(outputs), windows[0] + windows[1], interpolation)
    taps = []
    for side in (0, 1):
        blocks = -(-outputs[side] // BLOCK)
        taps.append(Taps(start_SQ[side, :blocks], digits_SQDW[side, :blocks, :, : windows[side]]))
    return in_two_passes(x_NHWC, size, *taps)


def _vector(values: tuple[int, int]) -> Tensor:
    return torch.stack([torch.full((), float(value)) for value in values])


def _cropped(length_S: Tensor, outputs: tuple[int, int]) -> _Sides:
    other_S, output_S = length_S.flip(0), _vector(outputs)
    if outputs[0] == outputs[1]:
        boxed_S = torch.minimum(length_S, other_S)
        begin_S = torch.floor((length_S - boxed_S) * 0.5)
        return _Sides(begin_S, quotient(boxed_S, output_S), torch.zeros(2), output_S)
    fitting = product(other_S, output_S) / output_S.flip(0)
    whole_S = (fitting + 0.5).floor()
    is_whole_S = (fitting - whole_S).high.abs() < 2.0**-18  # a fraction has the other side as its denominator
    fitting = where(is_whole_S, exact(whole_S), fitting)
    boxed = where((fitting - length_S).high < 0.0, fitting, exact(length_S))
    begin_S = (-boxed + length_S).scaled(0.5).floor()
    end_S = (boxed + begin_S).high  # Pillow takes the box in 32-bit floats
    return _Sides(begin_S, quotient(end_S - begin_S, output_S), torch.zeros(2), output_S)


def _squashed(length_S: Tensor, outputs: tuple[int, int]) -> _Sides:
    output_S = _vector(outputs)
    return _Sides(torch.zeros(2), quotient(length_S, output_S), torch.zeros(2), output_S)


def _padded(length_S: Tensor, outputs: tuple[int, int]) -> _Sides:
    output_S = _vector(outputs)
    fitting = product(length_S, output_S.flip(0)) / length_S.flip(0)
    whole_S = (fitting + 0.5).floor()
    is_half_S = (fitting - whole_S + 0.5).high.abs() < 2.0**-26
    is_odd_S = whole_S - 2.0 * torch.floor(whole_S * 0.5) > 0.0
    rounded_S = torch.where(is_half_S & is_odd_S, whole_S - 1.0, whole_S)
    count_S = torch.minimum(rounded_S.clamp(min=1.0), output_S)
    first_S = torch.floor((output_S - count_S) * 0.5)
    return _Sides(torch.zeros(2), quotient(length_S, count_S), first_S, count_S)


SIDES = {"crop": _cropped, "squash": _squashed, "pad": _padded}


def _coefficients(
    length_S: Tensor, sides: _Sides, outputs: int, window_px: int, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """First inputs int64 [2, Q] and digits float32 [2, Q, 3 * BLOCK, W] of both passes, computed at once."""
    half = float(FILTERS[interpolation][0])
    blocks = -(-outputs // BLOCK)
    scale = Pair(sides.scale_S.high[:, None, None], sides.scale_S.low[:, None, None])
    output_SQB = torch.arange(blocks * BLOCK, dtype=torch.float32).view(blocks, BLOCK) - sides.first_S[:, None, None]
    center = scale * (output_SQB + 0.5) + (sides.begin_S[:, None, None] + 0.5)  # and a half, as all that follows needs
    stretch = where(scale.high > 1.0, scale, exact(torch.ones(())))
    support = stretch * half
    low_SQB = (center - support).floor().clamp(min=0.0)
    high_SQB = torch.minimum((center + support).floor(), length_S[:, None, None])
    start_SQ = low_SQB[:, :, 0]
    input_SQ1W = (start_SQ[:, :, None] + torch.arange(window_px, dtype=torch.float32))[:, :, None, :]
    distance = Pair(center.high[..., None], center.low[..., None]) - (input_SQ1W + 1.0)  # its sign does not matter
    inverse = exact(torch.ones(())) / stretch
    weight = WEIGHTS[interpolation](distance * Pair(inverse.high[..., None], inverse.low[..., None]))
    is_output_SQB = (output_SQB >= 0.0) & (output_SQB < sides.count_S[:, None, None])
    is_inside = (input_SQ1W >= low_SQB[..., None]) & (input_SQ1W < high_SQB[..., None]) & is_output_SQB[..., None]
    weight = where(is_inside, weight, exact(torch.zeros(())))
    total = _sum(weight)
    divisor = where(total.high == 0.0, exact(torch.ones(())), total)
    share = weight * (exact(torch.ones(())) / divisor)
    rounded_SQBW = (abs(share).scaled(float(2**FRACTION_BITS)) + 0.5).floor() * share.high.sign()
    return start_SQ.long(), in_digits(rounded_SQBW)


def _sum(x: Pair) -> Pair:
    """Sum over the last axis, which is kept: in whole numbers of 12 bits, whose sums are exact, and what remains."""
    first = torch.floor(x.high * 2.0**12)
    rest = x.high - first * 2.0**-12
    second = torch.floor(rest * 2.0**24)
    third = (rest - second * 2.0**-24) + x.low
    first, second, third = (part.sum(-1, keepdim=True) for part in (first, second, third))
    return Pair(first * 2.0**-12, third) + second * 2.0**-24


def _triangle(x: Pair) -> Pair:
    weight = -abs(x) + 1.0
    return where(weight.high > 0.0, weight, exact(torch.zeros(())))


def _cubic(x: Pair) -> Pair:
    """Keys's filter with a = -0.5: half of 3 x^3 - 5 x^2 + 2, and of -x^3 + 5 x^2 - 8 x + 4 from 1 to 2."""
    x = abs(x)
    is_near = x.high < 1.0
    third, second, first, zeroth = (
        torch.where(is_near, torch.full((), near), torch.full((), far))
        for near, far in ((3.0, -1.0), (-5.0, 5.0), (0.0, -8.0), (2.0, 4.0))
    )
    weight = (((x * third + second) * x + first) * x + zeroth).scaled(0.5)
    return where(x.high < 2.0, weight, exact(torch.zeros(())))


def _lanczos(x: Pair) -> Pair:
    """sinc(x) sinc(x / 3), from s = sinc(x / 3): the sine of three times an angle is 3 sin - 4 sin^3."""
    third = x / 3.0
    square = third * third
    term = [(-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k + 1) for k in range(TERMS)]
    tail = square.high * term[-1]
    for k in range(TERMS - 2, PAIRED_TERMS - 1, -1):
        tail = (tail + term[k]) * square.high
    sinc = exact(tail) + constant(term[PAIRED_TERMS - 1])
    for k in range(PAIRED_TERMS - 2, -1, -1):
        sinc = sinc * square + constant(term[k])
    squared = sinc * sinc
    weight = squared * (square * squared * constant(-4 * math.pi**2 / 3) + 1.0)
    return where(x.high.abs() < 3.0, weight, exact(torch.zeros(())))


WEIGHTS = {"bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos}
