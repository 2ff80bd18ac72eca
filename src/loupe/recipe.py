"""What one run is, as frozen, typed values that read from and write to YAML.

A recipe is data: images to pixels, augmentation, network, and a tuple of stages. Everything that changes the result of
a run stands here; what only changes how fast it is reached (device, threads, cache) does not.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
RGB = tuple[float, float, float]
Resize = Literal["crop", "pad", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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

    `size_px` null: the typical size of the images, at most 64 px. `load_px` null: `size_px`, or 1.15 times as much
    where random-resized-crop needs room. `normalise`: `unit` scales to [0, 1]; `dataset` subtracts the mean of the
    training pixels and divides by their deviation, one number each over all pixels and channels; `channels` does so
    for each channel. `mean` and `std` null: by that rule; a run records what it computed, and a resumed or repeated one
    takes it from there.
    """

    size_px: Count | None = None
    load_px: Count | None = None
    resize: Resize = "crop"
    interpolation: Interpolation = "bilinear"
    normalise: Literal["unit", "dataset", "channels"] = "channels"
    mean: RGB | None = None
    std: RGB | None = None


class SplitSpec(Frozen):
    """Sizes of the splits that the data does not give: a fraction below 1, or a number of images.

    `choose` says which training images become validation: `stratified` draws them by class and seed, `first` and `last`
    take them in the order of the data, as Keras's `validation_split` and many notebooks do.
    """

    validation: NonNegative = 0.1
    test: NonNegative = 0.1
    choose: Literal["stratified", "first", "last"] = "stratified"


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


class ConvBlock(Frozen):
    """Convolutions, one for each entry of `filters`, then normalisation, max-pooling and dropout, in that order.

    `norm`: `each` puts batch normalisation after every convolution's activation, `block` once, before the pool.
    `pool_px` 1: no pool.
    """

    filters: tuple[Count, ...]
    kernel_px: Count = 3
    padding: Literal["same", "valid"] = "same"
    activation: Literal["relu", "none"] = "relu"
    norm: Literal["none", "each", "block"] = "none"
    pool_px: Count = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Dense(Frozen):
    """A hidden fully connected layer with ReLU, then dropout."""

    units: Count
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CnnSpec(Frozen):
    """A small convolutional network: blocks, then hidden layers, then one output for each class.

    Batch normalisation has Keras's epsilon; `norm_momentum` is PyTorch's (1 minus Keras's). `init`: `glorot` is Keras's
    default for weights (uniform, biases 0), `uniform` its RandomUniform(-0.05, 0.05), `he` is Kaiming-normal for ReLU.
    """

    name: str
    blocks: tuple[ConvBlock, ...]
    pooling: Literal["flatten", "average"] = "flatten"
    hidden: tuple[Dense, ...] = ()
    norm_momentum: Fraction = 0.01
    norm_epsilon: Positive = 1e-3
    init: Literal["glorot", "uniform", "he"] = "glorot"


class Sgd(Frozen):
    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(Frozen):
    """Adam; with `weight_decay` in the stage, the decay is decoupled (AdamW)."""

    name: Literal["adam", "adamw"] = "adam"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class Muon(Frozen):
    """Orthogonalised momentum for every kernel but the output layer's; Adam at the same rate for that and the rest."""

    name: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class RmsProp(Frozen):
    """PyTorch's RMSprop by default. Keras's has `rho` 0.9 and `epsilon` 1e-7, and adds it inside the root."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = 0.99
    epsilon: Positive = 1e-8
    epsilon_in_root: bool = False
    momentum: Fraction = 0.0


class Constant(Frozen):
    name: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0.0


class Step(Frozen):
    """The rate is multiplied by `factor` after every `every_epochs`."""

    name: Literal["step"] = "step"
    every_epochs: Positive = 30.0
    factor: Positive = 0.1
    warmup_epochs: NonNegative = 0.0


class Cosine(Frozen):
    """Half a cosine from the rate down to `final_fraction` of it, reached when the stage ends."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Fraction = 0.0
    warmup_epochs: NonNegative = 0.0


class OneCycle(Frozen):
    """From `start_fraction` of the rate up to the rate at `peak` of all steps, then down to `final_fraction`.

    Both ways along a cosine (Smith and Topin 2018, as in PyTorch's OneCycleLR).
    """

    name: Literal["one-cycle"] = "one-cycle"
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_fraction: Fraction = 0.04
    final_fraction: Fraction = 0.0


class Plateau(Frozen):
    """The rate is multiplied by `factor` when the monitored value has not improved for `patience_epochs`."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_epochs: Count = 10
    min_lr: NonNegative = 0.0
    warmup_epochs: NonNegative = 0.0


Optimizer = Annotated[Sgd | Adam | Muon | RmsProp, Field(discriminator="name")]
Schedule = Annotated[Constant | Step | Cosine | OneCycle | Plateau, Field(discriminator="name")]


class Stage(Frozen):
    """A stretch of training with one optimizer and one schedule.

    `l2` adds that many times the sum of squares of the kernels (`l2_on` convolutions: of theirs alone) to the loss, as
    Keras's `regularizers.l2` does; `weight_decay` is decoupled from the gradient (AdamW). Neither touches biases and
    norms unless `decay_all`. `ema_decay` above 0 evaluates and keeps an exponential average of the weights.
    `patience_epochs` stops the stage when the monitored value has not improved for so long.
    """

    epochs: Count
    batch_size: Count = 128
    optimizer: Optimizer = Adam()
    lr: Positive = 1e-3
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
    with: those of the `best` epoch, or of the `last`. `experiment` names the published one whose figures stand beside
    the result.
    """

    name: str
    description: str = ""
    experiment: str | None = None
    input: InputSpec = InputSpec()
    split: SplitSpec = SplitSpec()
    model: CnnSpec
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    class_weights: Literal["none", "balanced"] = "none"
    monitor: Literal["val_loss", "val_objective", "val_accuracy", "val_macro_f1"] = "val_accuracy"
    keep: Literal["best", "last"] = "best"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "auto"

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
