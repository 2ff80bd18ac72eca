"""Recipe of a search: with its own values and with those of any trial, resolved for the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.config.network import BackboneSpec
from loupe.config.recipe import SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.errors import ConfigError
from loupe.log import terminal
from loupe.models.at_hand import weights_at_hand
from loupe.models.pretrained import check_weights
from loupe.recipes import catalog
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable
from loupe.tuning import space
from loupe.tuning.request import TuneRequest
from loupe.tuning.space import SearchKey, Settings
from loupe.tuning.spaces import default_space


@dataclass(frozen=True)
class TunedRecipe:
    """Recipe of a search.

    Attributes:
        default: the recipe with its own values. Its split has the seed of the search, whatever seed a training has.
        argument: name or file of the recipe.
        own_split: split settings of the recipe itself.
    """

    default: ResolvedRecipe
    argument: str
    own_split: SplitSpec
    request: TuneRequest
    dataset: Dataset

    @classmethod
    def of(cls, request: TuneRequest, dataset: Dataset) -> "TunedRecipe":
        """Recipe as it was asked for, or chosen by the images.

        Raises:
            ConfigError: an unknown recipe or setting, or none that can be named.
        """
        first = _resolved(request.recipe, dataset, request, [])
        argument = request.recipe if request.recipe not in {None, "auto"} else first.name
        assert argument is not None
        if argument not in catalog.RECIPES and Path(argument).suffix not in {".yaml", ".yml"}:
            raise ConfigError(f"recipe {argument} was chosen, which has no name here. Give --recipe.")
        check_buildable(first, dataset.table.classes)
        check_weights(first.model)
        return cls(_split_by_search(first), argument, first.split, request, dataset)

    def with_settings(self, values: Settings) -> ResolvedRecipe:
        """Recipe with values of the search, checked before any training.

        Raises:
            LoupeError: it cannot be trained with them.
        """
        settings = space.to_settings(values, self.default)
        with terminal(quiet=True):
            recipe = _split_by_search(_resolved(self.argument, self.dataset, self.request, settings))
            check_buildable(recipe, self.dataset.table.classes)
            if recipe.model != self.default.model:
                check_weights(recipe.model)
        return recipe

    def space(self, texts: Sequence[str]) -> tuple[SearchKey, ...]:
        """Search space as given, or the recipe's own.

        Raises:
            ConfigError: an unknown key, or a value that cannot be used.
        """
        keys = space.parse(texts or self._own_space(), self.default)
        space.check(keys, self.with_settings)
        return keys

    def _own_space(self) -> tuple[str, ...]:
        """Search space of the recipe, with the backbones at hand for a solved head, unless one was asked for."""
        is_open = self.request.model is None and self.request.weights is None
        is_solved = isinstance(self.default.model, BackboneSpec) and all(s.is_solved for s in self.default.stages)
        return default_space(self.default, [one.backbone for one in weights_at_hand()] if is_open and is_solved else [])

    def best(self, values: Settings) -> ResolvedRecipe:
        """Recipe with the best values, to be trained again: with its own split settings, and a name of its own."""
        changes = {
            "name": f"{self.default.name}-tuned",
            "description": f"{self.default.name} with settings found by loupe tune on {self.dataset.name}.",
            "experiment": None,
            "split": self.own_split,
        }
        return self.with_settings(values).model_copy(update=changes)


def _resolved(wanted: str | None, dataset: Dataset, request: TuneRequest, settings: Sequence[str]) -> ResolvedRecipe:
    return resolve(
        wanted,
        dataset,
        model=request.model,
        weights=request.weights,
        flags={"seed": request.seed},
        extra=[*request.settings, *settings],
    )


def _split_by_search(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe with a split that does not depend on the seed of a training."""
    split = recipe.split.model_copy(update={"seed": recipe.split_seed})
    return recipe.model_copy(update={"split": split})
