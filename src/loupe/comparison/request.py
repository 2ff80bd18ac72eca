"""What a comparison was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.errors import ConfigError
from loupe.log import command_line


@dataclass(frozen=True)
class ComparisonRequest:
    """Recipes to compare, and how each is trained.

    Attributes:
        recipes: names or YAML files; none stands for the ladder from scratch to the whole pretrained network.
        model, weights: of the recipes that start from a pretrained network.
        seeds: trainings of each recipe on one and the same split.
        folds: 2 or more cross-validate each recipe instead; 0 does not.
        settings: keys of the recipes as KEY=VALUE, for every recipe.
        open_test: open the test images for every candidate, not for the chosen one alone.
    """

    recipes: tuple[str, ...] = ()
    model: str | None = None
    weights: str | None = None
    seeds: int = 1
    folds: int = 0
    settings: tuple[str, ...] = ()
    open_test: bool = False

    @property
    def trainings_each(self) -> int:
        """Trainings of each recipe."""
        return self.seeds * max(1, self.folds)

    def check(self) -> None:
        """Check that there is something to compare.

        Raises:
            ConfigError: there is not; the message says what to change.
        """
        twice = sorted({one for one in self.recipes if self.recipes.count(one) > 1})
        if twice:
            raise ConfigError(f"--recipes names {', '.join(twice)} twice.")
        if len(self.recipes) == 1:
            raise ConfigError(
                f"--recipes {self.recipes[0]}: one recipe has nothing beside it. Name two, separated by commas."
            )
        if self.folds and (self.folds < 2 or self.seeds > 1 or self.open_test):
            raise ConfigError("--folds is 2 or more, and goes with neither --seeds nor --open-test.")

    def command(self, names: Sequence[str], *, skip_damaged: bool) -> str:
        """The command that repeats the comparison; the place of the data and of a weights file is left to its user."""
        model, weights = self.model, self.weights
        words = ["loupe", "compare", "DATA", "--recipes", ",".join(names)]
        words += ["--model", model] if model else []
        words += ["--weights", Path(weights).name if Path(weights).exists() else weights] if weights else []
        words += ["--folds", str(self.folds)] if self.folds else ["--seeds", str(self.seeds)]
        words += [part for setting in self.settings for part in ("--set", setting)]
        words += ["--skip-damaged"] if skip_damaged else []
        return command_line([*words, *(["--open-test"] if self.open_test else [])])
