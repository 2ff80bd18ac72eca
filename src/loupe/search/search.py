"""Search for the best classifier within a time limit: heads, the best of them in full, trainings, and the end.

Which candidates there are, and which of two is the better one, depends on the images, the seed and the recorded plan.
The clock decides only how far the search gets.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout

from loupe import provenance
from loupe.data.sources.datasets import DATASETS
from loupe.devices import StopSignal, gpu_name
from loupe.errors import ConfigError, LoupeError, RunInUseError, StoppedError
from loupe.evaluate.search_results import BackboneAtHand, SearchResults
from loupe.log import duration, logger, size_text, terminal
from loupe.models.engine import shared_engines
from loupe.report import run_page, search_page
from loupe.rundir import RunDirectory
from loupe.runs.finalize import open_test
from loupe.runs.near_note import near_note
from loupe.runs.run import Run
from loupe.search import blended, deliver, words
from loupe.search.bank import Bank, rungs
from loupe.search.candidate import Candidate, parts
from loupe.search.candidates import CAUTION, Candidates
from loupe.search.clock import Clock
from loupe.search.folder import search_folder
from loupe.search.heads import Heads
from loupe.search.opening import MOST_LOOKED_AT, Opened, SearchOptions, opened
from loupe.search.record import Record, facts
from loupe.search.training_rounds import TrainingRounds
from loupe.search.trainings import Trainings

SUBSET_SHARE = 0.6  # of the time that is left, for the first rounds of heads
FIRST_SHARE = 0.4  # of the time that is left, for the first candidate where a part of the training images takes less


@dataclass(frozen=True)
class SearchOutcome:
    """Delivered run, with the search that led to it.

    Attributes:
        signal_number: of the signal that ended it early; None without one.
    """

    run: Run
    results: SearchResults
    signal_number: int | None


def search(options: SearchOptions) -> SearchOutcome:
    """Find the best classifier within a time limit, and leave it as a finished run.

    Raises:
        ConfigError: options that contradict each other, or a limit in which nothing can be trained.
        LoupeError: images or weights that cannot be used.
    """
    with ExitStack() as held, StopSignal() as stop:
        stop.is_heeded = True  # a signal ends the search with its result, which takes longer than ending the process
        found = opened(options)
        folder, before = search_folder(options, found.dataset.name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(FileLock(folder / ".search.lock", timeout=0))
        except Timeout:
            raise RunInUseError(f"{folder} is in use by another process. Wait for it, or choose a --name.") from None
        deliver.recover(folder)
        if before is not None:
            logger.info(f"going on with {folder}: {len(before.tried)} candidates are finished.")
        held.enter_context(shared_engines())
        return Search(options, found, Clock(options.limit_seconds, options.began), stop, RunDirectory(folder)).run()


class Search:
    """One search, from its plan to its result."""

    def __init__(
        self, options: SearchOptions, found: Opened, clock: Clock, stop: StopSignal, directory: RunDirectory
    ) -> None:
        self.options, self.found, self.clock, self.stop, self.directory = options, found, clock, stop, directory
        record = Record(directory.path, clock, self._facts())
        for head in (*found.heads, *found.joint):
            record.plan(head)
        skip, images = options.skip_damaged, rungs(found.images, found.split, options.seed, found.base.split.group)
        bank = Bank(found.dataset, found.device, skip, images, lambda: self.core.is_over())
        trainings = Trainings(found, directory.path / "candidates", skip, bank.pass_seconds)
        self.core = Candidates(found, options.restrictions, clock, stop, directory, record, bank, trainings)
        self.heads, self.rounds = Heads(self.core), TrainingRounds(self.core)

    @property
    def record(self) -> Record:
        return self.core.record

    def run(self) -> SearchOutcome:
        """Search until the time is over, a signal comes, or nothing is left to try; then evaluate the test images."""
        found, images = self.found, [len(rung.rows_N) for rung in self.core.bank.rungs]
        for text in words.plan(found.at_hand, len(found.heads), found.counts(), images, self.clock.limit_seconds):
            logger.info(text)
        self.record.start_seconds = self.clock.spent
        with suppress(StoppedError):
            self._first()
            self._tell_of_copies()
            self.rounds.small_images()
            for share in (SUBSET_SHARE, 1.0):  # what the first round leaves goes to further heads, and their trainings
                if self.heads.judge(share):
                    self.heads.train_best()
                    self.rounds.run(self.heads.chosen)
        return self._finish()

    # The rounds

    def _first(self) -> None:
        """Deliver the cheapest candidate that fits.

        Raises:
            ConfigError: none does; the message has the shortest limit.
        """
        least = float("inf")
        options = parts(len(self.found.split.train))
        if self.found.heads:
            head = self.found.heads[0]
            each = self.core.bank.estimate(head)
            least = self.heads.seconds(head, each, options[-1])
            part = self._fitting(head, lambda part: self.heads.seconds(head, each, part), each)
            if part is not False:
                self.core.train(self.core.of_part(head, part), self.heads.seconds(head, each, part))
        if self.core.best is None and not self.core.is_over():
            least = min(least, self._first_from_scratch())
        if self.core.best is None and not self.stop.is_sent:
            least = least if np.isfinite(least) else self.clock.limit_seconds  # the time was over before an estimate
            limit = self.clock.spent + CAUTION * least + self.core.reserved + 0.02 * self.clock.limit_seconds
            raise ConfigError(
                f"a limit of {duration(self.clock.limit_seconds)} is too short for these "
                f"{len(self.found.images.table):,} images on this machine. The shortest that may do is "
                f"--time-limit {int(np.ceil(limit))}s."
            )

    def _first_from_scratch(self) -> float:
        """Deliver one epoch from scratch if it fits; return the least seconds that one takes."""
        family = next(one for one in self.rounds.families(None) if one.kind == "from-scratch")
        rates = self.core.trainings.rates(family, self.core.overhead_seconds)
        train = len(self.found.split.train)

        def seconds(part: int | None) -> float:
            return rates.fixed_seconds + rates.epoch_seconds * (1.0 if part is None else part / train)

        candidate = family.of(1, rates.precision)
        part = self._fitting(candidate, seconds, 0.0)
        if part is not False:
            self.core.train(self.core.of_part(candidate, part), seconds(part))
        return seconds(parts(train)[-1])

    def _fitting(
        self, candidate: Candidate, seconds: Callable[[int | None], float], each: float
    ) -> int | Literal[False] | None:
        """Largest part of the training images for the first candidate, which is to be there soon; False if none fits.

        One that an earlier search has finished takes no time.

        Args:
            seconds: expected time for a part of the training images; None for all.
            each: time of a prediction of one image.
        """
        for part in parts(len(self.found.split.train)):
            if self.core.trainings.is_kept(candidate.learning_from(part)):
                return part
        for share in (FIRST_SHARE, 1.0, CAUTION):  # the last one without caution: a late result is stopped in time
            for part in parts(len(self.found.split.train)):
                if seconds(part) <= share * self.core.seconds_left(each):
                    return part
        return False

    def _tell_of_copies(self) -> None:
        """Log a note where many drawn images look like training images; not where not all images were decoded."""
        best, found = self.core.best, self.found
        if len(found.images.table) <= MOST_LOOKED_AT or found.dataset.source in DATASETS:
            return  # the split has seen to it
        if best is None or best.candidate.training_images is not None:
            return
        if note := near_note(self.core.trainings.images(best.candidate), found.split, found.base.split):
            logger.info(note)

    # The end

    def _finish(self) -> SearchOutcome:
        """Evaluate the test images of the best candidate, and write the result.

        Raises:
            ConfigError: no candidate may be delivered.
            StoppedError: a signal came before the first candidate.
        """
        if self.core.best is None:
            raise self._nothing()
        self.record.candidates_end_seconds = self.clock.spent
        offer = blended.consider(self.core)
        number = self.stop.number if self.stop.is_sent else None
        rows = list(self.record.rows.values())
        chosen = self.record.rows[self.core.best.candidate.name]
        tried = [row for row in rows if row.status == "finished" and row.judged]
        missed = [row for row in rows if row.status in ("planned", "stopped")]
        self.record.why = words.why(chosen, tried)
        self.record.meaning = words.meaning(len(tried), chosen.judged)
        self.record.more = tuple(filter(None, (offer, *words.more(missed, None))))
        run = self.core.best.run
        with terminal(quiet=True):
            if run.results.images.test:
                run = open_test(run, self.found.dataset)
            else:
                run_page.write_page(run.path)
        results = self.record.write("finished" if number is None else "stopped")
        search_page.write_page(self.directory.path)
        for text in (self.record.why, self.record.meaning, *self.record.more):
            if text:
                logger.info(text)
        return SearchOutcome(run, results, number)

    def _nothing(self) -> LoupeError:
        if self.stop.is_sent:
            return StoppedError("stopped before the first candidate was finished. The same command goes on from there.")
        rows = [row for row in self.record.rows.values() if row.judged and row.predict_seconds and row.weights_bytes]
        if not rows:
            return ConfigError(
                f"no candidate was finished within {duration(self.clock.limit_seconds)}. Give a longer --time-limit; "
                "the same command goes on from what was kept."
            )
        fastest = min(row.predict_seconds or 0.0 for row in rows)
        smallest = min(row.weights_bytes or 0 for row in rows)
        return ConfigError(
            "no candidate may be delivered: the fastest takes "
            f"{duration(fastest)} for a prediction, the smallest has weights of {size_text(smallest)}. Raise "
            "--predict-within or --size."
        )

    def _facts(self) -> dict[str, object]:
        found, options = self.found, self.options
        environment = provenance.environment(str(found.device), gpu_name(found.device), _threads()).to_json()
        return facts(
            dataset=found.dataset.name,
            command=options.command,
            environment=environment,
            seed=options.seed,
            images=found.counts(),
            classes=len(found.images.table.classes),
            at_hand=tuple(
                BackboneAtHand(backbone=one.backbone, weights=one.weights, parameters=one.parameters)
                for one in found.at_hand
            ),
            restrictions=options.restrictions,
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()
