"""Trainings of a search: their expected seconds from a few timed steps, and ordinary runs that stop in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from loupe.augment.pipeline import Augmenter
from loupe.cache import cache_folder
from loupe.comparison.sweep import train_or_open
from loupe.config.recipe import AUTOMATIC_VIEWS, Precision, Recipe
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.dataset import Dataset
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images, load_images
from loupe.data.pixels.read_ahead import steps_in
from loupe.data.splits.split import Split
from loupe.deadline import stopping_when
from loupe.devices import Resolved, has_bf16_matrix_units, precisions
from loupe.errors import InterruptedRunError, StoppedError
from loupe.evaluate.history import MACRO_F1
from loupe.evaluate.predictions import read_splits
from loupe.evaluate.results import results_file
from loupe.log import terminal
from loupe.models.build import build
from loupe.recipes.resolve import resolve
from loupe.report import run_page
from loupe.rundir import RunDirectory
from loupe.runs.options import RunOptions
from loupe.runs.run import Run
from loupe.search.candidate import Candidate
from loupe.search.evidence import Evidence, ranked
from loupe.search.opening import Opened, opened_images
from loupe.search.space import EPOCHS, Family, in_order
from loupe.settled import settled
from loupe.training.precision import TimedSteps

FORWARD_SHARE = 1 / 3  # of a training step, which goes forward once and backward at twice that cost
WORTHWHILE_SPEEDUP = 1.15  # from which on bf16 is taken
FURTHER_SHARES = 2  # of the time, that are kept for a longer schedule of the best family
SCRATCH_SHARE = 0.1  # of the time at most, for large photographs from scratch beside pretrained networks
LONGER = 1.5  # times as many epochs as before, from which on a longer schedule is worth its time


@dataclass(frozen=True)
class Rates:
    """Measured speed of a family of trainings.

    Attributes:
        fixed_seconds: before the first epoch and after the last: set-up, frozen blocks, evaluation, report.
        epoch_seconds: one epoch with its validation.
        precision: the faster one.
        view_seconds: frozen blocks of the training images in one view.
        views: views of each training image at most; an epoch has one.
    """

    fixed_seconds: float
    epoch_seconds: float
    precision: Precision
    view_seconds: float = 0.0
    views: int = 0

    def seconds(self, epochs: int) -> float:
        """Expected time of a whole schedule."""
        return self.fixed_seconds + min(epochs, self.views) * self.view_seconds + epochs * self.epoch_seconds

    def most_epochs(self, seconds: float) -> int:
        """Longest schedule of `EPOCHS` that fits; 0 where none does."""
        return max((number for number in EPOCHS if self.seconds(number) <= seconds), default=0)


@dataclass
class Trainings:
    """Runner of the trainings of a search.

    Attributes:
        folder: folder of the runs of candidates.
        pass_seconds: measured time of a frozen backbone for one image with its decoding, by its name and input side.
        trained_pass_seconds: the same without decoding, of heads that were trained.
    """

    found: Opened
    folder: Path
    skip_damaged: bool
    pass_seconds: Mapping[tuple[str, int], float]
    trained_pass_seconds: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.found.device

    @property
    def split(self) -> Split:
        return self.found.split

    def rates(self, family: Family, overhead_seconds: float) -> Rates:
        """Time a few training steps of a family.

        Args:
            overhead_seconds: of a run beside its passes and steps: opening, set-up, evaluation, report.

        Raises:
            LoupeError: its network cannot be built for these images.
        """
        recipe = _resolved(family.recipe, self.found.dataset)
        stage = recipe.stages[-1]
        images = opened_images(self.found.dataset, recipe.preprocessing, skip_damaged=self.skip_damaged)
        model = build(recipe.model, recipe.preprocessing, images.table.classes, recipe.seed).to(self.device)
        loader = BatchLoader(images.store, images.table.labels, self.device)
        model.learn(stage.part, batch_statistics=stage.batch_statistics)
        steps = TimedSteps(
            model,
            stage=stage,
            augmenter=Augmenter(stage.augment, model.preprocessing, recipe.seed),
            loader=loader,
            train_N=self.split.train,
            weights_K=None,
        )
        precision, seconds = self._faster(steps, family, stage)
        train, val = len(self.split.train), len(self.split.val)
        step = seconds * stage.batch_size / steps.images
        epoch = step * (steps_in(train, stage.batch_size) + FORWARD_SHARE * val / stage.batch_size)
        if family.backbone is None or stage.part == "all":
            return Rates(overhead_seconds, epoch, precision)
        each, views = self._pass_seconds(family), family.recipe.stages[-1].views
        fixed = overhead_seconds + each * (val + len(self.split.test))
        most = {"auto": AUTOMATIC_VIEWS, "fresh": EPOCHS[-1]}.get(views) if isinstance(views, str) else views
        return Rates(fixed, epoch, precision, each * train, most or 0)

    def _faster(self, steps: TimedSteps, family: Family, stage: ResolvedStage) -> tuple[Precision, float]:
        """Precision in which a step takes less time, once for a machine and a family, and that time."""
        if self.device.type == "cpu" and not has_bf16_matrix_units(self.device):
            return "fp32", steps.seconds("fp32")
        times = dict[Resolved, float]()
        reduced = next(precision for precision in precisions(self.device) if precision != "fp32")

        def measure() -> tuple[str, str]:
            times["fp32"], times[reduced] = steps.seconds("fp32"), steps.seconds(reduced)
            faster = times["fp32"] >= WORTHWHILE_SPEEDUP * times[reduced]
            return (reduced if faster else "fp32"), "a few timed steps of a search"

        # The network and its size decide; the trainings of a family differ in nothing that matters here.
        work = {"choice": "precision in a search", "family": family.name, "part": stage.part}
        chosen, _ = settled(work, measure, self.device)
        precision: Resolved = reduced if chosen == reduced else "fp32"
        return precision, times.get(precision) or steps.seconds(precision)

    def _pass_seconds(self, family: Family) -> float:
        """Seconds of a frozen backbone for one image: of its head's training, else as measured with the decoding."""
        key = (family.network, family.size_px)
        return self.trained_pass_seconds.get(key) or self.pass_seconds.get(key, 0.0)

    def images(self, candidate: Candidate) -> Images:
        """All images, decoded for a candidate; they are there already if it was trained."""
        pixels = _resolved(candidate.recipe, self.found.dataset).preprocessing
        with terminal(quiet=True):
            return load_images(self.found.dataset, pixels, cache=cache_folder(), skip_damaged=self.skip_damaged)

    def is_kept(self, candidate: Candidate) -> bool:
        """True if an earlier search has finished a run of that name."""
        return results_file(RunDirectory(self.folder / candidate.name)).is_file()

    def train(self, candidate: Candidate, is_over: Callable[[], bool], on_signal: Callable[[int], None]) -> Run | None:
        """Train a candidate, or open its run if an earlier search has finished it; None if it was stopped.

        Args:
            is_over: condition that stops it: the end of its time, or a signal.
            on_signal: function that is told the number of a signal that the training got.

        Raises:
            LoupeError: it cannot be trained.
        """
        options = RunOptions(self.folder, str(self.device), self.skip_damaged, quiet=True)
        with stopping_when(is_over), run_page.left_out():
            try:
                recipe = _resolved(candidate.recipe, self.found.dataset)
                run = train_or_open(self.found.dataset, recipe, candidate.name, options, open_test=False)
                if candidate.kind == "features" and (alone := run.results.seconds.frozen_alone):
                    counts = run.results.images
                    key = (candidate.network, candidate.size_px)
                    self.trained_pass_seconds[key] = alone / (counts.train + counts.val + counts.test)
                return run
            except InterruptedRunError as stopped:
                if not is_over():
                    on_signal(stopped.signal_number)
                return None
            except StoppedError:
                return None


def validation(run: Run, name: str) -> Evidence:
    """Predictions of a run for its validation images."""
    predictions = read_splits(run.directory.file("predictions.csv"))["val"]
    by_f1 = run.recipe.monitor == MACRO_F1
    return Evidence(name, predictions.logits_NK, predictions.label, of_folds=False, by_f1=by_f1)


def _resolved(recipe: Recipe, dataset: Dataset) -> ResolvedRecipe:
    with terminal(quiet=True):
        return resolve(recipe, dataset, model=None, flags={}, extra=())


@dataclass
class Contest:
    """Order of the trainings: a short schedule of each family, then ever longer ones of the best.

    Attributes:
        families: in the order in which they are tried.
        rates: by the name of the family, for those that can be trained.
        epochs: longest schedule that was tried, by the name of the family.
        evidence: of that schedule; None where it did not end.
    """

    families: Sequence[Family]
    rates: dict[str, Rates] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Evidence | None] = field(default_factory=dict)

    def with_families(self, more: Sequence[Family]) -> "Contest":
        """The same with further families."""
        known = {family.name: family for family in (*self.families, *more)}
        return replace(self, families=in_order(known.values()))

    def add(self, family: Family, rates: Rates) -> None:
        """Add the measured speed of a family."""
        self.rates[family.name] = rates

    def tried(self, family: Family, epochs: int, evidence: Evidence | None) -> None:
        """Add what a schedule has reached."""
        self.epochs[family.name], self.evidence[family.name] = epochs, evidence

    @property
    def untried(self) -> list[Family]:
        """Families of which no schedule was trained, in their order."""
        return [family for family in self.families if family.name not in self.epochs]

    def first(self, family: Family, seconds: float, telling: int = 1) -> int:
        """Epochs of the first schedule of a family in the seconds that are left; 0 if it is not to be trained now.

        Each family that was not tried gets a share of the time, two further shares are kept for the best one. Where the
        time is too short for shares, the cheapest pretrained one gets all of it.

        Args:
            telling: epochs of a pretrained network from which on its schedule tells something.
        """
        rates, untried = self.rates[family.name], self.untried
        share = seconds / (len(untried) - untried.index(family) + FURTHER_SHARES)
        has_pretrained = any(one.backbone for one in self.families)
        if has_pretrained and not family.backbone:
            share = min(share, SCRATCH_SHARE * seconds)
        epochs = rates.most_epochs(share)
        if family.backbone is None or epochs >= telling:
            return epochs
        return rates.most_epochs(seconds) if not self.epochs else 0

    def next(self, seconds: float) -> tuple[Family, int] | None:
        """Family and number of epochs to train in the seconds that are left, after the first round; None if none fits.

        The best gets its longest schedule that fits; where there is none, the cheapest that was not tried.
        """
        known = [family for family in self.families if family.name in self.rates]
        return self._longer(known, seconds) or self._alone([one for one in known if one in self.untried], seconds)

    def _longer(self, known: Sequence[Family], seconds: float) -> tuple[Family, int] | None:
        """Longest schedule that fits of the best family; of the next best where it is not much longer than before."""
        ended = [one for one in (self.evidence.get(family.name) for family in known) if one is not None]
        order = [one.name for one in ranked(ended)]
        of_name = {one.name: family for family in known if (one := self.evidence.get(family.name)) is not None}
        for name in order:
            family = of_name[name]
            epochs = self.rates[family.name].most_epochs(seconds)
            if epochs >= LONGER * self.epochs[family.name]:
                return family, epochs
        return None

    def _alone(self, fresh: Sequence[Family], seconds: float) -> tuple[Family, int] | None:
        """Cheapest family that fits in all of the time that is left."""
        for family in fresh:
            if epochs := self.rates[family.name].most_epochs(seconds):
                return family, epochs
        return None

    def longer(self, family: Family) -> Candidate | None:
        """Next candidate of a family, for what more time would reach; None for one without measured speed."""
        if family.name not in self.rates:
            return None
        wanted = LONGER * self.epochs.get(family.name, 0)
        epochs = next((number for number in EPOCHS if number >= max(1.0, wanted)), None)
        return None if epochs is None else family.of(epochs, self.rates[family.name].precision)
