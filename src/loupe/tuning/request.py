"""Request for a search: what is searched, for how long, and the command that repeats it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.errors import ConfigError
from loupe.log import command_line

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)?")


@dataclass(frozen=True)
class TuneRequest:
    """Search as it was asked for.

    Attributes:
        recipe: name or YAML file; None to choose by the images.
        model, weights: network and weights, as for `loupe.train`.
        search: keys with their values; empty for the recipe's own space.
        settings: values of recipe keys as KEY=VALUE, in every trial.
        trials: number of trials, with that of the recipe's own values.
        time_limit_seconds: of search and confirmation together; None for no limit.
        confirm: number of other seeds that the best settings are confirmed with.
        seed: seed of the split, the trainings and the search.
        read: options of the command line with which a list of images is read.
        skip_damaged: leave damaged images out.
    """

    recipe: str | None
    model: str | None
    weights: str | None
    search: tuple[str, ...]
    settings: tuple[str, ...]
    trials: int
    time_limit_seconds: float | None
    confirm: int
    seed: int
    read: tuple[str, ...] = ()
    skip_damaged: bool = False

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of range.
        """
        if self.trials < 2:
            raise ConfigError(f"--trials {self.trials}: a search needs at least 2 trials; the first has the defaults.")
        if any(one.partition("=")[0].strip() == "seed" for one in self.settings):
            raise ConfigError("--set seed: give the seed of a search with --seed.")
        if self.confirm < 0:
            raise ConfigError(f"--confirm {self.confirm}: give a number of seeds, or 0 for no confirmation.")
        if self.time_limit_seconds is not None and not self.time_limit_seconds > 0:
            raise ConfigError("--time-limit: give a time above 0, for example 20m.")

    def words(self, recipe: str, search: Sequence[str]) -> list[str]:
        """Words of the command that decide which trials there are; DATA stands for the data.

        Args:
            recipe: name or file of the recipe.
            search: space with all its keys.
        """
        words = ["loupe", "tune", "DATA", *self.read, "--recipe", recipe]
        words += ["--model", self.model] if self.model else []
        weights = self.weights
        words += ["--weights", Path(weights).name if Path(weights).exists() else weights] if weights else []
        words += [part for one in search for part in ("--search", one)]
        words += [part for one in self.settings for part in ("--set", one)]
        words += ["--seed", str(self.seed)]
        return [*words, *(["--skip-damaged"] if self.skip_damaged else [])]

    def command(self, recipe: str, search: Sequence[str]) -> str:
        """Command that repeats the search."""
        words = [*self.words(recipe, search), "--trials", str(self.trials), "--confirm", str(self.confirm)]
        if self.time_limit_seconds is not None:
            words += ["--time-limit", f"{self.time_limit_seconds:g}s"]
        return command_line(words)


def seconds_in(text: str | float) -> float:
    """Seconds of a time such as `20m`, `90s`, `1.5h` or `1h 30m`; a number alone is in seconds.

    Raises:
        ConfigError: it is no such time.
    """
    if isinstance(text, int | float):
        return float(text)
    parts = LIMIT.findall(text)
    if not parts or LIMIT.sub("", text).strip() or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise ConfigError(f"--time-limit {text!r}: give a time such as 90s, 20m or 1h30m.")
    return sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
