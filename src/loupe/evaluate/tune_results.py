"""Results of `loupe tune`: the content of its JSON file, typed. Reports read nothing else of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from loupe.evaluate.estimate import Estimate
from loupe.records import Fraction, Part, Quantity, Seconds, TextRecord, Whole, parse

Setting = int | float | str
TrialState = Literal["complete", "given up", "failed"]
Verdict = Literal["better", "worse", "undecided", "unconfirmed", "defaults"]


class TunedKey(Part):
    """Key of a recipe that was searched.

    Attributes:
        values: as `--search` takes them, without the key.
        low, high: ends of a range; None for a list.
        choices: values of a list.
        default: value in the recipe.
        best: value in the best trial.
        share: share of the variance of the scores that it explains. p: probability of such a share by chance.
    """

    key: str
    values: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    choices: tuple[str, ...] = ()
    default: str | None = None
    best: Setting
    share: Fraction | None = None
    p: Fraction | None = None


class TrialRung(Part):
    """Training of a trial in a share of its epochs.

    Attributes:
        share: share of the epochs. epochs: of stages that train in steps.
        value: monitored metric on validation images. accuracy: on validation images.
        losses, accuracies: on validation images, after each epoch or L2 strength.
        seconds: 0 where an earlier trial had the same settings.
    """

    share: Fraction
    epochs: Whole
    value: float
    accuracy: Fraction | None
    losses: tuple[Quantity | None, ...]
    accuracies: tuple[Fraction | None, ...]
    seconds: Seconds


class Trial(Part):
    """One trial.

    Attributes:
        number: from 0, which has the values of the recipe.
        settings: value of each key.
        state: `given up` at a rung, `failed`, or `complete`, with all its epochs.
        why: error of a trial that failed.
        same_as: earlier trial with the same settings.
    """

    number: Whole
    settings: dict[str, Setting]
    state: TrialState
    rungs: tuple[TrialRung, ...]
    why: str | None = None
    same_as: Whole | None = None


class Confirmation(Part):
    """Trainings of the recipe's own values and of the best settings, on other seeds than the search.

    Attributes:
        seeds: of both. defaults, best: validation accuracy of each seed.
        gain: accuracy of the best settings minus that of the recipe's, with the 95 % interval over images.
        p: of the paired test. images: validation images.
        default_runs, best_runs: names of the runs, whose weights are kept for the chosen settings alone.
    """

    seeds: tuple[Whole, ...]
    defaults: tuple[Fraction, ...]
    best: tuple[Fraction, ...]
    gain: Estimate
    p: Fraction
    images: Whole
    default_runs: tuple[str, ...]
    best_runs: tuple[str, ...]


class TestFigures(Part):
    """Test images, evaluated once, for one run of the chosen settings.

    Attributes:
        run: name of the run. looks: test-set evaluations recorded in its folder.
    """

    __test__ = False

    run: str
    accuracy: Estimate
    images: Whole
    looks: Whole


class TuneResults(TextRecord):
    """A finished search, as its JSON file holds it.

    Attributes:
        optuna: version of Optuna.
        monitor: metric by which trials are judged, on validation images. lower_is_better: True for a loss.
        time_limit_seconds: None without a limit.
        ended: why no further trial was begun.
        keys: what was searched. trials: in their order. best: number of the best complete trial.
        importance: what the shares of the keys are of, or why there are none.
        verdict: on the best settings against the recipe's own. conclusion: the same in words, with the figures.
        chosen: settings that are recommended.
        confirmation: None where nothing was confirmed.
        test: None without test images, or where nothing was confirmed.
        recipe_file: the best settings as a recipe. next_command: command that trains with the chosen settings.
        images: of each split.
        seconds: of all trainings.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or run loupe tune again."

    version: str
    optuna: str
    name: str
    dataset: str
    recipe: str
    seed: Whole
    monitor: str
    lower_is_better: bool
    command: str
    environment: dict[str, JsonValue]
    images: dict[Literal["train", "val", "test"], Whole]
    time_limit_seconds: Seconds | None
    ended: str
    keys: tuple[TunedKey, ...]
    trials: tuple[Trial, ...]
    best: Whole
    importance: str
    verdict: Verdict
    conclusion: str
    chosen: Literal["best", "defaults"]
    confirmation: Confirmation | None
    test: TestFigures | None
    recipe_file: str
    next_command: str
    seconds: Seconds = Field(default=0.0)

    @classmethod
    def describes(cls, path: Path) -> bool:
        """True for a file whose keys are those of a search, readable or not; False also for no JSON."""
        try:
            content = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and "optuna" in content

    @model_validator(mode="after")
    def _best_is_complete(self) -> "TuneResults":
        if self.best not in {trial.number for trial in self.complete}:
            raise ValueError(f"the best trial {self.best} is not complete")
        return self

    @property
    def complete(self) -> Sequence[Trial]:
        """Trials with all their epochs."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def best_trial(self) -> Trial:
        return next(trial for trial in self.trials if trial.number == self.best)
