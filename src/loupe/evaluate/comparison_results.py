"""Results of `loupe compare`: the content of its JSON file, typed. Reports read nothing else of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from loupe.evaluate.estimate import Estimate
from loupe.evaluate.history import StageResult
from loupe.evaluate.results import Parameters
from loupe.evaluate.selection import Judgement
from loupe.evaluate.spread import AccuracySpread, Spread, over_seeds
from loupe.records import Part, Quantity, Seconds, TextRecord, Whole


@dataclass(frozen=True)
class Cost:
    """Expected cost of a training on this machine.

    Attributes:
        seconds: decoding, frozen blocks, training, with the solving of linear heads, and evaluation; not the report.
        disk_bytes: of activations under the cache folder; what an earlier run of the plan keeps is not counted again.
        memory_bytes: the most that this process has held by now, in a step of a whole batch among others; None where
            the system does not say.
    """

    seconds: Seconds
    disk_bytes: Whole
    memory_bytes: Whole | None


class SplitFigures(Part):
    """A candidate's headline metrics on one split, over its seeds or folds; one that is added to METRICS by its key."""

    __pydantic_extra__: dict[str, Spread | Any] = Field(init=False)

    images: Whole
    accuracy: AccuracySpread
    macro_f1: Spread
    roc_auc: Spread
    log_loss: Spread
    ece: Spread

    def metric(self, key: str) -> Spread:
        """A metric other than accuracy by its key in METRICS; undefined where the file is older than the metric."""
        found = getattr(self, key, None)
        return found if isinstance(found, Spread) else over_seeds([Estimate(value=None)])


class CandidateFigures(Part):
    """Measurements of a candidate that was trained.

    Attributes:
        runs: directories of its runs, as seen from the folder of the file.
        test: None where its test images are locked.
        seconds: time of one training; None where that of cached activations is not known.
        epochs: rows of metrics.csv: epochs, and the L2 strengths of a solved head.
        stages: epochs or L2 strengths of each stage, means over the runs; empty in files of before there were.
        seconds_per_epoch: 0 where no stage was trained in steps.
        images_per_second: predicted, from decoded images.
        bytes: size of the weights.
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    network: str
    validation: SplitFigures
    test: SplitFigures | None
    parameters: Parameters
    epochs: Quantity
    stages: tuple[StageResult, ...] = ()
    seconds_per_epoch: Seconds
    seconds: Seconds | None
    images_per_second: Quantity
    bytes: Whole
    diagnosis: str | None

    @property
    def trained_epochs(self) -> float:
        """Epochs, without the L2 strengths of a solved head."""
        return sum((stage.epochs or 0 for stage in self.stages), 0.0) if self.stages else self.epochs

    @property
    def strengths(self) -> float:
        """L2 strengths of a solved head; 0 where they are not known."""
        return sum((stage.strengths or 0 for stage in self.stages), 0.0)

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        if not self.runs or len(self.runs) != len(self.seeds):
            raise ValueError("a seed for each run, and at least one")
        return self


class CandidateRow(Part):
    """One candidate.

    Attributes:
        settings: how its recipe trains, in words.
        expected: its cost, as planned.
        why: the error where it failed. measured: None where it failed, or was only planned.
    """

    name: str
    settings: str
    expected: Cost | None
    why: str | None
    measured: CandidateFigures | None


class TestOpening(Part):
    """Use of the test images: which candidates they were opened for, and how often they were looked at.

    Attributes:
        opened_before: those whose runs had looked at them before they were compared.
        judgement: on test images, where they were opened for several candidates. Nothing was chosen by it.
    """

    __test__ = False

    opened: tuple[str, ...]
    opened_before: tuple[str, ...]
    looks: Whole
    judgement: Judgement | None


class Comparison(TextRecord):
    """Identity of a comparison: the command, the data and the machine."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or run loupe compare again."

    version: str
    name: str
    dataset: str
    seeds: Whole
    folds: Whole
    settings: tuple[str, ...]
    command: str
    environment: dict[str, JsonValue]

    def same_command(self, other: "Comparison") -> bool:
        """True for the same command on a dataset of the same name."""
        return (self.dataset, self.command) == (other.dataset, other.command)


class ComparisonPlan(Comparison):
    """A comparison that was only planned: each candidate with its expected cost.

    Attributes:
        images: of each split; those of training and validation together make the folds, where there are any.
        missing: trainings of each candidate that are not finished.
        total: time, disk space and memory of all missing trainings, in words.
    """

    images: dict[Literal["train", "val", "test"], Whole]
    rows: tuple[CandidateRow, ...]
    missing: dict[str, Whole]
    total: str


class ComparisonResults(Comparison):
    """A finished comparison, as its JSON file holds it.

    Attributes:
        images: of each split. rows: the candidates that were trained, by cost, then those that failed.
        judgement: on validation images. next: what would tell more, where the best is not chosen.
    """

    images: dict[Literal["train", "val", "test"], Whole]
    rows: tuple[CandidateRow, ...]
    judgement: Judgement
    next: str | None
    test: TestOpening

    @model_validator(mode="after")
    def _chosen_was_measured(self) -> Self:
        if self.judgement.chosen not in {row.name for row, _ in self.measured}:
            raise ValueError(f"the chosen candidate {self.judgement.chosen!r} was not measured")
        return self

    @property
    def measured(self) -> Sequence[tuple[CandidateRow, CandidateFigures]]:
        """The candidates that were trained, each with its measurements."""
        return [(row, row.measured) for row in self.rows if row.measured]

    @property
    def chosen(self) -> tuple[CandidateRow, CandidateFigures]:
        """The candidate that the judgement chose."""
        return next(pair for pair in self.measured if pair[0].name == self.judgement.chosen)
