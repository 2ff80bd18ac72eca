"""Search for labels that look wrong: from images to suspects, and the effect of leaving them out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec
from loupe.config.recipe import SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.config.size import SizePx
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.keyed_order import turns
from loupe.data.pixels.prepare import Images, load_images
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import folds
from loupe.data.splits.split import SPLITS, Split, assign
from loupe.data.table import ImageTable
from loupe.devices import choose_device, keep_freed_memory
from loupe.errors import ConfigError, DataError, counted, enumerated, memory_remedy, unknown_name
from loupe.evaluate.label_results import LabelEffect, LabelFinding, LabelResults
from loupe.labels import confident
from loupe.labels.confident import Bools, Floats, Ints
from loupe.labels.cross_fit import LEAST_FOLDS, CrossFit, HeadData, Solver, cross_fit, fold_counts, in_turn
from loupe.log import logger, terminal
from loupe.recipes.resolve import resolve
from loupe.training.features import features


@dataclass(frozen=True)
class LabelReport:
    """Findings about the labels of `rows_N` of a table.

    Attributes:
        splits: the split of every image, as in training on this data; None without a label.
        given_N: the label of each examined image, an index into `classes`, the classes present.
        suspect_N: mask of the labels that look wrong; quality_N: their scores, see `confident.quality`.
        fit: out-of-fold predictions.
    """

    table: ImageTable
    splits: tuple[str | None, ...]
    rows_N: Ints
    classes: tuple[str, ...]
    given_N: Ints
    suspect_N: Bools
    quality_N: Floats
    fit: CrossFit
    network: str
    size_px: SizePx
    seed: int

    @cached_property
    def order(self) -> list[int]:
        """Suspects among the examined images, the least likely label first."""
        return self._by_quality(np.flatnonzero(self.suspect_N))

    @cached_property
    def doubtful(self) -> list[int]:
        """Images that are not suspects but have another most likely class; the least likely label first."""
        likelier_N = self.fit.probability_NK.argmax(axis=1) != self.given_N
        return self._by_quality(np.flatnonzero(~self.suspect_N & likelier_N))

    def _by_quality(self, found: Ints) -> list[int]:
        """The least likely label first; of equal ones the seed decides."""
        turn = turns(f"labels {self.seed}", [self.table.paths[row] for row in self.rows_N[found]])
        return [int(i) for i in found[np.lexsort((turn, self.quality_N[found]))]]

    @property
    def suspect_rows(self) -> list[int]:
        """Rows of the suspects in the table, in that order."""
        return [int(self.rows_N[i]) for i in self.order]

    def finding(self, i: int) -> LabelFinding:
        """Finding about one examined image."""
        row, given, said_K = int(self.rows_N[i]), int(self.given_N[i]), self.fit.probability_NK[i]
        suggested = int(np.where(np.arange(len(said_K)) == given, -1.0, said_K).argmax())
        return LabelFinding(
            path=self.table.paths[row],
            split=self.splits[row],
            label=self.classes[given],
            suggested=self.classes[suggested],
            score=float(self.quality_N[i]),
            score_of_suggested=float(said_K[suggested]),
        )

    @cached_property
    def effect(self) -> LabelEffect:
        """Effect of training a head without the suspects: see `confident.effect`."""
        return confident.effect(self.given_N, self.fit.probability_NK, self.fit.without_NK, self.suspect_N)

    def counts(self, rows: Sequence[int]) -> dict[str, int]:
        """Number of these rows of the table in each split."""
        found = Counter(self.splits[row] for row in rows)
        return {part: found[part] for part in SPLITS if found[part]}

    @cached_property
    def results(self) -> LabelResults:
        """The findings without the arrays."""
        return LabelResults(
            dataset=self.table.name,
            network=self.network,
            size_px=self.size_px,
            seed=self.seed,
            folds=len(self.fit.strength_F),
            strengths=self.fit.strength_F,
            left_out=self.fit.left_out_F,
            classes=self.classes,
            examined=self.counts(self.rows_N.tolist()),
            suspected=self.counts(self.suspect_rows),
            doubtful=len(self.doubtful),
            effect=self.effect,
            suspects=tuple(self.finding(i) for i in self.order),
            unlearned=confident.unlearned(self.given_N, self.fit.probability_NK),
        )


@dataclass(frozen=True)
class LabelOptions:
    """Settings of the search for wrong labels.

    Attributes:
        model, weights: as for `loupe.train` with the recipe `features`.
        size_px: input size of the network; None: that of its pretraining.
        splits: splits to examine. The splits are those of training with this seed.
        number_of_folds: at least 3. Copies of an image, and images of one group, are in one fold.
    """

    model: str | None = None
    weights: str | None = None
    size_px: SizePx | None = None
    splits: Sequence[str] = ("train", "val")
    number_of_folds: int = 5
    seed: int = 0


def check_labels(
    data: Any,
    options: LabelOptions | None = None,
    *,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    device: str = "auto",
    skip_damaged: bool = False,
    quiet: bool = False,
    solver: Callable[[HeadData], Solver] = in_turn,
) -> LabelReport:
    """Compare labels with the out-of-fold predictions of heads on a frozen pretrained network.

    Args:
        data, columns, images, follow_links, device, skip_damaged: as for `loupe.train`.
        options: settings of the search; None: their defaults.
        solver: place of the heads, as for `loupe.labels.cross_fit.cross_fit`. Default: this process.

    Raises:
        LoupeError: something that the caller can correct; the message says what and how.
    """
    options = options or LabelOptions()
    splits, number_of_folds, seed = options.splits, options.number_of_folds, options.seed
    with terminal(quiet=quiet), memory_remedy("End other programs that use it, or choose another --device."):
        confident.check_installed()
        _check_asked(splits, number_of_folds)
        if "test" in splits:
            logger.warning(
                "test labels are examined. No runs folder counts this test-set evaluation: do not choose by it."
            )
        computing = choose_device(device)
        keep_freed_memory()
        dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links))
        recipe, network = recipe_for(dataset, options.model, options.weights, options.size_px, seed)
        preprocessing = recipe.preprocessing
        loaded = load_images(dataset, preprocessing, cache=cache_folder(), skip_damaged=skip_damaged)
        split = assign(loaded.table, loaded.content, SplitSpec(), seed)
        for note in split.notes:
            logger.info(note)
        rows_N = np.sort(np.concatenate([split.rows(part) for part in SPLITS if part in splits]))
        given_N, fold_N, classes = _folds(loaded, rows_N, splits, number_of_folds, seed)
        features_NC = features(
            network,
            preprocessing,
            loaded,
            device=computing,
            folder=cache_folder() / "features",
        )
        logger.info(
            f"comparing {counted(len(rows_N), 'label')} with out-of-fold predictions of linear heads on {network.name} "
            f"at {preprocessing.size} px, {counted(number_of_folds, 'fold')}"
        )
        fit = cross_fit(features_NC[rows_N], given_N, fold_N, suspects=confident.suspects, solver=solver)
        return LabelReport(
            table=loaded.table,
            splits=_split_names(split, len(loaded.table)),
            rows_N=rows_N,
            classes=classes,
            given_N=given_N,
            suspect_N=confident.suspects(given_N, fit.probability_NK),
            quality_N=confident.quality(given_N, fit.probability_NK),
            fit=fit,
            network=network.name,
            size_px=preprocessing.size_px,
            seed=seed,
        )


def _check_asked(splits: Sequence[str], number_of_folds: int) -> None:
    for part in splits:
        if part not in SPLITS:
            raise unknown_name("split", part, SPLITS)
    if number_of_folds < LEAST_FOLDS:
        raise ConfigError(f"--folds is at least {LEAST_FOLDS}; got {number_of_folds}.")


def recipe_for(
    dataset: Dataset, model: str | None, weights: str | None, size_px: SizePx | None, seed: int
) -> tuple[ResolvedRecipe, BackboneSpec]:
    """Recipe `features` for these images, and its network."""
    recipe = resolve(
        "features",
        dataset,
        model=model,
        weights=weights,
        flags={"seed": seed},
        extra={} if size_px is None else {"input.size_px": size_px},
    )
    if not isinstance(recipe.model, BackboneSpec):
        raise ConfigError(f"{recipe.model.name} is not a pretrained network of timm. Choose one: loupe models")
    if recipe.model.weights == "none":
        logger.warning(f"{recipe.model.name} has random weights: its features say little about an image.")
    return recipe, recipe.model


def _folds(
    images: Images, rows_N: Ints, splits: Sequence[str], number_of_folds: int, seed: int
) -> tuple[Ints, Ints, tuple[str, ...]]:
    """Labels of these rows as numbers without gaps, their folds, and the classes of the numbers."""
    table = images.table
    if not len(rows_N):
        raise DataError(f"{table.name}: no labelled images in {enumerated(splits)}.")
    present_K, given_N = np.unique(table.labels[rows_N], return_inverse=True)
    classes = tuple(table.classes[label] for label in present_K)
    if len(classes) < 2:
        raise DataError(
            f"{table.name}: all labels of {enumerated(splits)} are {classes[0]!r}; at least two classes are needed."
        )
    fold_N = folds.numbers(table, images.content, rows_N, folds=number_of_folds, seed=seed)
    scarce = [name for name, count in zip(classes, fold_counts(given_N, fold_N), strict=True) if count < LEAST_FOLDS]
    if scarce:
        raise DataError(
            f"{table.name}: the groups of class {scarce[0]!r} are too large for {LEAST_FOLDS} folds. Make the groups "
            "smaller, or leave out this class."
        )
    return given_N, fold_N, classes


def _split_names(split: Split, images: int) -> tuple[str | None, ...]:
    names: list[str | None] = [None] * images
    for part in SPLITS:
        for row in split.rows(part).tolist():
            names[row] = part
    return tuple(names)
