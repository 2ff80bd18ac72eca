"""Recipe of a run: immutable, typed values that are read from and written to YAML.

A recipe holds preprocessing, augmentation, network and a tuple of stages: all settings that change the result of a
run. Settings that change only its speed (device, threads, cache) are not part of it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from loupe.config.base import RGB, Channels, Count, Fraction, Levels, NonNegative, Positive, RecipeValue
from loupe.config.loss import CrossEntropy, Loss
from loupe.config.network import BlendSpec, Network
from loupe.config.optimizer import STRONGEST, WEAKEST, Adam, Constant, Cosine, Logistic, OneCycle, Optimizer, Schedule
from loupe.config.size import Size, SizePx, check_load_size
from loupe.errors import enumerated

Resize = Literal["crop", "pad", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Normalise = Literal["unit", "dataset", "channels", "given"]
PixelDefinition = Literal[1, 2]
PIXEL_DEFINITION: PixelDefinition = 2
"""Definition of pixels in new runs: how a file becomes pixels of `load_px`. See `loupe.data.pixels.decode`."""
AUTOMATIC_VIEWS = 4  # augmented views of each image, where blocks are frozen
AUTOMATIC_EPOCHS = 11  # of a stage trained in steps; and a usual number of L2 strengths, for estimates
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Preprocessing(RecipeValue):
    """Steps from a decoded RGB image to the network's input, stored with the weights.

    An image is resized to `load_px`; evaluation takes its centre of `size_px`. Each is the side of a square or (height,
    width). Pixels are scaled to [0, 1]; then `mean` is subtracted and the result is divided by `std`, for each channel.
    `range`: pixel values, as stored in the file, that become 0 and 255, with linear steps between; null for the whole
    range of the file's bits. `channels`: 3 for RGB, 1 for grey, which uses the first value of `mean` and of `std`; the
    others are equal. `pixel_definition`: how a file becomes pixels (`data.pixels.decode`); 1 in files of versions that
    had no other.
    """

    size_px: SizePx
    load_px: SizePx
    resize: Resize = "crop"
    interpolation: Interpolation = "bilinear"
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)
    range: Levels | None = None
    channels: Channels = 3
    pixel_definition: PixelDefinition = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_load_size(self.size_px, self.load_px)
        if min(self.std) <= 0:
            raise ValueError("std must be above 0 in every channel")
        check_levels(self.range)
        if self.channels == 1 and len({*self.mean}) + len({*self.std}) > 2:
            raise ValueError("with channels 1, the three values of mean must be equal, and those of std")
        return self

    @property
    def size(self) -> Size:
        """Size of the network's input."""
        return Size.of(self.size_px)

    @property
    def load_size(self) -> Size:
        """Size to which images are resized."""
        return Size.of(self.load_px)


def check_levels(levels: Levels | None) -> None:
    """Raise a ValueError unless the low end of a range is below its high end."""
    if levels is not None and levels[0] >= levels[1]:
        raise ValueError(f"range must be [low, high], low before high; got {list(levels)}")


class InputSpec(RecipeValue):
    """Preprocessing as requested, before the images are known; null values are chosen later.

    `size_px` and `load_px` are the side of a square or [height, width]. With a backbone, null means the backbone's own
    value. Without one, `size_px` is the typical size of the images, at most 64 px, and a square. `load_px` is
    `size_px`, or 1.15 times as much for random-resized-crop. `resize` is crop, `interpolation` bilinear and `normalise`
    channels.

    `normalise`: `unit` scales to [0, 1]. `dataset` standardises by one mean and one deviation over all training pixels,
    `channels` by one of each for every channel. `given` uses `mean` and `std` from here or from the backbone, on the
    scale [0, 1]. `range`: `full` keeps the 8 upper bits of every pixel value. `[low, high]` are the stored values that
    become black and white, for example [0, 4095] for 12 bits in files of 16. `used` takes the lowest and the highest
    value of the training images. `channels`: 1 for grey images and a network that is trained from scratch; colours
    become grey (ITU-R 601). Pretrained networks have 3. `pixel_definition` is the newest one (2); a run of an older
    version has 1. A run records the chosen values; a resumed or repeated run takes them from the record.
    """

    size_px: SizePx | None = None
    load_px: SizePx | None = None
    resize: Resize | None = None
    interpolation: Interpolation | None = None
    normalise: Normalise | None = None
    mean: RGB | None = None
    std: RGB | None = None
    range: Literal["full", "used"] | Levels = "full"
    channels: Channels = 3
    pixel_definition: PixelDefinition | None = None

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        check_levels(None if isinstance(self.range, str) else self.range)
        return self


class SplitSpec(RecipeValue):
    """Sizes of splits that the data lacks: a fraction below 1, or a number of images.

    `choose`: selection of validation images from the training images. `stratified` draws them by class and seed;
    `first` and `last` take them in the order of the data, as Keras's `validation_split` does. `seed`: null for the
    recipe's seed; with a value, trainings with other seeds have the same splits. `group`: images that stay on one side
    of every drawn split and fold. `given` are those of one group of the data, `near` also near duplicates (`loupe check
    --near`), `none` neither. Images of identical content always do. `train`: size of the part of the training images to
    learn from, drawn by class and seed; null for all.
    """

    validation: NonNegative = 0.1
    test: NonNegative = 0.1
    train: NonNegative | None = None
    choose: Literal["stratified", "first", "last"] = "stratified"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    group: Literal["near", "none", "given"] = "given"


class AugmentSpec(RecipeValue):
    """Random augmentation of training images, drawn anew in every epoch.

    Rotation, shifts, shear, zoom and flips have the meaning of Keras's `ImageDataGenerator`: `rotation_degrees` r draws
    from [-r, r], shifts from that fraction of the width or height in both directions, `shear_degrees` s from [-s, s].
    `zoom` is the range of the two axes' factors (above 1 the content becomes smaller). `fill` is SciPy's fill mode
    beyond the edge. `horizontal_flip: alternate` flips each image in every second epoch, from a random one of the first
    two on (Jordan 2024, arXiv:2404.00498). `auto` and `auto-alternate` flip unless the training images show that their
    orientation tells classes apart, as that of letters does (`recipes/orientation.py`). `crop_padding_px` pads by
    `fill` and takes a random crop of the original size. `random_resized_crop` is the range of the crop's area as a
    fraction of the image; its sides are stretched by up to 4/3 against each other. `resolution` below 1 reduces
    training images to that fraction of the input's sides, by area averaging. `cutout_px` is the side of one blank
    square. `brightness` is a range of factors. `mixup_alpha` and `cutmix_alpha` are the parameters of the Beta
    distributions; with both, each image gets one of the two.
    """

    rotation_degrees: NonNegative = 0.0
    width_shift: Fraction = 0.0
    height_shift: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0
    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    horizontal_flip: bool | Literal["alternate", "auto", "auto-alternate"] = False
    vertical_flip: bool = False
    fill: Literal["nearest", "constant", "reflect", "wrap"] = "nearest"
    fill_value: Annotated[float, Field(ge=0, le=255)] = 0.0
    crop_padding_px: Annotated[int, Field(ge=0)] = 0
    random_resized_crop: tuple[Positive, Positive] | None = None
    resolution: Annotated[float, Field(gt=0, le=1)] = 1.0
    cutout_px: Annotated[int, Field(ge=0)] = 0
    brightness: tuple[NonNegative, NonNegative] = (1.0, 1.0)
    mixup_alpha: NonNegative = 0.0
    cutmix_alpha: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("zoom", "brightness", "random_resized_crop"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name} must be a range, low before high; got {list(pair)}")
        if self.random_resized_crop and self.random_resized_crop[1] > 1:
            high = self.random_resized_crop[1]
            raise ValueError(f"random_resized_crop must be a range of area fractions, at most 1; got {high:g}")
        return self

    @property
    def flips(self) -> bool | Literal["alternate"]:
        """Horizontal flips, where `auto` takes them."""
        if self.horizontal_flip == "auto":
            return True
        return "alternate" if self.horizontal_flip == "auto-alternate" else self.horizontal_flip

    @property
    def is_open(self) -> bool:
        """True if the training images decide whether there are horizontal flips."""
        return self.horizontal_flip in ("auto", "auto-alternate")

    def mirrored(self, taken: bool) -> Self:
        """The same with the flips of `auto`, or without them; unchanged where they are not left open."""
        return self.model_copy(update={"horizontal_flip": taken and self.flips}) if self.is_open else self

    @property
    def mixes(self) -> bool:
        """True with mixup or cutmix, so that a target is no longer a single class."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


class Stage(RecipeValue):
    """Stage of training with one optimizer and one schedule.

    `part`: trainable part of the network: the `head`, the head with the `last-block` of the trunk or its `last-N`
    blocks, or `all`. The blocks before it are frozen: their weights and batch-norm statistics stay fixed.
    `batch_statistics`: false also fixes the batch-norm statistics of trainable blocks; their scales and offsets learn.
    Pretrained weights then begin with the outputs that they have in evaluation, whatever the batch.
    `batch_norm_sync`: true normalises by the batch of all ranks together, false by the share of a rank, of which those
    of rank 0 become the running statistics; a number does the first where a share has fewer images than that. One
    process has the whole batch, whatever is set.
    `layer_decay`: ratio of a block's rate to that of the next block; the head has the whole rate (Bao et al. 2022).
    `l2`: factor of the sum of squared kernels in the loss, as Keras's `regularizers.l2`; `l2_on: convolutions` limits
    it to kernels of convolutions. `weight_decay`: decay decoupled from the gradient (AdamW). Both spare biases and
    norms unless `decay_all`. `loss`: `cross-entropy`, to which `label_smoothing` belongs, or `focal`, short for
    `{name: focal, gamma: 2}`; both take class weights and mixed images. The validation loss is always cross-entropy.
    `ema_decay`: above 0, an exponential moving average of the weights is evaluated and kept. `patience_epochs`: epochs
    without an improvement of the monitored value after which the stage ends. With optimizer `logistic`, `epochs` and
    `patience_epochs` are numbers of L2 strengths. `epochs: auto`: L2 strengths go on until the validation loss has
    risen, and the one with the lowest loss is selected; 11 epochs with any other optimizer.

    The outputs of frozen blocks are computed once for each image and view, and cached. `views`: number of augmented
    views of each image, used in turn from epoch to epoch. `auto` is 4, or the number of epochs if that is less.
    `fresh` computes a new view in every epoch and caches none.
    """

    epochs: Literal["auto"] | Count
    part: Annotated[str, Field(pattern=r"^(head|last-block|last-[1-9][0-9]*|all)$")] = "all"
    batch_size: Count = 128
    loss: Loss = CrossEntropy()
    optimizer: Optimizer = Adam()
    lr: Positive = 1e-3
    batch_statistics: bool = True
    batch_norm_sync: bool | Count = 16
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.optimizer, Logistic):
            others = ("l2", "weight_decay", "label_smoothing", "clip_norm", "ema_decay")
            if self.loss != CrossEntropy():
                raise ValueError(f"optimizer logistic minimises cross-entropy; it cannot take loss {self.loss.name}")
            if self.part != "head" or self.augment.mixes or any(getattr(self, name) for name in others):
                raise ValueError(
                    f"optimizer logistic needs part head, without mixup, cutmix, {enumerated(others)}; its own L2 "
                    "penalty replaces them"
                )
            rates = ("lr", "layer_decay", "schedule")
            if any(getattr(self, name) != Stage.model_fields[name].default for name in rates):
                raise ValueError(f"optimizer logistic has no learning rate: leave out {enumerated(rates)}")
            self._check_series(self.optimizer)
        if self.label_smoothing and not isinstance(self.loss, CrossEntropy):
            raise ValueError(f"label_smoothing needs loss cross-entropy; set it to 0 with loss {self.loss.name}")
        return self

    def _check_series(self, optimizer: Logistic) -> None:
        if self.epochs != "auto":
            return
        if self.patience_epochs:
            raise ValueError("L2 strengths with epochs auto end by themselves: set patience_epochs to null")
        if optimizer.strongest and optimizer.weakest and optimizer.strongest < optimizer.weakest:
            raise ValueError(
                f"with epochs auto, strongest must be at least weakest; got {optimizer.strongest:g} and "
                f"{optimizer.weakest:g}"
            )

    @property
    def is_solved(self) -> bool:
        """True for a head that is solved (optimizer `logistic`), with one L2 strength after the other and no epochs."""
        return isinstance(self.optimizer, Logistic)

    @property
    def is_open(self) -> bool:
        """True for a solved head whose series of L2 strengths goes on by itself until the validation loss has risen."""
        return self.is_solved and self.epochs == "auto"

    @property
    def is_annealed(self) -> bool:
        """True for training in steps whose rate falls to a tenth of its peak or less, without an end by patience."""
        anneals = isinstance(self.schedule, OneCycle | Cosine) and self.schedule.final_fraction <= 0.1
        return anneals and not self.is_solved and self.patience_epochs is None

    @property
    def planned_epochs(self) -> int:
        """Number of epochs, or of L2 strengths; where their series goes on by itself, a usual number."""
        return AUTOMATIC_EPOCHS if self.epochs == "auto" else self.epochs

    def l2_strength(self, number: int) -> float:
        """L2 strength `number`, from 0, of a solved head with a named number of them.

        Strengths are evenly spaced on a logarithmic scale; a single one is the geometric mean of the range.
        """
        assert isinstance(self.optimizer, Logistic) and self.epochs != "auto"
        strongest, weakest = self.optimizer.strongest or STRONGEST, self.optimizer.weakest or WEAKEST
        share = number / (self.epochs - 1) if self.epochs > 1 else 0.5
        return float(strongest * (weakest / strongest) ** share)

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, data: Any) -> Any:
        """Expansion of `optimizer: sgd` to `optimizer: {name: sgd}`; the same for the loss and the schedule."""
        if not isinstance(data, Mapping):
            return data
        keys = ("loss", "optimizer", "schedule")
        short = {key: {"name": data[key]} for key in keys if isinstance(data.get(key), str)}
        return {**data, **short}


class Recipe(RecipeValue):
    """Settings of one run: preprocessing, splits, network, stages, seed.

    `monitor`: validation metric for the best epoch, for patience and for plateaus. `val_objective` is the validation
    loss plus the L2 term, Keras's `val_loss`. `keep`: weights at the end of the run, those of the `best` epoch (in a
    tie, the one with the lowest validation loss) or of the `last`; with `last-unless-beaten` the last, unless the best
    epoch is more accurate on the validation images by more than chance. `auto` is that where the final stage anneals,
    as one-cycle and cosine schedules do (results/kept_epoch.md), else `best`, as for `val_macro_f1`. `refit`: the head
    that a recipe without any other trained part solves learns from training and validation images together, at the L2
    strength with the lowest log loss, or highest monitored macro-F1, of out-of-fold predictions of these; validation
    figures are then of these predictions. `experiment`: published experiment whose figures are shown beside the result.
    `logit_adjustment`: factor tau of the logarithm of each class's share of the training images (Menon et al. 2021): a
    head that is trained in steps has it added to its logits in the loss, a solved one has it subtracted from its biases
    afterwards. Either makes rare classes likelier. `teacher`: finished run whose calibrated probabilities for a
    training image replace the `teacher_share` of its label, in stages that are trained in steps (distillation).
    `shuffle_window`: number of training images, in whole shards, within which the images of an epoch are shuffled, once
    the shards are (`augment.shard_order`); `all` for a full shuffle. `auto` is `all`, except for shards elsewhere that
    exceed the cache, if pixels are not kept either. `precision`: precision of training. `frozen_precision`: precision
    of frozen blocks. `auto` there means `precision` if that is named; else the fastest that keeps the features (on a
    GPU, the precision of training).
    """

    name: str
    description: str = ""
    experiment: str | None = None
    input: InputSpec = InputSpec()
    split: SplitSpec = SplitSpec()
    model: Network
    stages: tuple[Stage, ...]
    class_weights: Literal["none", "balanced"] = "none"
    logit_adjustment: NonNegative = 0.0
    teacher: str | None = None
    teacher_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    monitor: Literal["val_loss", "val_objective", "val_accuracy", "val_macro_f1"] = "val_accuracy"
    keep: Literal["auto", "best", "last", "last-unless-beaten"] = "auto"
    refit: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    shuffle_window: Literal["auto", "all"] | Count = "auto"
    precision: Precision = "auto"
    frozen_precision: Precision = "auto"

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.is_blended and self.stages:
            raise ValueError(
                "a blend of probabilities is made of trained runs and has no stages; to train one head on the features "
                "of all members, set model.combine to features"
            )
        if not self.stages and not self.is_blended:
            raise ValueError("stages needs at least one stage")
        return self

    @property
    def is_blended(self) -> bool:
        """True for a blend of trained runs, in which nothing is trained."""
        return isinstance(self.model, BlendSpec) and self.model.combine == "probabilities"

    @property
    def epochs(self) -> int:
        """Number of epochs, and of L2 strengths; a usual number of those whose series goes on by itself."""
        return sum(stage.planned_epochs for stage in self.stages)

    @property
    def keeps(self) -> Literal["best", "last", "last-unless-beaten"]:
        """Weights at the end of the run, with `auto` as what it means."""
        if self.keep != "auto":
            return self.keep
        if self.monitor == "val_macro_f1":  # whether an epoch beats the last one is told by accuracy
            return "best"
        return "last-unless-beaten" if self.stages and self.stages[-1].is_annealed else "best"

    @property
    def split_seed(self) -> int:
        return self.seed if self.split.seed is None else self.split.seed

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
