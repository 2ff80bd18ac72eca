"""Study of a search in Optuna (extra `tune`): which settings are tried next, and which are given up.

The tree-structured Parzen estimator (Bergstra et al. 2011) draws settings, Hyperband (Li et al. 2018) gives up the
worse ones at each rung. The sampler of trial n is seeded by (seed, n) alone, and after an interruption the study is
told the same figures in the same order. So trial n depends on the seed and the trials before it, and on nothing else.
"""

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loupe.errors import LoupeError
from loupe.tuning.rungs import FACTOR
from loupe.tuning.space import SearchKey, Settings

if TYPE_CHECKING:
    import optuna

NAME = "loupe"  # Hyperband draws the bracket of a trial from the name of the study and the number of the trial
STARTUP_TRIALS = 5  # of a bracket, drawn at random before the estimator has something to go by
PERMUTATIONS = 39
LEAST_TRIALS = 10  # for the importance of keys
TREES = 12


def check_installed() -> str:
    """Version of Optuna.

    Raises:
        LoupeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise LoupeError("loupe tune needs optuna. Install it with: pip install optuna") from None
    return str(optuna.__version__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its log lines and its warnings; other users of Optuna in this process keep theirs."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass
class Study:
    """Trials of a search, asked for and told one after the other; higher scores are better.

    Attributes:
        space: keys and their values.
        rungs: number of rungs; with 1, nothing is given up.
        trials: number of trials that are planned. If the space has no more settings, each is tried once.
        seed: seed of the search.
    """

    space: Sequence[SearchKey]
    rungs: int
    trials: int
    seed: int
    _study: "optuna.Study" = field(init=False)
    _trial: "optuna.Trial | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        import optuna

        with _quiet():
            pruner: optuna.pruners.BasePruner = (
                optuna.pruners.HyperbandPruner(
                    min_resource=1, max_resource=FACTOR ** (self.rungs - 1), reduction_factor=FACTOR
                )
                if self.rungs > 1
                else optuna.pruners.NopPruner()
            )
            self._study = optuna.create_study(study_name=NAME, direction="maximize", pruner=pruner)
            self._distributions = {one.key: _distribution(one) for one in self.space}
            for params in self._first():
                self._study.enqueue_trial(params)

    @property
    def is_exhaustive(self) -> bool:
        """True if the space has so few settings that each is tried once."""
        return self.settings is not None and self.settings <= self.trials

    @property
    def settings(self) -> int | None:
        """Number of different settings; None for infinitely many."""
        counts = [one.values for one in self.space]
        known = [count for count in counts if count is not None]
        return int(np.prod(known, dtype=object)) if len(known) == len(counts) else None

    @property
    def includes_defaults(self) -> bool:
        """True if the recipe's own values are in the space, so that the search learns from them too."""
        return all(one.default_value is not None for one in self.space)

    def _first(self) -> list[Settings]:
        """Settings that come first: the recipe's own, and in a small space all others in an order drawn by the seed."""
        own = {one.key: value for one in self.space if (value := one.default_value) is not None}
        first = [own] if self.includes_defaults else []
        if not self.is_exhaustive:
            return first
        keys = [one.key for one in self.space]
        others = [dict(zip(keys, values, strict=True)) for values in itertools.product(*(k.every for k in self.space))]
        others = [one for one in others if one not in first]
        order = np.random.default_rng(_seed(self.seed, 0)).permutation(len(others))
        return [*first, *(others[number] for number in order)]

    def ask(self, number: int) -> Settings:
        """Settings of trial `number`; all before it have been told."""
        import optuna

        with _quiet():
            self._study.sampler = optuna.samplers.TPESampler(
                seed=_seed(self.seed, number), n_startup_trials=STARTUP_TRIALS
            )
            self._trial = self._study.ask(self._distributions)
            drawn = self._trial.params
        return {one.key: drawn[one.key] if one.choices else one.used(drawn[one.key]) for one in self.space}

    def is_given_up(self, rung: int, score: float, *, spared: bool = False) -> bool:
        """True if the present trial ends at a rung, from 0, at which it has this score.

        Args:
            spared: the trial goes on whatever its score, as that of the recipe's own values does.
        """
        assert self._trial is not None
        with _quiet():
            self._trial.report(score, FACTOR**rung)
            return rung < self.rungs - 1 and self._trial.should_prune() and not spared

    def tell(self, score: float | None) -> None:
        """End the present trial with its score; None for one that was given up or has failed."""
        import optuna

        assert self._trial is not None
        with _quiet():
            if score is None:
                self._study.tell(self._trial, state=optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(self._trial, score)
        self._trial = None


@dataclass(frozen=True)
class KeyImportance:
    """Share of the variance of the scores that one key explains, and its p-value.

    Attributes:
        share: of the variance that all keys explain.
        p: share of random permutations of the scores in which the key has at least that share.
    """

    share: float
    p: float


def importances(
    space: Sequence[SearchKey], settings: Sequence[Settings], scores: Sequence[float], seed: int
) -> dict[str, KeyImportance] | None:
    """Importance of each key by fANOVA (Hutter et al. 2014), with a test by permutation of the scores.

    fANOVA divides the variance of any scores among the keys, also that of noise. The p-value tells whether a key has
    more of it than it would have by chance.

    Returns:
        None with fewer than `LEAST_TRIALS` trials, or equal scores.
    """
    if len(scores) < LEAST_TRIALS or len({*scores}) < 2 or len(space) < 2:
        return None
    own = _shares(space, settings, scores, seed)
    generator = np.random.default_rng(_seed(seed, len(scores)))
    more = dict.fromkeys(own, 0)
    for _ in range(PERMUTATIONS):
        chance = _shares(space, settings, generator.permutation(np.asarray(scores)).tolist(), seed)
        for key in own:
            more[key] += chance[key] >= own[key]
    return {key: KeyImportance(own[key], (1 + more[key]) / (1 + PERMUTATIONS)) for key in own}


def _shares(
    space: Sequence[SearchKey], settings: Sequence[Settings], scores: Sequence[float], seed: int
) -> dict[str, float]:
    import optuna

    with _quiet():
        distributions = {one.key: _distribution(one) for one in space}
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(params=dict(params), distributions=distributions, value=score)
                for params, score in zip(settings, scores, strict=True)
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed % 2**31)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {one.key: float(found.get(one.key, 0.0)) for one in space}


def _distribution(one: SearchKey) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:
        return CategoricalDistribution(one.choices)
    assert one.low is not None and one.high is not None
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.is_log)
    return FloatDistribution(one.low, one.high, log=one.is_log)


def _seed(seed: int, number: int) -> int:
    """Seed of a trial: 32 bits of a hash, so that neighbouring trials draw independently."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def score(row: Mapping[str, Any], monitor: str, lower_is_better: bool) -> float:
    """Score of a training: its monitored metric, higher is better; of equal accuracies, the lower loss is better."""
    value = float(row[monitor])
    if lower_is_better:
        return -value
    loss = row["val_loss"]
    return value if loss is None else value - 1e-6 * loss / (1 + loss)
