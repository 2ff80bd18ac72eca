"""Trained candidates of a search: each is judged on the validation images, and the best of them is delivered."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loupe.devices import StopSignal
from loupe.errors import LoupeError
from loupe.evaluate.search_results import Kind, Restrictions, SearchedCandidate
from loupe.log import duration, logger, size_text
from loupe.rundir import RunDirectory
from loupe.runs.predict_time import predict_seconds
from loupe.runs.run import Run
from loupe.search import deliver, words
from loupe.search.bank import Bank
from loupe.search.candidate import Candidate
from loupe.search.clock import Clock, Reserve
from loupe.search.evidence import Evidence, compare
from loupe.search.opening import BYTES_OF_PARAMETER, Opened
from loupe.search.record import Record
from loupe.search.trainings import Trainings, validation

CAUTION = 1.2  # factor on every estimate, so that what begins also ends
FIRST_OVERHEAD_SECONDS = 8.0  # of a run beside its passes, before one was measured
LEAST_OVERHEAD_SECONDS = 1.0
COST_REPEATS = 5  # timed predictions of a candidate
MOST_IN_BLEND = 5  # candidates from which a blend is selected: those with the lowest log loss


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


@dataclass
class Candidates:
    """Runner of the candidates of a search within its time.

    Attributes:
        best: the one that is delivered so far.
        overhead_seconds: of a run beside its passes and steps, as the last one has shown.
    """

    found: Opened
    restrictions: Restrictions
    clock: Clock
    stop: StopSignal
    directory: RunDirectory
    record: Record
    bank: Bank
    trainings: Trainings
    best: Best | None = None
    overhead_seconds: float = FIRST_OVERHEAD_SECONDS
    reserve: Reserve = field(init=False)

    def __post_init__(self) -> None:
        self.reserve = Reserve(len(self.found.split.test))

    @property
    def reserved(self) -> float:
        """Seconds that the end needs, with a blend if one may be delivered."""
        return self._end(self.best.predict_seconds if self.best else 0.0)

    def _end(self, predict_seconds: float) -> float:
        if not self.restrictions.allow_blend:
            return self.reserve.end(predict_seconds)
        rows = self.record.strongest(MOST_IN_BLEND)
        together = sum(row.predict_seconds or 0.0 for row in rows)
        return self.reserve.end(max(predict_seconds, together)) + self.blend_seconds(rows)

    def blend_seconds(self, rows: Sequence[SearchedCandidate]) -> float:
        """Expected seconds of making a blend of finished candidates: each predicts the validation images again."""
        each = sum(row.predict_seconds or 0.0 for row in rows)
        opening = self.reserve.load_seconds + self.reserve.page_seconds
        return opening + CAUTION * each * len(self.found.split.val) if len(rows) > 1 else 0.0

    def is_over(self) -> bool:
        """True once a signal came, or the time is over but for the end."""
        return self.stop.is_sent or self.clock.left < self.reserved

    def leads(self, kind: Kind) -> bool:
        """True if the best candidate is of that kind."""
        return self.best is not None and self.best.candidate.kind == kind

    def seconds_left(self, predict_seconds: float = 0.0) -> float:
        """Seconds for candidates, of which one with this time of a prediction might be delivered."""
        if self.stop.is_sent:
            return 0.0
        known = self.best.predict_seconds if self.best else 0.0
        return (self.clock.left - self._end(max(predict_seconds, known))) / CAUTION

    def train(self, candidate: Candidate, expected: float, *, judged_images: int = 0) -> Evidence | None:
        """Train a candidate, judge it, and deliver it if it is the better one.

        Args:
            expected: seconds that it may take.
            judged_images: number of images on which it was already found to be better, out of fold. If they are more
                than the validation images, that decides.
        """
        began = self.clock.spent
        self.record.change(candidate.name, expected_seconds=expected)
        try:
            run = self.trainings.train(candidate, self.is_over, self.stop.request)
        except LoupeError as error:
            self.say(self.record.change(candidate.name, status="failed", reason=str(error), began_seconds=began))
            return None
        row = self.record.rows[candidate.name]
        seconds = self.clock.spent - began
        values: dict[str, Any] = {
            "began_seconds": began if row.began_seconds is None else row.began_seconds,
            "seconds": seconds,
        }
        if run is None:
            reason = "stopped by a signal" if self.stop.is_sent else "stopped: the time is over"
            self.say(self.record.change(candidate.name, status="stopped", reason=reason, **values))
            return None
        passes = run.results.seconds.frozen + run.results.seconds.train
        self.overhead_seconds = max(LEAST_OVERHEAD_SECONDS, seconds - passes)
        evidence = validation(run, candidate.name)
        better, difference = (True, None) if self.best is None else compare(self.best.evidence, evidence)
        each, bytes_ = self._costs(run)
        problem = self.too_costly(each, bytes_)
        values |= {
            "status": "finished",
            "round": 2,
            "training_images": candidate.training_images or len(self.found.split.train),
            "judged": evidence.judged,
            "against_best": difference,
            "is_better": (better or judged_images > len(evidence.label_N)) and problem is None,
            "predict_seconds": each,
            "weights_bytes": bytes_,
            "run": run.path.relative_to(self.directory.path).as_posix(),
            "reason": problem,
        }
        row = self.record.change(candidate.name, **values)
        if row.is_better:
            self.deliver(candidate, run, evidence)
        self.say(self.record.rows[candidate.name])
        return evidence

    def of_part(self, candidate: Candidate, part: int | None) -> Candidate:
        """Candidate on a part of the training images, added to the plan."""
        chosen = candidate.learning_from(part)
        self.record.plan(chosen)
        return chosen

    def say(self, row: SearchedCandidate, *, on_subset: bool = False) -> None:
        """Log the line of a candidate."""
        logger.info(words.line(row, self.clock.spent, on_subset=on_subset))

    def is_too_large(self, candidate: Candidate) -> bool:
        """True if the weights of a candidate with a pretrained backbone would be above the size that was given."""
        most = self.restrictions.size_bytes
        return most is not None and BYTES_OF_PARAMETER * candidate.pretrained_parameters > most

    def _costs(self, run: Run) -> tuple[float, int]:
        """Seconds of a prediction of one image, and the bytes of the weights."""
        return predict_seconds(run, repeats=COST_REPEATS)[0], (
            run.directory.model / "weights.safetensors"
        ).stat().st_size

    def too_costly(self, each: float, bytes_: int) -> str | None:
        """Reason why a candidate may not be delivered; None if it may."""
        most = self.restrictions
        if most.predict_within_seconds is not None and each > most.predict_within_seconds:
            return (
                f"a prediction takes {duration(each)}, above --predict-within {duration(most.predict_within_seconds)}"
            )
        if most.size_bytes is not None and bytes_ > most.size_bytes:
            return f"its weights take {size_text(bytes_)}, above --size {size_text(most.size_bytes)}"
        return None

    def deliver(self, candidate: Candidate, run: Run, evidence: Evidence) -> None:
        """Make the run of a candidate that of this search; the first one with its page, whose time is measured."""
        began = time.perf_counter()
        first = self.best is None
        delivered = deliver.deliver(run, self.directory.path, device=str(self.found.device), quiet=True, page=first)
        key = (candidate.network, candidate.size_px)
        each = self.bank.pass_seconds.get(key) or self.record.rows[candidate.name].predict_seconds or 0.0
        self.best = Best(candidate, delivered, evidence, each)
        if first:
            self.reserve.page_seconds = time.perf_counter() - began
        self.record.delivered = candidate.name
        self.record.reserved_seconds = self.reserved
        self.record.write("running")
