"""Results of `loupe reproduce`: the content of its JSON file, typed. Reports read nothing else of the experiments."""

from typing import ClassVar, Literal

from pydantic import JsonValue

from loupe.evaluate.results import Parameters
from loupe.evaluate.spread import AccuracySpread, Spread
from loupe.recipes.published.publication import Published
from loupe.records import Part, Quantity, Seconds, TextRecord, Whole


class ExperimentFigures(Part):
    """Measurements of an experiment, over its seeds.

    Attributes:
        runs: names of its run directories.
        judged_on: the split of the metrics. images: their number.
        split_hashes: of the test splits. test_looks: how often these were evaluated in this runs folder.
        settings: how the recipe trains, in words.
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    judged_on: Literal["test", "validation"]
    images: Whole
    accuracy: AccuracySpread
    macro_f1: Spread
    micro_f1: Spread
    roc_auc: Spread
    log_loss: Spread
    parameters: Parameters
    epochs: Quantity
    seconds_per_epoch: Seconds
    seconds: Seconds
    split_hashes: tuple[str, ...] = ()
    test_looks: Whole
    settings: str
    diagnosis: str | None


class ExperimentRow(Part):
    """One experiment, as published and as measured.

    Attributes:
        why: the reason why it was not measured.
        verdict: None where no accuracy was published, or none measured.
    """

    name: str
    recipe: str | None
    published: Published
    why: str | None
    measured: ExperimentFigures | None
    verdict: Literal["reached", "missed"] | None

    @property
    def decided(self) -> bool:
        """True if the published accuracy is outside the interval of the measured one."""
        accuracy, published = self.measured and self.measured.accuracy, self.published.accuracy
        return bool(accuracy and published is not None and not accuracy.low <= published <= accuracy.high)

    @property
    def verdict_text(self) -> str:
        """Verdict in words; where other images may reverse it, this is said."""
        if self.verdict is None:
            return ""
        return self.verdict if self.decided else f"{self.verdict}, within the interval"


class ExperimentResults(TextRecord):
    """Published experiments beside measured ones, with what they were made with."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or run loupe reproduce again."

    version: str
    budget: str
    seeds: Whole
    settings: tuple[str, ...] = ()
    command: str
    environment: dict[str, JsonValue]
    rows: tuple[ExperimentRow, ...]
