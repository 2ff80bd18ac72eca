"""Base class of all values in a recipe, and numbers with bounds."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Channels = Literal[1, 3]
RGB = tuple[float, float, float]
Levels = tuple[Annotated[int, Field(ge=0, lt=2**16)], Annotated[int, Field(ge=1, lt=2**16)]]
"""Stored pixel values that become black and white."""


class RecipeValue(BaseModel):
    """Immutable value of a recipe; unknown keys, infinity and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
