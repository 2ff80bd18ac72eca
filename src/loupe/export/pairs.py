"""Arithmetic with pairs of 32-bit floats, for engines that compute 64-bit floats in 32 bits.

A pair is the unevaluated sum of two floats, of which the second is at most half a unit in the last place of the first
(Dekker 1971; Hida, Li and Bailey 2001). It has about 46 bits; sums have them relative to what is added. Only additions
and products that are rounded to the nearest are needed. A fused multiply-add in place of a product and a sum gives the
same, as the products that are added are exact.
"""

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

SPLITTER = float(2**12 + 1)
Single = Tensor | float
"""Tensor of 32-bit floats, or a number that a 32-bit float holds."""


@dataclass(frozen=True)
class Pair:
    """Sum of a float and a smaller one."""

    high: Tensor
    low: Tensor

    def __neg__(self) -> "Pair":
        return Pair(-self.high, -self.low)

    def __abs__(self) -> "Pair":
        sign = self.high.sign()
        return Pair(self.high * sign, self.low * sign)

    def __add__(self, other: "Pair | Single") -> "Pair":
        if isinstance(other, Pair):
            high, error = _two_sum(self.high, other.high)
            return Pair(*_quick_two_sum(high, error + (self.low + other.low)))
        high, error = _two_sum(self.high, other)
        return Pair(*_quick_two_sum(high, error + self.low))

    def __sub__(self, other: "Pair | Single") -> "Pair":
        return self + -other

    def __mul__(self, other: "Pair | Single") -> "Pair":
        if isinstance(other, Pair):
            high, error = two_product(self.high, other.high)
            return Pair(*_quick_two_sum(high, error + (self.high * other.low + self.low * other.high)))
        high, error = two_product(self.high, other)
        return Pair(*_quick_two_sum(high, error + self.low * other))

    def __truediv__(self, other: "Pair | Single") -> "Pair":
        """Quotient by long division, exact where one float holds it."""
        high = other.high if isinstance(other, Pair) else other
        first = self.high / high
        product, error = two_product(first, high)
        rest = (self.high - product) - error + self.low
        if isinstance(other, Pair):
            rest = rest - first * other.low
        return Pair(*_quick_two_sum(first, rest / high))

    def scaled(self, factor: float) -> "Pair":
        """Product with a power of two, which is exact."""
        return Pair(self.high * factor, self.low * factor)

    def floor(self) -> Tensor:
        """Largest whole number that is not larger."""
        whole = self.high.floor()
        return torch.where(whole == self.high, whole + self.low.floor(), whole)


def constant(value: float) -> Pair:
    """Nearest pair to a number."""
    high = _nearest(value)
    return Pair(torch.full((), high), torch.full((), value - high))


def exact(x: Tensor) -> Pair:
    """A float as a pair."""
    return Pair(x, torch.zeros_like(x))


def product(a: Tensor, b: Single) -> Pair:
    """Product of two floats."""
    return Pair(*two_product(a, b))


def quotient(a: Tensor, b: Single) -> Pair:
    """Quotient of two floats."""
    return exact(a) / b


def where(is_first: Tensor, first: Pair, second: Pair) -> Pair:
    """Elements of one of two pairs."""
    return Pair(torch.where(is_first, first.high, second.high), torch.where(is_first, first.low, second.low))


def two_product(a: Tensor, b: Single) -> tuple[Tensor, Tensor]:
    """Rounded product, and its error (Veltkamp, Dekker)."""
    rounded = a * b
    a_high, a_low = _halves(a)
    if isinstance(b, float):
        b_high = _nearest(b * SPLITTER) - _nearest(_nearest(b * SPLITTER) - b)
        if b_high == b:
            return rounded, (a_high * b - rounded) + a_low * b
        return rounded, _error(a_high, a_low, b_high, b - b_high, rounded)
    return rounded, _error(a_high, a_low, *_halves(b), rounded)


def _error(a_high: Tensor, a_low: Tensor, b_high: Single, b_low: Single, rounded: Tensor) -> Tensor:
    return ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """Two floats of 12 bits, whose products are exact."""
    spread = a * SPLITTER
    high = spread - (spread - a)
    return high, a - high


def _nearest(value: float) -> float:
    """Value of the nearest 32-bit float."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _two_sum(a: Tensor, b: Single) -> tuple[Tensor, Tensor]:
    """Rounded sum, and its error (Knuth)."""
    total = a + b
    shifted = total - a
    return total, (a - (total - shifted)) + (b - shifted)


def _quick_two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same where `a` is the larger one (Dekker)."""
    total = a + b
    return total, b - (total - a)
