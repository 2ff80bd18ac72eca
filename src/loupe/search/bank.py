"""Bank of features: frozen backbones run over a subset of the images, once for every head that is tried on them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import Images
from loupe.data.splits import folds
from loupe.data.splits.split import Split
from loupe.data.splits.stratify import UnitSampler, units
from loupe.errors import DataError, StoppedError
from loupe.evaluate.paired import Ints
from loupe.log import terminal
from loupe.recipes.resolve import resolve
from loupe.search.evidence import Evidence
from loupe.search.opening import opened_images
from loupe.search.space import Candidate
from loupe.training.features import FeatureExtractor
from loupe.training.heads import out_of_fold

SUBSET_IMAGES = 1000  # of the first round: the standard error of an accuracy of 90 % is 0.9 points there
FOLDS = 5
CHUNK_IMAGES = 64  # computed between two looks at the clock

Floats = npt.NDArray[np.float32]


@dataclass
class Bank:
    """Features of a subset of the training and validation images, and heads on them.

    Attributes:
        rows_N: rows of the subset in the table, ascending.
        fold_N: fold of each of them.
        is_over: condition that stops a pass.
        evidence: out-of-fold predictions of the heads, by the name of the candidate.
        pass_seconds: time of a backbone for one image, measured, by its name and the side of its input.
    """

    dataset: Dataset
    device: torch.device
    skip_damaged: bool
    rows_N: Ints
    fold_N: Ints
    is_over: Callable[[], bool]
    evidence: dict[str, Evidence] = field(default_factory=dict)
    pass_seconds: dict[tuple[str, int], float] = field(default_factory=dict)
    _extractors: dict[str, FeatureExtractor] = field(default_factory=dict)

    def estimate(self, candidate: Candidate) -> float:
        """Seconds of a backbone for one image, from a few timed batches, whose features are kept."""
        key = (candidate.network, candidate.size_px)
        if key not in self.pass_seconds:
            images = self._images(candidate)
            with terminal(quiet=True):
                timed = self._extractor(candidate).estimate(images, self.rows_N)
            self.pass_seconds[key] = timed.seconds_per_image
        return self.pass_seconds[key]

    def judge(self, candidate: Candidate) -> Evidence:
        """Out-of-fold predictions of a head on the features of the subset.

        Raises:
            StoppedError: stopped by a signal or at the end of the time; finished features are kept.
        """
        images = self._images(candidate)
        features_NC, label_N = self._features(candidate, images), images.table.labels[self.rows_N]
        found = out_of_fold(features_NC, label_N, self.fold_N, len(images.table.classes))
        self.evidence[candidate.name] = Evidence(candidate.name, found.logits_NK, label_N, of_folds=True)
        return self.evidence[candidate.name]

    def _features(self, candidate: Candidate, images: Images) -> Floats:
        """Features of the subset, [M, C]."""
        extractor, parts, computed, seconds = self._extractor(candidate), list[Floats](), 0, 0.0
        with terminal(quiet=True):
            for first in range(0, len(self.rows_N), CHUNK_IMAGES):
                if self.is_over():
                    raise StoppedError("stopped; finished features are kept.")
                began = time.perf_counter()
                parts.append(extractor.features(images, self.rows_N[first : first + CHUNK_IMAGES]))
                if first:
                    computed, seconds = computed + len(parts[-1]), seconds + time.perf_counter() - began
        key = (candidate.network, candidate.size_px)
        if computed:  # features that were kept take no time, so that an estimate is only ever raised
            self.pass_seconds[key] = max(self.pass_seconds.get(key, 0.0), seconds / computed)
        return np.concatenate(parts)

    def _extractor(self, candidate: Candidate) -> FeatureExtractor:
        if candidate.name not in self._extractors:
            network = candidate.recipe.model
            assert isinstance(network, BackboneSpec)
            self._extractors.clear()  # one network at a time in memory
            folder = cache_folder() / "frozen"
            self._extractors[candidate.name] = FeatureExtractor(
                network, self._preprocessing(candidate), self.device, folder
            )
        return self._extractors[candidate.name]

    def _preprocessing(self, candidate: Candidate) -> Preprocessing:
        with terminal(quiet=True):
            return resolve(candidate.recipe, self.dataset, model=None, flags={}, extra=()).preprocessing

    def _images(self, candidate: Candidate) -> Images:
        """All images, prepared for a candidate."""
        return opened_images(self.dataset, self._preprocessing(candidate), skip_damaged=self.skip_damaged)


def subset(images: Images, split: Split, seed: int, most: int = SUBSET_IMAGES) -> tuple[Ints, Ints]:
    """Rows of a stratified subset of the training and validation images, and the fold of each, from 0.

    There are fewer folds where a class has fewer images.

    Raises:
        DataError: a class has a single image.
    """
    table, pool_N = images.table, np.sort(np.concatenate([split.train, split.val]))
    unit = units(images.content, table.groups)
    if len(pool_N) > most:
        sampler = UnitSampler(
            content=images.content,
            labels=table.labels,
            pool=pool_N,
            unit=unit,
            pinned=np.empty(0, np.int64),
            classes=table.classes,
        )
        pool_N = sampler.stratified(most, key=f"search {seed}")
    return pool_N, _folds(images, pool_N, seed)


def _folds(images: Images, rows_N: Ints, seed: int, counts: Sequence[int] = range(FOLDS, 1, -1)) -> Ints:
    for count in counts:
        try:
            return folds.numbers(images.table, images.content, rows_N, folds=count, seed=seed)
        except DataError:
            if count == counts[-1]:
                raise
    raise AssertionError("the last number of folds returns or raises")
