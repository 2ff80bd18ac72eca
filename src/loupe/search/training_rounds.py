"""Whole trainings of a search: a short schedule of each family, then ever longer ones of the best."""

import math
from dataclasses import dataclass, field

from loupe.errors import LoupeError
from loupe.log import logger
from loupe.recipes.choice import SMALL_PX
from loupe.runs.mirrored import flips
from loupe.search import space
from loupe.search.candidate import Candidate
from loupe.search.candidates import Candidates
from loupe.search.space import EPOCHS, Family
from loupe.search.trainings import LONGER, Contest

TRIAL_SHARES = (0.15, 0.3)  # of the time that is left, for a first schedule from scratch; the second for one epoch
TELLING_EPOCHS = 5  # of large images of signs, whose network learns slowly: 41 % of hand signs after 2, 96 % after 15
TELLING_IMAGES = 4_000  # seen by a pretrained network, over all epochs: hand signs reach 97 % after 3 epochs of 1,484
LEADING_SHARE = 0.5  # of the time that is left, for a longer one where the first is better than the first head


@dataclass
class TrainingRounds:
    """Rounds over families of trainings.

    Attributes:
        core: candidates that are trained.
        contest: what was tried so far.
    """

    core: Candidates
    contest: Contest = field(default_factory=lambda: Contest(()))
    _flips: bool | None = None  # mirror training images; None until it is probed

    def families(self, head: Candidate | None) -> tuple[Family, ...]:
        """Families for these images, in the order in which they are tried.

        Args:
            head: head whose backbone is trained further; None: from scratch alone.
        """
        found = self.core.found
        flop = head.flop / len(found.images.table) if head else 0.0
        if self._flips is None:
            self._flips, reason = flips(found.images, found.split.train)
            logger.info(reason)
        train = len(found.split.train)
        return space.families(head, flop, found.typical_px, train, found.base, flips=self._flips)

    def small_images(self) -> None:
        """Train small images and signs from scratch for a moment, and longer where that is better than the first head.

        Pretrained features know photographs. Whether small images are like these, and images whose mirror images are
        of other classes, a few epochs tell.
        """
        core = self.core
        if core.best is None or core.leads("from-scratch"):
            return
        families = self.families(None)
        if core.found.typical_px > SMALL_PX and self._flips:
            return
        self.contest = self.contest.with_families(families)
        (family,) = self.contest.families
        self._add(family)
        rates = self.contest.rates.get(family.name)
        if rates is None or core.is_over():
            return
        usual, most = (share * core.seconds_left() for share in TRIAL_SHARES)
        epochs = rates.most_epochs(usual) or (1 if rates.seconds(1) <= most else 0)
        if epochs < (1 if core.found.typical_px <= SMALL_PX else TELLING_EPOCHS):
            return
        self._train(family, epochs)
        longer = rates.most_epochs(LEADING_SHARE * core.seconds_left())
        if longer < LONGER * epochs:  # where nothing longer fits in a share, the leader gets all of the time
            longer = rates.most_epochs(core.seconds_left())
        if core.leads("from-scratch") and longer >= LONGER * epochs and not core.is_over():
            self._train(family, longer)

    def run(self, head: Candidate | None) -> None:
        """Train a short schedule of each family, then longer ones of the best, while the time lasts.

        Args:
            head: head whose backbone is trained further.
        """
        core, contest = self.core, self.contest.with_families(self.families(head))
        telling = min(EPOCHS[-1], math.ceil(TELLING_IMAGES / len(core.found.split.train)))
        self.contest, slowest = contest, 0.0  # seconds of an operation
        for family in contest.untried:
            if family.name not in contest.rates:
                expected = slowest * (family.fixed_flop + family.flop) + core.overhead_seconds
                if core.is_over() or expected > core.seconds_left():
                    first = family.of(1, "auto")
                    core.record.plan(first)
                    core.record.note(first.name, expected_seconds=expected if slowest else None)
                    continue
                self._add(family)
            if family.name not in contest.rates:
                continue
            slowest = max(slowest, contest.rates[family.name].epoch_seconds / family.flop)
            if not core.is_over() and (epochs := contest.first(family, core.seconds_left(), telling)):
                self._train(family, epochs)
        while not core.is_over():
            chosen = contest.next(core.seconds_left())
            if chosen is None:
                break
            self._train(*chosen)
        for family in contest.families:
            if (longer := contest.longer(family)) is not None:
                core.record.plan(longer)
                core.record.note(longer.name, expected_seconds=contest.rates[family.name].seconds(longer.epochs))

    def _add(self, family: Family) -> None:
        """Measure the speed of a family; one that cannot be trained here is left out, with a message."""
        if family.name in self.contest.rates:
            return
        try:
            self.contest.add(family, self.core.trainings.rates(family, self.core.overhead_seconds))
        except LoupeError as error:
            logger.info(f"{family.title}: {error}")

    def _train(self, family: Family, epochs: int) -> None:
        """Train a whole schedule of a family."""
        rates = self.contest.rates[family.name]
        candidate = family.of(epochs, rates.precision)
        self.core.record.plan(candidate)
        self.contest.tried(family, epochs, self.core.train(candidate, rates.seconds(epochs)))
