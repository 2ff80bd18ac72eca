"""Start of a search: options, images, split, backbones at hand, and the folder that it writes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loupe.cache import cache_folder
from loupe.config import overrides
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing, Recipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import Images, load_images, typical_px, undecoded_images
from loupe.data.sources.datasets import DATASETS
from loupe.data.sources.read_options import ReadOptions
from loupe.data.splits import split as splits
from loupe.data.splits.grouping import MANY_APART, grouping
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.devices import choose_device, keep_freed_memory
from loupe.errors import ConfigError, DataError, counted
from loupe.evaluate.history import MACRO_F1
from loupe.evaluate.search_results import Restrictions
from loupe.log import logger, size_text, terminal
from loupe.models.at_hand import WeightsAtHand, weights_at_hand
from loupe.models.build import skeleton
from loupe.models.catalog import network
from loupe.models.engine_choice import flop
from loupe.models.pretrained import check_weights, native_preprocessing, weights_files
from loupe.recipes import catalog
from loupe.recipes.resolve import resolve
from loupe.runs.balance_note import is_unbalanced
from loupe.runs.near_note import MOST_DRAWN, MOST_TRAIN, near_copies
from loupe.search import head_space, space
from loupe.search.candidate import BASE, Candidate

KEPT = ("split.", "class_weights", "monitor")  # recipe keys that a search takes over into every candidate
MONITORS = ("val_accuracy", MACRO_F1)  # by which a search may choose
LEAST_VALIDATION_IMAGES = 10
ENOUGH_VALIDATION_IMAGES = 1000  # the standard error of an accuracy of 90 % is 0.9 points there
MOST_LOOKED_AT = MOST_DRAWN + MOST_TRAIN  # images that are decoded at once, to look for near duplicates
VALIDATION_IMAGES_A_MINUTE = 500  # of the time limit: every candidate predicts all of them
BYTES_OF_PARAMETER = 4


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search.

    Attributes:
        limit_seconds: time limit, from `began` on.
        began: start of the command, on the clock `time.perf_counter`.
        model, weights: pretrained backbone that alone may be used; `none` as weights: from scratch alone.
        settings: recipe keys of every candidate, of those in KEPT.
        command: command that began the search.
    """

    data: Any
    read: ReadOptions
    limit_seconds: float
    began: float
    restrictions: Restrictions
    model: str | None = None
    weights: str | None = None
    seed: int = 0
    settings: Mapping[str, Any] | Sequence[str] = ()
    device: str = "auto"
    output: Path = Path("runs")
    name: str | None = None
    skip_damaged: bool = False
    verify: bool = False
    quiet: bool = False
    command: str = ""


@dataclass(frozen=True)
class Opened:
    """Images of a search, and what can be tried on them.

    Attributes:
        base: recipe whose seed, split and class weights all candidates share.
        typical_px: median of the shorter sides of the images.
        at_hand: pretrained backbones that may be used.
        heads: heads on frozen features, from cheap to expensive; empty without backbones.
        joint: heads on the features of all backbones together.
    """

    dataset: Dataset
    images: Images
    split: Split
    base: Recipe
    device: torch.device
    typical_px: int
    at_hand: tuple[WeightsAtHand, ...]
    heads: tuple[Candidate, ...]
    joint: tuple[Candidate, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(self.split.rows(name)) for name in splits.SPLITS}


def opened(options: SearchOptions) -> Opened:
    """Open the images, split them, and look for backbones.

    Raises:
        LoupeError: images, split, options or weights that cannot be used.
    """
    device = choose_device(options.device)
    keep_freed_memory()
    base = _base(options)
    dataset = open_dataset(options.data, options.read, verify=options.verify)
    labelled = int((dataset.table.labels >= 0).sum())
    if "split.validation" not in _keys(options):
        base = _validated_by_few(base, options.limit_seconds, labelled)
    if "monitor" not in _keys(options) and is_unbalanced(_learnt_from(dataset.table)):
        logger.info("The classes are unbalanced: macro-F1 chooses. To choose by accuracy: --set monitor=val_accuracy")
        base = base.model_copy(update={"monitor": MACRO_F1})
    found, typical = _backbones(options), typical_px(dataset.table)
    flops = {one: flop_of(one.spec) for one in found}
    heads = head_space.heads(found, flops, typical, labelled, base)
    first = heads[0].recipe if heads else space.from_scratch(typical, base)
    with terminal(quiet=True):
        resolved = resolve(first, dataset, model=None, flags={}, extra=())
    _check_size(options, found, dataset, base, typical)
    images = opened_images(dataset, resolved.preprocessing, skip_damaged=options.skip_damaged)
    base, split = _divided(options, dataset, images, resolved.preprocessing, base)
    if base.split.group != resolved.split.group:
        heads = head_space.heads(found, flops, typical, labelled, base)
    for note in split.notes:
        logger.info(note)
    if len(split.val) < LEAST_VALIDATION_IMAGES:
        raise DataError(
            f"{dataset.name}: {counted(len(split.val), 'validation image')}. A search chooses by them and needs at "
            f"least {LEAST_VALIDATION_IMAGES}. Add images, or train one recipe: leave out --time-limit."
        )
    joint = head_space.joint_heads(found, flops, typical, labelled, base)
    return Opened(dataset, images, split, base, device, typical, found, heads, joint)


def _divided(
    options: SearchOptions, dataset: Dataset, images: Images, preprocessing: Preprocessing, base: Recipe
) -> tuple[Recipe, Split]:
    """Split of the images, and the recipe with its settings.

    Where most drawn images look like training images, these stay together: a search chooses by the validation images,
    and copies of training images would mislead it. Of many images, which are decoded as they are needed, that is not
    looked at.

    Args:
        preprocessing: of the first candidate, whose decoded pixels are kept.
    """
    split = splits.assign(images.table, images.content, base.split, base.split_seed)
    if "split.group" in _keys(options) or dataset.source in DATASETS or len(images.table) > MOST_LOOKED_AT:
        return base, split
    with terminal(quiet=True):
        decoded = load_images(dataset, preprocessing, cache=cache_folder(), skip_damaged=options.skip_damaged)
    copies = near_copies(decoded, split, base.split)
    if copies is None:
        return base, split
    if not copies.are_most or grouping(images.table, images.content, "near").apart > MANY_APART:
        logger.info(copies.note)
        return base, split
    logger.info(
        f"{copies.text} They stay on one side here (split.group=near), as a search chooses by validation images. To "
        "draw at random: --set split.group=given"
    )
    base = base.model_copy(update={"split": base.split.model_copy(update={"group": "near"})})
    return base, splits.assign(images.table, images.content, base.split, base.split_seed)


def _learnt_from(table: ImageTable) -> npt.NDArray[np.integer]:
    """Number of labelled images of each class, without those of a test split that is given."""
    rows_N = (table.labels >= 0) & np.array([name != "test" for name in table.splits], bool)
    return np.bincount(table.labels[rows_N], minlength=len(table.classes))


def _check_size(
    options: SearchOptions, found: Sequence[WeightsAtHand], dataset: Dataset, base: Recipe, typical: int
) -> None:
    """Refuse a size of the weights that no candidate can have.

    Raises:
        ConfigError: it is too small; the message has the smallest that is possible.
    """
    most = options.restrictions.size_bytes
    if most is None:
        return
    with terminal(quiet=True):
        recipe = resolve(space.from_scratch(typical, base), dataset, model=None, flags={}, extra=())
    scratch = skeleton(recipe.model, recipe.preprocessing, dataset.table.classes)
    numbers = [sum(value.numel() for value in scratch.parameters()), *(one.parameters for one in found)]
    smallest = BYTES_OF_PARAMETER * min(numbers)
    if most < smallest:
        raise ConfigError(
            f"--size {size_text(most)}: the smallest network to try has weights of about {size_text(smallest)}. Raise "
            "--size, or give a smaller --model."
        )


def opened_images(dataset: Dataset, preprocessing: Preprocessing, *, skip_damaged: bool) -> Images:
    """Images that are decoded when they are read: of many, a search looks at few before it trains on all.

    To leave damaged images out, all are decoded at once.
    """
    with terminal(quiet=True):
        if skip_damaged:
            return load_images(dataset, preprocessing, cache=cache_folder(), skip_damaged=True)
        return undecoded_images(dataset, preprocessing)


def _base(options: SearchOptions) -> Recipe:
    """Recipe that holds what all candidates share: seed, split and class weights.

    Raises:
        ConfigError: a setting that a search chooses itself.
    """
    own = [key for key in _keys(options) if not key.startswith(KEPT)]
    if own:
        raise ConfigError(
            f"--set {own[0]}: a search within a time limit chooses it. It takes split.*, class_weights and monitor. "
            "For other settings train one recipe: leave out --time-limit."
        )
    recipe = catalog.recipe(BASE).model_copy(update={"seed": options.seed})
    recipe = overrides.override(recipe, options.settings)
    if "monitor" in _keys(options) and recipe.monitor not in MONITORS:
        raise ConfigError(
            f"--set monitor={recipe.monitor}: a search chooses by {' or by '.join(MONITORS)}. For another one train "
            "one recipe: leave out --time-limit."
        )
    return recipe


def _keys(options: SearchOptions) -> list[str]:
    """Recipe keys that were given."""
    if isinstance(options.settings, Mapping):
        return [*options.settings]
    return [text.partition("=")[0].strip() for text in options.settings]


def _validated_by_few(base: Recipe, limit_seconds: float, images: int) -> Recipe:
    """Recipe with fewer validation images than the default share of many images, if the time is short for so many.

    Args:
        images: number of labelled images.
    """
    most = max(ENOUGH_VALIDATION_IMAGES, round(VALIDATION_IMAGES_A_MINUTE * limit_seconds / 60))
    if base.split.validation * images <= most:
        return base
    return base.model_copy(update={"split": base.split.model_copy(update={"validation": most})})


def _backbones(options: SearchOptions) -> tuple[WeightsAtHand, ...]:
    """Backbones that the search may use: all at hand, or the one that was named.

    Raises:
        ConfigError: the one that was named is unknown, or its weights are not at hand.
    """
    if options.weights == "none":
        return ()
    found = weights_at_hand()
    if options.model is None and options.weights is None:
        return found
    if options.model is None:
        raise ConfigError(f"--weights {options.weights}: of which network? Give --model too.")
    spec = network(options.model, options.weights)
    if not isinstance(spec, BackboneSpec):
        raise ConfigError(
            f"--model {options.model}: a search takes a pretrained network of timm, or with --weights none networks of "
            "Loupe alone. For this network train one recipe: leave out --time-limit."
        )
    check_weights(spec)
    file = next(iter(weights_files(spec)), None)
    mine = [one for one in found if one.backbone == spec.backbone and options.weights is None]
    if mine:
        return tuple(mine[:1])
    parameters = sum(p.numel() for p in skeleton(spec, _own_pixels(spec), ("0", "1")).parameters())
    return (WeightsAtHand(spec.backbone, spec.weights, parameters, file or Path(spec.weights)),)


def flop_of(spec: BackboneSpec) -> float:
    """Floating point operations of a backbone for one image of its own size."""
    return float(flop(skeleton(spec, _own_pixels(spec), ("0", "1"))))


def _own_pixels(spec: BackboneSpec) -> Preprocessing:
    return native_preprocessing(spec) or Preprocessing(size_px=224, load_px=224)
