"""Differences between two runs: the content of against.json, typed."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from loupe.records import OsText, Part, Quantity, Record, Whole


class ValueDifference(Part):
    """Values of one key in two runs; `first` or `second` is left out where only the other run has the key."""

    key: str
    first: JsonValue = None
    second: JsonValue = None

    def has(self, side: Literal["first", "second"]) -> bool:
        """True if that run has the key."""
        return side in self.model_fields_set


class CurveDifference(ValueDifference):
    """Column of metrics.csv: the first row with unequal values, these values, and the number of such rows.

    A row is an epoch, or an L2 strength of a solved head: `l2_strength` then has its value.
    """

    epoch: Whole
    l2_strength: Quantity | None = None
    epochs: Whole


class SplitDifference(Part):
    """Number of images that the two runs put into different splits or classes."""

    key: str
    images: Whole


class PredictionDifference(Part):
    """Predictions of one split.

    Attributes:
        images: number of images that both runs have.
        of_another_class: how many of these are predicted as another class.
        largest_difference: largest absolute difference of a logit.
        images_of_one_run_alone: number of images that only one run has.
    """

    key: str
    images: Whole
    of_another_class: Whole
    largest_difference: Annotated[float, Field(ge=0)]
    images_of_one_run_alone: Whole


class TensorDifference(Part):
    """Tensor of the model: its number of values, the number of unequal ones, and the largest absolute difference.

    `largest_difference` is None where it is not finite.
    """

    key: str
    values: Whole
    unequal: Whole
    largest_difference: Annotated[float, Field(ge=0)] | None


LEFT_TO_RIGHT = Field(union_mode="left_to_right")
AnyCurve = Annotated[CurveDifference | ValueDifference, LEFT_TO_RIGHT]
AnySplit = Annotated[SplitDifference | ValueDifference, LEFT_TO_RIGHT]
AnyPrediction = Annotated[PredictionDifference | ValueDifference, LEFT_TO_RIGHT]
AnyTensor = Annotated[TensorDifference | ValueDifference, LEFT_TO_RIGHT]


class Differences(Part):
    """Differences, by the file that holds them."""

    results: tuple[ValueDifference, ...]
    curves: tuple[AnyCurve, ...]
    split: tuple[AnySplit, ...]
    predictions: tuple[AnyPrediction, ...]
    weights: tuple[AnyTensor, ...]


class RunDifferences(Record):
    """Comparison of a run with the run that it repeats.

    Attributes:
        first, second: directories of the runs.
        device: device of the second.
        same: True if no figure differs.
        compared: number of compared figures, epochs, images, predictions and weights.
        circumstances: recorded software, machine, recipe and hashes that differ. They can be why a figure differs.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or run loupe train --against again."

    first: OsText
    second: OsText
    device: str
    same: bool
    compared: dict[str, Whole]
    differences: Differences
    circumstances: tuple[ValueDifference, ...]
