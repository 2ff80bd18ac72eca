"""Request for a comparison: recipes, seeds, folds and settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.config.recipe import Recipe
from loupe.errors import ConfigError, enumerated
from loupe.log import command_line


def argument_of(recipe: str | Recipe) -> str:
    """Recipe as an argument of `--recipes`: one that is a value is in a file of its name."""
    return f"{recipe.name}.yaml" if isinstance(recipe, Recipe) else recipe


@dataclass(frozen=True)
class ComparisonRequest:
    """Recipes to compare, and how to train each.

    Attributes:
        recipes: names, YAML files or recipes; empty for the ladder of recipes.
        model, weights: network and weights for the recipes with a pretrained network.
        seeds: trainings of each recipe, all on the same split.
        folds: number of cross-validation folds, at least 2; 0 for no cross-validation.
        settings: values of recipe keys as KEY=VALUE, for every recipe.
        open_test: evaluate every candidate on the test images, not only the chosen one.
        read: options of the command line with which a list of images is read.
    """

    recipes: tuple[str | Recipe, ...] = ()
    model: str | None = None
    weights: str | None = None
    seeds: int = 1
    folds: int = 0
    settings: tuple[str, ...] = ()
    open_test: bool = False
    read: tuple[str, ...] = ()

    @property
    def trainings_each(self) -> int:
        """Number of trainings of each recipe."""
        return self.seeds * max(1, self.folds)

    def check(self) -> None:
        """Check that the request is a comparison.

        Raises:
            ConfigError: a single recipe, a recipe that is named twice, or options that exclude each other.
        """
        names = [argument_of(one) for one in self.recipes]
        twice = sorted({one for one in names if names.count(one) > 1})
        if twice:
            raise ConfigError(f"--recipes names {enumerated(twice)} twice. Name each recipe once.")
        if len(self.recipes) == 1:
            raise ConfigError(
                f"--recipes {names[0]}: a comparison needs at least two recipes. Separate their names by commas."
            )
        if self.folds and (self.folds < 2 or self.seeds > 1 or self.open_test):
            raise ConfigError(
                f"--folds {self.folds}: give 2 or more folds, and neither --seeds nor --open-test with them."
            )

    def command(self, names: Sequence[str], *, skip_damaged: bool) -> str:
        """Command that repeats the comparison, with DATA for the data and the bare name of a weights file."""
        model, weights = self.model, self.weights
        words = ["loupe", "compare", "DATA", *self.read, "--recipes", ",".join(names)]
        words += ["--model", model] if model else []
        words += ["--weights", Path(weights).name if Path(weights).exists() else weights] if weights else []
        words += ["--folds", str(self.folds)] if self.folds else ["--seeds", str(self.seeds)]
        words += [part for setting in self.settings for part in ("--set", setting)]
        words += ["--skip-damaged"] if skip_damaged else []
        return command_line([*words, *(["--open-test"] if self.open_test else [])])
