"""A recipe for images at hand: what a recipe leaves to the images or to the backbone is settled in it."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from loupe.config.base import RGB, Count, Levels
from loupe.config.optimizer import STRONGEST, WEAKEST, Logistic, Optimizer
from loupe.config.recipe import (
    AUTOMATIC_VIEWS,
    AugmentSpec,
    InputSpec,
    Interpolation,
    Normalise,
    PixelDefinition,
    Precision,
    Preprocessing,
    Recipe,
    Resize,
    Stage,
)
from loupe.config.size import SizePx, check_load_size
from loupe.errors import ConfigError


class ResolvedInput(InputSpec):
    """Preparation of pixels for the images at hand.

    `mean` and `std` are null as long as the statistics of the training pixels, which `normalise` asks for, have not
    been computed, and in a recipe without them.
    """

    size_px: SizePx
    load_px: SizePx
    resize: Resize
    interpolation: Interpolation
    normalise: Normalise
    pixel_definition: PixelDefinition

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_load_size(self.size_px, self.load_px)
        if self.normalise == "given" and (self.mean is None or self.std is None):
            raise ValueError("normalise given needs mean and std too, three numbers each")
        if self.channels == 1 and len({*(self.mean or ())}) + len({*(self.std or ())}) > 2:
            raise ValueError("with channels 1, the three values of mean must be equal, and those of std")
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """The same as it travels with the weights; pixels stay on [0, 1] until the statistics are known."""
        geometry = Preprocessing(
            size_px=self.size_px,
            load_px=self.load_px,
            resize=self.resize,
            interpolation=self.interpolation,
            range=None if isinstance(self.range, str) else self.range,
            channels=self.channels,
            pixel_definition=self.pixel_definition,
        )
        if self.normalise == "unit" or self.mean is None or self.std is None:
            return geometry
        return geometry.model_copy(update={"mean": self.mean, "std": self.std})

    @property
    def wants_statistics(self) -> bool:
        """True if mean and standard deviation of the training pixels are still to be computed."""
        return self.normalise in {"dataset", "channels"} and (self.mean is None or self.std is None)


class ResolvedStage(Stage):
    """A stage whose numbers of views and epochs are settled; `auto` remains for L2 strengths that go on."""

    views: Literal["fresh"] | Count

    @classmethod
    def of(cls, stage: Stage) -> Self:
        """The stage, with `auto` as what it means there."""
        epochs = stage.epochs if stage.is_solved else stage.planned_epochs
        return cls(**{**dict(stage), "epochs": epochs, "optimizer": _optimizer(stage), "views": _views(stage)})


def _views(stage: Stage) -> int | Literal["fresh"]:
    if stage.views != "auto":
        return stage.views
    if stage.augment == AugmentSpec():
        return 1
    return "fresh" if stage.part == "all" else min(AUTOMATIC_VIEWS, stage.planned_epochs)


def _optimizer(stage: Stage) -> Optimizer:
    """The optimizer, with the ends of a named number of L2 strengths."""
    if not isinstance(stage.optimizer, Logistic) or stage.is_open:
        return stage.optimizer
    ends = {"strongest": stage.optimizer.strongest or STRONGEST, "weakest": stage.optimizer.weakest or WEAKEST}
    return stage.optimizer.model_copy(update=ends)


class ResolvedRecipe(Recipe):
    """A recipe for images at hand, which `loupe.recipes.resolve` makes.

    What only training pixels and the machine decide is `measured` before a run begins: the range of pixel values that
    is `used`, the statistics of the pixels, horizontal flips, a window of shuffling and a precision that are `auto`.
    The run records the recipe with these, once.
    """

    input: ResolvedInput
    stages: tuple[ResolvedStage, ...]

    @classmethod
    def of(cls, recipe: Recipe, settled: Mapping[str, Any] | None = None) -> Self:
        """The recipe with `settled` values of its input; without them, one whose input is settled, as that of a run.

        Raises:
            ConfigError: values of the input are missing, or do not go together.
        """
        try:
            pixels = ResolvedInput(**{**dict(recipe.input), **(_unrecorded(recipe) if settled is None else settled)})
        except ValidationError as error:
            problems = "; ".join(_problem(item["loc"], item["msg"]) for item in error.errors())
            raise ConfigError(f"recipe {recipe.name}: {problems}.") from None
        stages = tuple(ResolvedStage.of(stage) for stage in recipe.stages)
        return cls(**{**dict(recipe), "input": pixels, "stages": stages, "keep": recipe.keeps})

    @property
    def preprocessing(self) -> Preprocessing:
        return self.input.preprocessing

    def normalised(self, mean: RGB, std: RGB) -> Self:
        """The recipe with the statistics of the training pixels."""
        return self.model_copy(update={"input": self.input.model_copy(update={"mean": mean, "std": std})})

    @property
    def leaves_flips_open(self) -> bool:
        """True if the training images decide about horizontal flips."""
        return any(stage.augment.is_open for stage in self.stages)

    def mirrored(self, taken: bool) -> Self:
        """The recipe with the horizontal flips that it leaves open, or without them."""
        stages = (stage.model_copy(update={"augment": stage.augment.mirrored(taken)}) for stage in self.stages)
        return self.model_copy(update={"stages": tuple(stages)})

    def scaled(self, levels: Levels) -> Self:
        """The recipe with the range of pixel values that the training images use."""
        return self.model_copy(update={"input": self.input.model_copy(update={"range": levels})})

    def shuffled_in(self, window: Literal["all"] | int) -> Self:
        """The recipe with the window in which images are shuffled, where it leaves it open."""
        return self if self.shuffle_window != "auto" else self.model_copy(update={"shuffle_window": window})

    def computed_in(self, precision: Precision, frozen_precision: Precision) -> Self:
        """The recipe with the precisions that were measured, where it leaves them open."""
        changes: dict[str, Precision] = {}
        if self.precision == "auto":
            changes["precision"] = precision
        if self.frozen_precision == "auto":
            changes["frozen_precision"] = frozen_precision
        return self.model_copy(update=changes)


def _unrecorded(recipe: Recipe) -> dict[str, Any]:
    """Values of the input that the recipe of a run of an older version does not have."""
    return {} if recipe.input.pixel_definition else {"pixel_definition": 1}


def _problem(location: tuple[int | str, ...], message: str) -> str:
    """One of pydantic's errors about an input, with the name of the key."""
    return f"{'.'.join(['input', *map(str, location)])}: {message.removeprefix('Value error, ')}"
