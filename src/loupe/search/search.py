"""Search for the best classifier within a time limit: heads, the best of them in full, trainings, and the end.

Which candidates there are, and which of two is the better one, depends on the images, the seed and the recorded plan.
The clock decides only how far the search gets.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from loupe import provenance
from loupe.devices import StopSignal, gpu_name
from loupe.errors import ConfigError, LoupeError, RunInUseError, StoppedError
from loupe.evaluate.search_results import BackboneAtHand, SearchedCandidate, SearchResults
from loupe.log import duration, logger, size_text, terminal
from loupe.rundir import RunDirectory
from loupe.runs.finalize import open_test
from loupe.runs.mirrored import flips
from loupe.runs.run import Run
from loupe.search import deliver, space, words
from loupe.search.bank import Bank, subset
from loupe.search.clock import Clock, Reserve
from loupe.search.evidence import Evidence, compare, ranked
from loupe.search.opening import Opened, SearchOptions, opened, search_folder
from loupe.search.record import Record, facts
from loupe.search.space import Candidate, families
from loupe.search.trainings import Contest, Trainings, predict_seconds, validation

SUBSET_SHARE = 0.35  # of the time that is left, for the first round
FIRST_SHARE = 0.4  # of the time that is left, for the first candidate where a part of the training images takes less
CAUTION = 1.2  # factor on every estimate, so that what begins also ends
FIRST_OVERHEAD_SECONDS = 8.0  # of a run beside its passes, before one was measured
SOLVE_SECONDS = 2e-7  # of a head in all L2 strengths, for each image, feature and class, before one was measured
FEATURES = 1280  # of a backbone, for that estimate
JUDGE_SECONDS = 2.0  # of an out-of-fold head on a subset, before one was measured


@dataclass
class Best:
    """Candidate that is delivered.

    Attributes:
        run: delivered run.
        evidence: predictions of the validation images.
        predict_seconds: time of one image in a batch, for the test images at the end.
    """

    candidate: Candidate
    run: Run
    evidence: Evidence
    predict_seconds: float


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
        return Search(options, found, Clock(options.limit_seconds, options.began), stop, RunDirectory(folder)).run()


class Search:
    """One search, from its plan to its result."""

    def __init__(
        self, options: SearchOptions, found: Opened, clock: Clock, stop: StopSignal, directory: RunDirectory
    ) -> None:
        self.options, self.found, self.clock, self.stop, self.directory = options, found, clock, stop, directory
        self.best: Best | None = None
        self.flips: bool | None = None  # mirror training images; None until it is probed
        self.head = found.heads[0] if found.heads else None  # whose backbone is trained further
        self.contest = Contest(())
        self.reserve = Reserve(len(found.split.test))
        self.overhead_seconds, self.solve_seconds = FIRST_OVERHEAD_SECONDS, SOLVE_SECONDS
        self.judge_seconds = JUDGE_SECONDS
        rows_N, fold_N = subset(found.images, found.split, options.seed)
        skip = options.skip_damaged
        self.bank = Bank(found.dataset, found.device, skip, rows_N, fold_N, self.is_over)
        self.trainings = Trainings(found, directory.path / "candidates", skip, self.bank.pass_seconds)
        self.record = Record(directory.path, clock, self._facts())
        for head in found.heads:
            self.record.plan(head)

    def run(self) -> SearchOutcome:
        """Search until the time is over, a signal comes, or nothing is left to try; then evaluate the test images."""
        split, heads = self.found.counts(), self.found.heads
        for text in words.plan(self.found.at_hand, len(heads), split, len(self.bank.rows_N), self.clock.limit_seconds):
            logger.info(text)
        self.record.start_seconds = self.clock.spent
        with suppress(StoppedError):
            self._first()
            for share in (SUBSET_SHARE, 1.0):  # what the first round leaves goes to further heads, and their trainings
                if self._subset_round(share):
                    self._best_head()
                    self._whole_trainings()
        return self._finish()

    # The clock

    @property
    def reserved(self) -> float:
        """Seconds that the end needs."""
        return self.reserve.end(self.best.predict_seconds if self.best else 0.0)

    def is_over(self) -> bool:
        """True once a signal came, or the time is over but for the end."""
        return self.stop.is_sent or self.clock.left < self.reserved

    def seconds_left(self, predict_seconds: float = 0.0) -> float:
        """Seconds for candidates, of which one with this time of a prediction might be delivered."""
        if self.stop.is_sent:
            return 0.0
        known = self.best.predict_seconds if self.best else 0.0
        return (self.clock.left - self.reserve.end(max(predict_seconds, known))) / CAUTION

    # The rounds

    def _first(self) -> None:
        """Deliver the cheapest candidate that fits.

        Raises:
            ConfigError: none does; the message has the shortest limit.
        """
        least = float("inf")
        options = space.parts(len(self.found.split.train))
        if self.found.heads:
            head = self.found.heads[0]
            each = self.bank.estimate(head)
            least = self._head_seconds(head, each, options[-1])
            part = self._fitting(lambda part: self._head_seconds(head, each, part), each)
            if part is not False:
                self._train(self._of_part(head, part), self._head_seconds(head, each, part))
        if self.best is None and not self.is_over():
            least = min(least, self._first_from_scratch())
        if self.best is None and not self.stop.is_sent:
            least = least if np.isfinite(least) else self.clock.limit_seconds  # the time was over before an estimate
            limit = self.clock.spent + CAUTION * least + self.reserved + 0.02 * self.clock.limit_seconds
            raise ConfigError(
                f"a limit of {duration(self.clock.limit_seconds)} is too short for these "
                f"{len(self.found.images.table):,} images on this machine. The shortest that may do is "
                f"--time-limit {int(np.ceil(limit))}s."
            )

    def _first_from_scratch(self) -> float:
        """Deliver one epoch from scratch if it fits; return the least seconds that one takes."""
        family = next(one for one in self._families(None) if one.kind == "from-scratch")
        rates = self.trainings.rates(family, self.overhead_seconds)
        train = len(self.found.split.train)

        def seconds(part: int | None) -> float:
            return rates.fixed_seconds + rates.epoch_seconds * (1.0 if part is None else part / train)

        part = self._fitting(seconds, 0.0)
        if part is not False:
            self._train(self._of_part(family.of(1, rates.precision), part), seconds(part))
        return seconds(space.parts(train)[-1])

    def _fitting(self, seconds: Callable[[int | None], float], each: float) -> int | Literal[False] | None:
        """Largest part of the training images for the first candidate, which is to be there soon; False if none fits.

        Args:
            seconds: expected time for a part of the training images; None for all.
            each: time of a prediction of one image.
        """
        for share in (FIRST_SHARE, 1.0, CAUTION):  # the last one without caution: a late result is stopped in time
            for part in space.parts(len(self.found.split.train)):
                if seconds(part) <= share * self.seconds_left(each):
                    return part
        return False

    def _of_part(self, candidate: Candidate, part: int | None) -> Candidate:
        """Candidate on a part of the training images, added to the plan."""
        chosen = candidate.learning_from(part)
        self.record.plan(chosen)
        return chosen

    def _subset_round(self, share: float) -> bool:
        """Judge heads out of fold on a subset of the images, from cheap to expensive; True where more is known then.

        Args:
            share: share of the time that is left. With all of it, only heads are judged that could be trained as well.
        """
        until, images = self.clock.spent + share * max(0.0, self.seconds_left()), len(self.bank.rows_N)
        known = len(self.bank.evidence)
        for head in self.found.heads:
            if head.name in self.bank.evidence:
                continue
            each = self._scaled_pass(head)
            expected = each * images + self.judge_seconds
            after = self._head_seconds(head, each) if share == 1.0 else 0.0
            if self.is_over() or (self.bank.evidence and self.clock.spent + expected + after > until):
                self.record.note(head.name, expected_seconds=expected)
                continue
            self._judge(head)
        return share < 1.0 or len(self.bank.evidence) > known

    def _judge(self, head: Candidate) -> None:
        """Judge one head out of fold on the subset."""
        began, images = self.clock.spent, len(self.bank.rows_N)
        evidence = self.bank.judge(head)
        spent = self.clock.spent - began
        self.judge_seconds = max(JUDGE_SECONDS, spent - self._scaled_pass(head) * images)
        row = self.record.rows[head.name]
        values: dict[str, Any] = {
            "subset": evidence.judged,
            "round": max(1, row.round),
            "seconds": (row.seconds or 0.0) + spent,
        }
        if row.status != "finished":
            values |= {"status": "finished", "began_seconds": began, "training_images": images}
        self._say(self.record.change(head.name, **values), on_subset=True)

    def _scaled_pass(self, head: Candidate) -> float:
        """Seconds of a backbone for one image: measured, or scaled by its arithmetic from the slowest that was."""
        key = (head.network, head.size_px)
        if key in self.bank.pass_seconds:
            return self.bank.pass_seconds[key]
        of_flop = {(one.network, one.size_px): one.flop for one in self.found.heads}
        rates = [seconds / of_flop[known] for known, seconds in self.bank.pass_seconds.items() if known in of_flop]
        return max(rates, default=0.0) * head.flop

    def _head_seconds(self, head: Candidate, each: float, part: int | None = None) -> float:
        """Expected seconds of a head that learns from all training images, or from a part of them."""
        counts, classes = self.found.counts(), len(self.found.images.table.classes)
        train = counts["train"] if part is None else part
        solving = self.solve_seconds * train * FEATURES * classes
        return each * (train + counts["val"] + counts["test"]) + solving + self.overhead_seconds

    def _best_head(self) -> None:
        """Train the best head of the subset on all images, or the next best one if the time is short."""
        heads = {head.name: head for head in self.found.heads}
        for evidence in ranked([self.bank.evidence[name] for name in heads if name in self.bank.evidence]):
            head = heads[evidence.name]
            if self.record.rows[head.name].run is not None:  # by all images
                self.head = head
                return
            each, left = self._scaled_pass(head), self.seconds_left(self._scaled_pass(head))
            fitting = [part for part in space.parts(len(self.found.split.train)) if self._improves(head, part)]
            part = next((part for part in fitting if self._head_seconds(head, each, part) <= left), False)
            if self._forbidden(head) or part is False:
                self.record.note(head.name, expected_seconds=self._head_seconds(head, each))
                continue
            expected = self._head_seconds(head, each, part)
            of_heads = self.best is None or self.best.candidate.kind == "features"
            if self._train(self._of_part(head, part), expected, by_subset=of_heads):
                self.head = head
                return

    def _improves(self, head: Candidate, part: int | None) -> bool:
        """True unless the best candidate is a head that learned from more images than this part."""
        best = None if self.best is None else self.best.candidate
        if best is None or best.kind != "features" or part is None:
            return True
        most = best.training_images or len(self.found.split.train)
        return part >= most and (best.network, best.size_px, most) != (head.network, head.size_px, part)

    def _whole_trainings(self) -> None:
        """Train families of whole schedules: a short one of each, then longer ones of the best."""
        contest = self.contest.with_families(self._families(self.head))
        self.contest, slowest = contest, 0.0  # seconds of an operation
        for family in contest.families:
            if family.name in contest.rates:
                slowest = max(slowest, contest.rates[family.name].epoch_seconds / family.flop)
                continue
            expected = slowest * (family.fixed_flop + family.flop) + self.overhead_seconds
            if self.is_over() or expected > self.seconds_left():
                first = family.of(1, "auto")
                self.record.plan(first)
                self.record.note(first.name, expected_seconds=expected if slowest else None)
                continue
            try:
                rates = self.trainings.rates(family, self.overhead_seconds)
            except LoupeError as error:
                logger.info(f"{family.title}: {error}")
                continue
            contest.add(family, rates)
            slowest = max(slowest, rates.epoch_seconds / family.flop)
        while not self.is_over():
            chosen = contest.next(self.seconds_left())
            if chosen is None:
                break
            family, epochs = chosen
            rates = contest.rates[family.name]
            candidate = family.of(epochs, rates.precision)
            self.record.plan(candidate)
            trained = self._train(candidate, rates.seconds(epochs))
            contest.tried(family, epochs, trained)
        for family in contest.families:
            if (longer := contest.longer(family)) is not None:
                self.record.plan(longer)
                self.record.note(longer.name, expected_seconds=contest.rates[family.name].seconds(longer.epochs))

    def _families(self, head: Candidate | None) -> tuple[space.Family, ...]:
        images = len(self.found.images.table)
        flop = head.flop / images if head else 0.0
        found = self.found
        if self.flips is None:
            self.flips, reason = flips(found.images, found.split.train)
            logger.info(reason)
        return families(head, flop, found.typical_px, len(found.split.train), found.base, flips=self.flips)

    # One candidate

    def _train(self, candidate: Candidate, expected: float, *, by_subset: bool = False) -> Evidence | None:
        """Train a candidate, judge it, and deliver it if it is the better one.

        Args:
            by_subset: it was already found to be better, out of fold on the subset.
        """
        began = self.clock.spent
        self.record.change(candidate.name, expected_seconds=expected)
        try:
            run = self.trainings.train(candidate, self.is_over, self.stop.request)
        except LoupeError as error:
            self._say(self.record.change(candidate.name, status="failed", reason=str(error), began_seconds=began))
            return None
        row = self.record.rows[candidate.name]
        seconds = self.clock.spent - began
        values: dict[str, Any] = {
            "began_seconds": began if row.began_seconds is None else row.began_seconds,
            "seconds": seconds,
        }
        if run is None:
            reason = "stopped by a signal" if self.stop.is_sent else "stopped: the time is over"
            self._say(self.record.change(candidate.name, status="stopped", reason=reason, **values))
            return None
        self._measure(run, seconds)
        evidence = validation(run, candidate.name)
        better, difference = (True, None) if self.best is None else compare(self.best.evidence, evidence)
        tells_more = by_subset and len(self.bank.rows_N) > len(evidence.label_N)
        each, bytes_ = self._costs(run)
        problem = self._too_costly(each, bytes_)
        values |= {
            "status": "finished",
            "round": 2,
            "training_images": candidate.training_images or len(self.found.split.train),
            "judged": evidence.judged,
            "against_best": difference,
            "is_better": (by_subset if tells_more else better) and problem is None,
            "predict_seconds": each,
            "weights_bytes": bytes_,
            "run": run.path.relative_to(self.directory.path).as_posix(),
            "reason": problem,
        }
        row = self.record.change(candidate.name, **values)
        if row.is_better:
            self._deliver(candidate, run, evidence)
        self._say(self.record.rows[candidate.name])
        return evidence

    def _measure(self, run: Run, seconds: float) -> None:
        """Take over the overhead of a run, and the time of solving its head."""
        spent = run.results.seconds
        passes = spent.frozen + spent.train
        self.overhead_seconds = max(self.overhead_seconds if self.best else 0.0, seconds - passes, 1.0)

    def _costs(self, run: Run) -> tuple[float, int]:
        """Seconds of a prediction of one image, and the bytes of the weights."""
        each = predict_seconds(run, self.found.split.val)
        return each, (run.directory.model / "weights.safetensors").stat().st_size

    def _too_costly(self, each: float, bytes_: int) -> str | None:
        """Reason why a candidate may not be delivered; None if it may."""
        most = self.options.restrictions
        if most.predict_within_seconds is not None and each > most.predict_within_seconds:
            return (
                f"a prediction takes {duration(each)}, above --predict-within {duration(most.predict_within_seconds)}"
            )
        if most.size_bytes is not None and bytes_ > most.size_bytes:
            return f"its weights take {size_text(bytes_)}, above --size {size_text(most.size_bytes)}"
        return None

    def _forbidden(self, head: Candidate) -> bool:
        """True if the weights of a head would be too large."""
        most = self.options.restrictions.size_bytes
        return most is not None and head.backbone is not None and 4 * head.backbone.parameters > most

    def _deliver(self, candidate: Candidate, run: Run, evidence: Evidence) -> None:
        """Make the run of a candidate that of this search."""
        began = time.perf_counter()
        found = self.found
        delivered = deliver.deliver(run, self.directory.path, device=str(found.device), quiet=True)
        key = (candidate.network, candidate.size_px)
        each = self.bank.pass_seconds.get(key) or self.record.rows[candidate.name].predict_seconds or 0.0
        self.best = Best(candidate, delivered, evidence, each)
        self.reserve.measured(time.perf_counter() - began)
        self.record.delivered = candidate.name
        self.record.reserved_seconds = self.reserved
        self.record.write("running")

    def _say(self, row: SearchedCandidate, *, on_subset: bool = False) -> None:
        logger.info(words.line(row, self.clock.spent, on_subset=on_subset))

    # The end

    def _finish(self) -> SearchOutcome:
        """Evaluate the test images of the best candidate, and write the result.

        Raises:
            ConfigError: no candidate may be delivered.
            StoppedError: a signal came before the first candidate.
        """
        if self.best is None:
            raise self._nothing()
        self.record.candidates_end_seconds = self.clock.spent
        number = self.stop.number if self.stop.is_sent else None
        rows = list(self.record.rows.values())
        chosen = self.record.rows[self.best.candidate.name]
        tried = [row for row in rows if row.status == "finished" and row.judged]
        missed = [row for row in rows if row.status in ("planned", "stopped")]
        self.record.why = words.why(chosen, tried)
        self.record.meaning = words.meaning(len(tried), chosen.judged)
        self.record.more = words.more(missed, None)
        run = self.best.run
        with terminal(quiet=True):
            if run.results.images.test:
                run = open_test(run, self.found.dataset)
        results = self.record.write("finished" if number is None else "stopped")
        self._write_page()
        for text in (self.record.why, self.record.meaning, *self.record.more):
            if text:
                logger.info(text)
        return SearchOutcome(run, results, number)

    def _write_page(self) -> None:
        if find_spec("loupe.report.search_page") is not None:
            from loupe.report import search_page

            search_page.write_page(self.directory.path)

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
