"""Bank of features: frozen backbones run over a subset of the images, once for every head that is tried on them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import Images
from loupe.data.splits.folds import as_many_as_fit
from loupe.data.splits.grouping import grouping
from loupe.data.splits.split import Split
from loupe.data.splits.stratify import UnitSampler
from loupe.errors import DataError, StoppedError
from loupe.evaluate.history import MACRO_F1
from loupe.evaluate.paired import Ints
from loupe.log import terminal
from loupe.recipes.resolve import resolve
from loupe.search.candidate import Candidate
from loupe.search.evidence import Evidence
from loupe.search.opening import opened_images
from loupe.training.features import FeatureExtractor
from loupe.training.heads import out_of_fold

SUBSET_IMAGES = 1000  # of the last round: the standard error of an accuracy of 90 % is 0.9 points there
FIRST_IMAGES = 300  # of the first round
FIRST_IMAGES_OF_CLASS = 10  # at least, of the first round
CLEARLY_MORE = 1.5  # times as many images, from which on another round is worth its time
CHUNK_IMAGES = 64  # computed between two looks at the clock

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rung:
    """Images of a round.

    Attributes:
        rows_N: their rows in the table, ascending.
        fold_N: fold of each of them, from 0.
    """

    rows_N: Ints
    fold_N: Ints


@dataclass
class Bank:
    """Features of subsets of the training and validation images, and heads on them.

    Attributes:
        rungs: subsets, each of which holds the one before.
        is_over: condition that stops a pass.
        evidence: for each rung, out-of-fold predictions of the heads, by the name of the candidate.
        pass_seconds: time of a backbone for one image, measured, by its name and the side of its input.
    """

    dataset: Dataset
    device: torch.device
    skip_damaged: bool
    rungs: tuple[Rung, ...]
    is_over: Callable[[], bool]
    evidence: list[dict[str, Evidence]] = field(init=False)
    pass_seconds: dict[tuple[str, int], float] = field(default_factory=dict)
    _extractors: dict[str, FeatureExtractor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.evidence = [{} for _ in self.rungs]

    @property
    def judgements(self) -> int:
        """Number of heads that were judged, over all rungs."""
        return sum(map(len, self.evidence))

    def evidence_at(self, rung: int) -> list[Evidence]:
        """Predictions of all heads on a rung, in the order in which they were judged."""
        return [*self.evidence[rung].values()]

    def rung_of(self, name: str) -> int:
        """Highest rung on which a head was judged; -1 for none."""
        return max((rung for rung, judged in enumerate(self.evidence) if name in judged), default=-1)

    def images_at(self, rung: int, name: str) -> int:
        """Number of images of a rung whose features a head lacks, as far as its rungs before tell."""
        before = self.rung_of(name)
        return len(self.rungs[rung].rows_N) - (len(self.rungs[before].rows_N) if before >= 0 else 0)

    def estimate(self, candidate: Candidate) -> float:
        """Seconds of a backbone for one image, from a few timed batches, whose features are kept."""
        key = (candidate.network, candidate.size_px)
        if key not in self.pass_seconds:
            images = self._images(candidate)
            with terminal(quiet=True):
                timed = self._extractor(candidate).estimate(images, self.rungs[0].rows_N)
            self.pass_seconds[key] = timed.seconds_per_image
        return self.pass_seconds[key]

    def judge(self, candidate: Candidate, rung: int) -> Evidence:
        """Out-of-fold predictions of a head on the features of the images of a rung.

        Raises:
            StoppedError: stopped by a signal or at the end of the time; finished features are kept.
        """
        images, subset = self._images(candidate), self.rungs[rung]
        features_NC, label_N = self._features(candidate, images, subset.rows_N), images.table.labels[subset.rows_N]
        by_f1 = candidate.recipe.monitor == MACRO_F1
        found = out_of_fold(features_NC, label_N, subset.fold_N, len(images.table.classes), by_f1=by_f1)
        evidence = Evidence(candidate.name, found.logits_NK, label_N, of_folds=True, by_f1=by_f1)
        self.evidence[rung][candidate.name] = evidence
        return evidence

    def _features(self, candidate: Candidate, images: Images, rows_N: Ints) -> Floats:
        """Features of some images, [N, C]; those of several backbones side by side."""
        if candidate.members:
            return np.concatenate([self._features_of(one, candidate, rows_N) for one in candidate.members], axis=1)
        return self._extracted(candidate, self._extractor(candidate), images, rows_N)

    def _features_of(self, member: Candidate, joint: Candidate, rows_N: Ints) -> Floats:
        """Features of one of several backbones for some images, which are prepared as for all of them."""
        own = self._preprocessing(member)
        shared = self._preprocessing(joint).model_copy(update={"mean": own.mean, "std": own.std})
        images = opened_images(self.dataset, shared, skip_damaged=self.skip_damaged)
        extractor = self._extractor(replace(member, name=f"{joint.name} {member.name}"), shared)
        return self._extracted(member, extractor, images, rows_N)

    def _extracted(self, candidate: Candidate, extractor: FeatureExtractor, images: Images, rows_N: Ints) -> Floats:
        """Features of some images [N, C], timed."""
        parts, computed, seconds = list[Floats](), 0, 0.0
        with terminal(quiet=True):
            for first in range(0, len(rows_N), CHUNK_IMAGES):
                if self.is_over():
                    raise StoppedError("stopped; finished features are kept.")
                began = time.perf_counter()
                parts.append(extractor.features(images, rows_N[first : first + CHUNK_IMAGES]))
                if first:
                    computed, seconds = computed + len(parts[-1]), seconds + time.perf_counter() - began
        key = (candidate.network, candidate.size_px)
        if computed:  # features that were kept take no time, so that an estimate is only ever raised
            self.pass_seconds[key] = max(self.pass_seconds.get(key, 0.0), seconds / computed)
        return np.concatenate(parts)

    def _extractor(self, candidate: Candidate, preprocessing: Preprocessing | None = None) -> FeatureExtractor:
        if candidate.name not in self._extractors:
            network = candidate.recipe.model
            assert isinstance(network, BackboneSpec)
            self._extractors.clear()  # one network at a time in memory
            folder = cache_folder() / "frozen"
            self._extractors[candidate.name] = FeatureExtractor(
                network, preprocessing or self._preprocessing(candidate), self.device, folder
            )
        return self._extractors[candidate.name]

    def _preprocessing(self, candidate: Candidate) -> Preprocessing:
        with terminal(quiet=True):
            return resolve(candidate.recipe, self.dataset, model=None, flags={}, extra=()).preprocessing

    def _images(self, candidate: Candidate) -> Images:
        """All images, prepared for a candidate."""
        return opened_images(self.dataset, self._preprocessing(candidate), skip_damaged=self.skip_damaged)


def rungs(images: Images, split: Split, seed: int, group: str) -> tuple[Rung, ...]:
    """Subsets of the training and validation images on which heads are judged, stratified by class, with their folds.

    Args:
        group: images that stay in one fold, as in `SplitSpec`.

    Raises:
        DataError: a class has a single image.
    """
    pool_N = np.sort(np.concatenate([split.train, split.val]))
    table, content = images.table, images.content
    unit_N = grouping(table, content, group).unit_N
    rows_N = _subset(images, unit_N, pool_N, SUBSET_IMAGES, f"search {seed}")
    last = Rung(rows_N, as_many_as_fit(table, content, rows_N, seed=seed, group=group))
    fewest = max(FIRST_IMAGES, FIRST_IMAGES_OF_CLASS * len(table.classes))
    if CLEARLY_MORE * fewest > len(rows_N):
        return (last,)
    first_N = _subset(images, unit_N, rows_N, fewest, f"search {seed}, first round")
    try:
        return Rung(first_N, as_many_as_fit(table, content, first_N, seed=seed, group=group)), last
    except DataError:  # a class of few images has one there
        return (last,)


def _subset(images: Images, unit_N: Ints, pool_N: Ints, most: int, key: str) -> Ints:
    """Rows of at most so many images of a pool, ascending, stratified by class."""
    if len(pool_N) <= most:
        return pool_N
    table = images.table
    sampler = UnitSampler(
        content=images.content,
        labels=table.labels,
        pool=pool_N,
        unit=unit_N,
        pinned=np.empty(0, np.int64),
        classes=table.classes,
    )
    return sampler.stratified(most, key=key)
