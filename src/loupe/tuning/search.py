"""Search: trial after trial, rung after rung, until all are done or the time is over."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from loupe.config.resolved import ResolvedRecipe
from loupe.errors import ConfigError, NotEnoughMemoryError, RunStateError, counted
from loupe.evaluate.history import LOWER_IS_BETTER
from loupe.evaluate.tune_results import Trial, TrialRung
from loupe.log import duration, logger
from loupe.tuning.recipes import TunedRecipe
from loupe.tuning.request import TuneRequest
from loupe.tuning.rungs import count_rungs, epochs_in_steps, share, shortened
from loupe.tuning.space import SearchKey, Settings
from loupe.tuning.study import Study, score
from loupe.tuning.trainings import SearchTrainings, Trained

RUN_SECONDS = 8.0  # evaluation, files and page of a run beside its training, on two cores


@dataclass
class Clock:
    """Time of a search over interruptions: that of its trainings before, and that of this process.

    Attributes:
        limit_seconds: None for no limit.
        earlier_seconds: of trainings that an earlier process did.
    """

    limit_seconds: float | None
    earlier_seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time so far."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def has(self, seconds: float) -> bool:
        """True if so many seconds are left."""
        return self.limit_seconds is None or self.seconds + seconds <= self.limit_seconds


@dataclass(frozen=True)
class Found:
    """Trials of a search.

    Attributes:
        ended: why no further trial was begun, in words.
        scores: score of each complete trial, by its number; higher is better.
        images: of each split.
        seconds: of all trainings.
        confirmation_seconds: expected time of one pair of confirming trainings.
    """

    keys: Sequence[SearchKey]
    trials: Sequence[Trial]
    ended: str
    rungs: int
    scores: dict[int, float]
    images: dict[str, int]
    seconds: float
    clock: Clock
    confirmation_seconds: float

    @property
    def best(self) -> Trial:
        """Complete trial with the highest score; the first of equal ones."""
        number = max(self.scores, key=lambda number: (self.scores[number], -number))
        return self.trials[number]


@dataclass
class Search:
    """Search of a recipe's settings on validation images."""

    tuned: TunedRecipe
    keys: Sequence[SearchKey]
    trainings: SearchTrainings
    request: TuneRequest
    _trials: list[Trial] = field(default_factory=list, init=False)
    _scores: dict[int, float] = field(default_factory=dict, init=False)
    _paces: list[float] = field(default_factory=list, init=False)  # seconds of an epoch, or of a solved head
    _seen: set[str] = field(default_factory=set, init=False)
    _seconds: float = field(default=0.0, init=False)

    def run(self) -> Found:
        """Trials until all are done, every setting was tried, or the time is over.

        Raises:
            InterruptedRunError: stopped and saved.
            RunStateError: the recipe's own values cannot be trained.
            ConfigError: the time limit leaves no time for a search.
        """
        default = self.tuned.default
        self.rungs = count_rungs(default)
        split = self.trainings.split(default)
        if not len(split.val):
            raise ConfigError(
                "settings are judged on validation images, and there are none. Give --set split.validation=0.1"
            )
        for note in split.notes:
            logger.info(note)
        self.clock = Clock(self.request.time_limit_seconds)
        self.study = Study(self.keys, self.rungs, self.request.trials, self.request.seed)
        if self.rungs > 1:
            epochs = [epochs_in_steps(shortened(default, share(rung, self.rungs))) for rung in range(self.rungs)]
            shown = ", then ".join(map(str, epochs))
            logger.info(f"Each trial is trained for {shown} epochs, each time with its whole schedule.")
        ended = self._all()
        return Found(
            self.keys,
            self._trials,
            ended,
            self.rungs,
            self._scores,
            {name: len(split.rows(name)) for name in ("train", "val", "test")},
            self._seconds,
            self.clock,
            self._pair_seconds(),
        )

    def _all(self) -> str:
        """Run the trials; the reason why no other one was begun."""
        for number in range(self.request.trials):
            if self.study.is_exhaustive and number >= self._different:
                return f"every setting was tried ({counted(number, 'trial')})"
            if self.trainings.stop.received:
                raise self.trainings.interrupted()
            trial = self._trial(number)
            if trial is None:
                return f"the time limit of {duration(self.request.time_limit_seconds or 0)}"
            self._trials.append(trial)
            logger.info(self._line(trial))
            if number == 0:
                self._check_first(trial)
        return counted(self.request.trials, "trial")

    @property
    def _different(self) -> int:
        """Number of settings of a small space, with the recipe's own."""
        return (self.study.settings or 0) + (not self.study.includes_defaults)

    def _trial(self, number: int) -> Trial | None:
        """One trial, from rung to rung; None if the time is over before its end."""
        is_default, drawn = number == 0, number > 0 or self.study.includes_defaults
        settings: Settings = self.study.ask(number) if drawn else {}
        same = next((trial.number for trial in self._trials if trial.settings == settings), None)
        rungs: list[TrialRung] = []
        last: float | None = None
        for rung in range(self.rungs):
            try:
                whole = self.tuned.default if is_default else self.tuned.with_settings(settings)
                trained = self._trained(shortened(whole, share(rung, self.rungs)), always=is_default)
            except (ConfigError, NotEnoughMemoryError) as error:
                return self._failed(number, settings, rungs, str(error), drawn=drawn)
            if trained is None:
                return None
            last = self._score(trained)
            if last is None:
                return self._failed(number, settings, rungs, trained.why or "no validation metric", drawn=drawn)
            rungs.append(self._rung(rung, trained, 0.0 if same is not None else trained.seconds))
            if drawn and self.study.is_given_up(rung, last, spared=is_default):
                self.study.tell(None)
                return Trial(number=number, settings=settings, state="given up", rungs=tuple(rungs), same_as=same)
        assert last is not None
        if drawn:
            self.study.tell(last)
        self._scores[number] = last
        return Trial(number=number, settings=settings, state="complete", rungs=tuple(rungs), same_as=same)

    def _failed(
        self, number: int, settings: Settings, rungs: Sequence[TrialRung], why: str, *, drawn: bool = True
    ) -> Trial:
        if drawn:
            self.study.tell(None)
        return Trial(number=number, settings=settings, state="failed", rungs=tuple(rungs), why=why)

    def _trained(self, recipe: ResolvedRecipe, *, always: bool) -> Trained | None:
        """Figures of a training; None if there is no time for it, unless it is to be done in any case."""
        known = self.trainings.is_known(recipe)
        epochs = max(1, epochs_in_steps(recipe))
        if not (known or always) and self._paces and not self.clock.has(epochs * max(self._paces) + self._reserved()):
            return None
        trained = self.trainings.of(recipe)
        key = recipe.model_dump_json()
        if key not in self._seen:
            self._seen.add(key)
            self._seconds += trained.seconds
            self.clock.earlier_seconds += trained.seconds if known else 0.0
            if trained.row:
                self._paces.append(trained.seconds / epochs)
        return trained

    def _pair_seconds(self) -> float:
        """Expected time of the recipe's own values and the best settings, trained for one seed."""
        pace = sum(self._paces) / len(self._paces) if self._paces else 0.0
        return 2 * (max(1, epochs_in_steps(self.tuned.default)) * pace + RUN_SECONDS)

    def _reserved(self) -> float:
        """Time kept for the confirmation."""
        return self.request.confirm * self._pair_seconds()

    def _check_first(self, trial: Trial) -> None:
        """Check that the recipe's own values can be trained, and that the limit leaves time for others."""
        if trial.state == "failed":
            raise RunStateError(f"the recipe's own values cannot be trained: {trial.why}")
        limit, reserved = self.request.time_limit_seconds, self._reserved()
        if limit is not None and reserved and not self.clock.has(reserved):
            least = 60 * (1 + int((self.clock.seconds + 1.5 * reserved) // 60))
            raise ConfigError(
                f"--time-limit {duration(limit)}: the first trial took {duration(self.clock.seconds)}, and confirming "
                f"with {counted(self.request.confirm, 'seed')} takes about {duration(reserved)}, so that no time is "
                f"left to search. Give --time-limit {least // 60}m or more, or a smaller --confirm."
            )
        if reserved:
            logger.info(
                f"The confirmation with {counted(self.request.confirm, 'other seed')} of the recipe's own values and "
                f"of the best takes about {duration(reserved)}."
            )

    def _score(self, trained: Trained) -> float | None:
        """Score of a training, higher is better; None if it failed."""
        monitor = self.tuned.default.monitor
        if trained.row.get(monitor) is None:
            return None
        return score(trained.row, monitor, monitor in LOWER_IS_BETTER)

    def _rung(self, rung: int, trained: Trained, seconds: float) -> TrialRung:
        value = trained.row[self.tuned.default.monitor]
        assert value is not None
        return TrialRung(
            share=share(rung, self.rungs),
            epochs=trained.epochs,
            value=value,
            accuracy=trained.row["val_accuracy"],
            losses=trained.losses,
            accuracies=trained.accuracies,
            seconds=seconds,
        )

    def _line(self, trial: Trial) -> str:
        """One trial in one line."""
        settings = ", ".join(f"{key}={value}" for key, value in trial.settings.items())
        shown = "the recipe's own values" if trial.number == 0 else settings
        head = f"trial {trial.number + 1}/{self.request.trials}   {shown}"
        if trial.same_as is not None:
            shown = f"the same as trial {trial.same_as + 1}"
            return f"{head}   {shown}"
        if trial.state == "failed":
            return f"{head}   failed: {trial.why}"
        last = trial.rungs[-1]
        seconds = duration(sum(rung.seconds for rung in trial.rungs))
        parts = [head, f"{self.tuned.default.monitor} {last.value:.4f}"]
        if trial.state == "given up":
            parts.append(f"given up after {counted(last.epochs, 'epoch')}")
        is_best = trial.state == "complete" and self._scores[trial.number] >= max(self._scores.values())
        return "   ".join([*parts, seconds, *(["best"] if is_best else [])])
