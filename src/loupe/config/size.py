"""Sizes of images in pixels: one number for a square, [height, width] for another rectangle."""

from typing import Annotated, Any, NamedTuple, Self, SupportsIndex

from pydantic import BeforeValidator


def _checked(value: Any) -> int | tuple[int, int]:
    """Validate a size; a pair of equal sides becomes one number, so that a size has one form."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    whole = all(isinstance(side, SupportsIndex) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or min(sides) < 1:
        raise ValueError(
            "must be a whole number of pixels, at least 1, or two such numbers, [height, width], for example 224 or "
            "[224, 320]"
        )
    return Size(*(int(side) for side in sides)).given


SizePx = Annotated[int | tuple[int, int], BeforeValidator(_checked)]
"""A size as it is given and written: the side of a square, or (height, width)."""


class Size(NamedTuple):
    """Height and width in pixels."""

    height_px: int
    width_px: int

    @classmethod
    def of(cls, size_px: SizePx) -> Self:
        """Size from its written form."""
        return cls(*size_px) if isinstance(size_px, tuple) else cls(size_px, size_px)

    @property
    def given(self) -> int | tuple[int, int]:
        """Written form: one number for a square."""
        return self.height_px if self.height_px == self.width_px else (self.height_px, self.width_px)

    @property
    def area_px(self) -> int:
        return self.height_px * self.width_px

    def fits_in(self, other: "Size") -> bool:
        """True if neither side exceeds that of the other size."""
        return self.height_px <= other.height_px and self.width_px <= other.width_px

    def scaled(self, fraction: float) -> "Size":
        """Size of that fraction of the sides, in whole pixels, at least 1."""
        return Size(*(max(1, round(fraction * side)) for side in self))

    def centred_in(self, outer: "Size") -> tuple[slice, slice]:
        """Rows and columns of its centre crop from `outer`; an odd margin loses its extra pixel below and right."""
        rows, columns = (
            slice((around - side) // 2, (around - side) // 2 + side) for side, around in zip(self, outer, strict=True)
        )
        return rows, columns

    def __str__(self) -> str:
        """`224` for a square, else `224 x 320`, height first."""
        return str(self.height_px) if self.height_px == self.width_px else f"{self.height_px} x {self.width_px}"


def size_in(text: str) -> int | tuple[int, int]:
    """Size from the text of an option: `224`, `224x320` or `224,320`.

    Raises:
        ValueError: it is neither.
    """
    sides = text.lower().strip("[]() ").replace("x", ",").split(",")
    if not all(side.strip().isdecimal() for side in sides) or len(sides) > 2 or min(map(int, sides)) < 1:
        raise ValueError("give the side of a square in pixels, at least 1, or HEIGHTxWIDTH, for example 224x320")
    return Size(int(sides[0]), int(sides[-1])).given


def check_load_size(size_px: SizePx, load_px: SizePx) -> None:
    """Raise a ValueError if the input of the network does not fit into the size to which images are resized."""
    size, load = Size.of(size_px), Size.of(load_px)
    if not size.fits_in(load):
        sides = "" if isinstance(size.given, int) and isinstance(load.given, int) else ", in height and in width"
        raise ValueError(f"load_px ({load}) must be at least size_px ({size}){sides}")
