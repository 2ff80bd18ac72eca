"""What one run is, as frozen, typed values that read from and write to YAML.

A recipe is data: images to pixels, augmentation, network, and a tuple of stages. Everything that changes the result of
a run stands here; what only changes how fast it is reached (device, threads, cache) does not.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from loupe.config.base import Count, Fraction, Frozen, NonNegative, Positive
from loupe.config.network import Network
from loupe.config.optimizer import Adam, Constant, Logistic, Optimizer, Schedule

RGB = tuple[float, float, float]
Resize = Literal["crop", "pad", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
AUTOMATIC_VIEWS = 4  # augmented views of each image, where something is frozen
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Preprocessing(Frozen):
    """From a decoded RGB image to the network's input. It is stored with the weights and travels with them.

    An image is resized to `load_px` on a side; evaluation takes its centre `size_px` square. Pixels are scaled to [0,
    1], then `mean` (per channel) is subtracted and the result divided by `std`.
    """

    size_px: Count
    load_px: Count
    resize: Resize = "crop"
    interpolation: Interpolation = "bilinear"
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.load_px < self.size_px:
            raise ValueError(f"load_px ({self.load_px}) must be at least size_px ({self.size_px})")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0 in every channel")
        return self


class InputSpec(Frozen):
    """How pixels are prepared, before the images are known.

    A backbone brings its own preprocessing: what is null here is the backbone's. Without one, `size_px` null is the
    typical size of the images, at most 64 px; `load_px` null is `size_px`, or 1.15 times as much where
    random-resized-crop needs room; `resize` is crop, `interpolation` bilinear, `normalise` channels.

    `normalise`: `unit` scales to [0, 1]; `dataset` subtracts the mean of the training pixels and divides by their
    deviation, one number each over all pixels and channels; `channels` does so for each channel; `given` takes `mean`
    and `std`, on the scale of [0, 1], as they stand here or come with the backbone. A run records what was settled,
    and a resumed or repeated one takes it from there.
    """

    size_px: Count | None = None
    load_px: Count | None = None
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    normalise: Literal["unit", "dataset", "channels", "given"] | None = None
    mean: RGB | None = None
    std: RGB | None = None


class SplitSpec(Frozen):
    """Sizes of the splits that the data does not give: a fraction below 1, or a number of images.

    `choose` says which training images become validation: `stratified` draws them by class and seed, `first` and `last`
    take them in the order of the data, as Keras's `validation_split` and many notebooks do. `seed` null is the
    recipe's: with one of its own, trainings with other seeds have the same splits.
    """

    validation: NonNegative = 0.1
    test: NonNegative = 0.1
    choose: Literal["stratified", "first", "last"] = "stratified"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class AugmentSpec(Frozen):
    """Random changes to each training image, drawn anew in every epoch.

    Rotation, shifts, shear, zoom and flips have the meaning of Keras's `ImageDataGenerator`: `rotation_degrees` r draws
    from [-r, r], shifts draw from that fraction of the side in both directions, `shear_degrees` s from [-s, s], `zoom`
    is the range from which the two axes' factors are drawn (above 1 shows more, smaller). `fill` says what lies beyond
    the edge, in SciPy's terms. `crop_padding_px` pads by that much (by `fill`) and takes a random crop of the old size.
    `random_resized_crop` is the range of area that a random crop covers before it is resized. `cutout_px` blanks one
    square. `brightness` is a range of factors. `mixup_alpha` and `cutmix_alpha` are the parameters of their Beta
    distributions; with both, each image gets one of the two.
    """

    rotation_degrees: NonNegative = 0.0
    width_shift: Fraction = 0.0
    height_shift: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0
    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    horizontal_flip: bool = False
    vertical_flip: bool = False
    fill: Literal["nearest", "constant", "reflect", "wrap"] = "nearest"
    fill_value: Annotated[float, Field(ge=0, le=255)] = 0.0
    crop_padding_px: Annotated[int, Field(ge=0)] = 0
    random_resized_crop: tuple[Positive, Positive] | None = None
    cutout_px: Annotated[int, Field(ge=0)] = 0
    brightness: tuple[NonNegative, NonNegative] = (1.0, 1.0)
    mixup_alpha: NonNegative = 0.0
    cutmix_alpha: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("zoom", "brightness", "random_resized_crop"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name} is a range, low before high; got {list(pair)}")
        if self.random_resized_crop and self.random_resized_crop[1] > 1:
            raise ValueError("random_resized_crop is a range of area fractions, at most 1")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with partners, so that targets are no longer one class."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


class Stage(Frozen):
    """A stretch of training with one optimizer and one schedule.

    `part` is what learns: the `head`, the `last-block` of the trunk with it, its `last-N` blocks, or `all`. What lies
    before keeps its weights, and its batch normalisation its statistics. With `batch_statistics` off so does all of the
    trunk's, which then normalises as it will in use (its scales and offsets learn): from pretrained weights a stage
    begins with what the network gave before, whatever the batch. `layer_decay` below 1 gives the head the whole
    rate, and each block of the trunk that share of the rate of the block after it (Bao et al. 2022). `l2` adds that
    many times the sum of squares of the kernels (`l2_on` convolutions: of theirs alone) to the loss, as Keras's
    `regularizers.l2` does; `weight_decay` is decoupled from the gradient (AdamW). Neither touches biases and norms
    unless `decay_all`. `ema_decay` above 0 evaluates and keeps an exponential average of the weights.
    `patience_epochs` stops the stage when the monitored value has not improved for so long.

    With something frozen, what lies before the part that learns is computed once for each image and view, and kept.
    `views`: how many augmented views each image has, which take turns from epoch to epoch; `auto` is 4, or one for
    each epoch where these are fewer; `fresh` draws and computes a new one in every epoch, and keeps none.
    """

    epochs: Count
    part: Annotated[str, Field(pattern=r"^(head|last-block|last-[1-9][0-9]*|all)$")] = "all"
    batch_size: Count = 128
    optimizer: Optimizer = Adam()
    lr: Positive = 1e-3
    batch_statistics: bool = True
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    schedule: Schedule = Constant()
    l2: NonNegative = 0.0
    l2_on: Literal["kernels", "convolutions"] = "kernels"
    weight_decay: NonNegative = 0.0
    decay_all: bool = False
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Positive | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience_epochs: Count | None = None
    augment: AugmentSpec = AugmentSpec()
    views: Literal["auto", "fresh"] | Count = "auto"

    @property
    def settled_views(self) -> int | Literal["fresh"]:
        """`views`, with `auto` as what it means in this stage."""
        if self.views != "auto":
            return self.views
        if self.augment == AugmentSpec():
            return 1
        return "fresh" if self.part == "all" else min(AUTOMATIC_VIEWS, self.epochs)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.optimizer, Logistic):
            others = ("l2", "weight_decay", "label_smoothing", "clip_norm", "ema_decay")
            if self.part != "head" or self.augment.mixes or any(getattr(self, name) for name in others):
                raise ValueError(
                    f"optimizer logistic is for part head, without mixing and without {', '.join(others)}: its own "
                    "penalty takes their place"
                )
            rates = ("lr", "layer_decay", "schedule")
            if any(getattr(self, name) != Stage.model_fields[name].default for name in rates):
                raise ValueError(f"optimizer logistic has no learning rate: leave {', '.join(rates)} out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, data: Any) -> Any:
        """`optimizer: sgd` is short for `optimizer: {name: sgd}`; the same for the schedule."""
        if not isinstance(data, Mapping):
            return data
        short = {key: {"name": data[key]} for key in ("optimizer", "schedule") if isinstance(data.get(key), str)}
        return {**data, **short}


class Recipe(Frozen):
    """One run, whole: data preparation, network, stages, seed.

    `monitor` is the validation metric that picks the best epoch, drives patience and plateaus; `val_objective` is the
    validation loss plus the L2 term, which is what Keras calls `val_loss`. `keep` says which weights the run ends
    with: those of the `best` epoch (of equally good ones, that of the lowest validation loss), or of the `last`.
    `experiment` names the published one whose figures stand beside the result. `precision` is that of the training,
    `frozen_precision` that of what is frozen and computed once: `auto` there is a `precision` that was named, else the
    fastest in which the features stay the same (on a GPU that of the training).
    """

    name: str
    description: str = ""
    experiment: str | None = None
    input: InputSpec = InputSpec()
    split: SplitSpec = SplitSpec()
    model: Network
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    class_weights: Literal["none", "balanced"] = "none"
    monitor: Literal["val_loss", "val_objective", "val_accuracy", "val_macro_f1"] = "val_accuracy"
    keep: Literal["best", "last"] = "best"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "auto"
    frozen_precision: Precision = "auto"

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @property
    def split_seed(self) -> int:
        return self.seed if self.split.seed is None else self.split.seed

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
