"""Recommended changes of a recipe, as `--set` takes them: never one that is set already, nor one that cannot help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loupe.config import optimizer
from loupe.config.network import CnnSpec
from loupe.config.optimizer import Cosine, Logistic, OneCycle, Sgd
from loupe.config.recipe import AugmentSpec, Recipe, Stage

LOWEST_LR, HIGHEST_LR = 1e-7, 10.0
MOST_WEIGHT_DECAY = 0.3
WEAKEST, STRONGEST = 1e-9, 1e8  # L2 strengths beyond which no range is advised


@dataclass(frozen=True)
class Advice:
    """Changes for the last stage of a recipe.

    Attributes:
        recipe: recipe of the run.
        number: number of the stage, from 0.
        blocks: number of blocks of the trunk; `last-N` names at most all but one.
        ends_best: the epoch that was kept is the last one; only then can more epochs help.
    """

    recipe: Recipe
    number: int
    blocks: int
    ends_best: bool

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.number]

    @property
    def key(self) -> str:
        return f"stages.{self.number}"

    def more_epochs(self, factor: int = 2) -> tuple[str, ...]:
        """Settings: a multiple of the epochs, if the best epoch is the last one."""
        return (f"{self.key}.epochs={factor * self.stage.epochs}",) if self.ends_best else ()

    def validation_images(self) -> tuple[str, ...]:
        """Settings: a validation split, if the recipe asks for none."""
        return () if self.recipe.split.validation else ("split.validation=0.1",)

    def other_rate(self) -> tuple[str, ...]:
        """Settings: a learning rate towards the usual ones, lower if it is one of them."""
        usual = 1e-2 if isinstance(self.stage.optimizer, Sgd) else 1e-3
        rate = self.stage.lr / 10 if self.stage.lr >= usual else self.stage.lr * 10
        return (f"{self.key}.lr={rate:.2g}",) if LOWEST_LR <= rate <= HIGHEST_LR else ()

    def steadier(self) -> tuple[str, ...]:
        """Settings: a lower learning rate, which also decays."""
        schedule = () if isinstance(self.stage.schedule, OneCycle | Cosine) else (f"{self.key}.schedule=one-cycle",)
        rate = self.stage.lr / 3
        return (*((f"{self.key}.lr={rate:.2g}",) if rate >= LOWEST_LR else ()), *schedule)

    def keep_best(self) -> tuple[str, ...]:
        """Settings: weights of the best epoch, if those of the last one are kept and the schedule does not anneal."""
        return ("keep=best",) if self.recipe.keep == "last" and not self.recipe.stages[-1].is_annealed else ()

    def more_regularisation(self) -> tuple[str, ...]:
        """Settings: weights of the best epoch; augmentation if there is none, else more dropout, else weight decay."""
        return self.keep_best() + self._regularise()

    def _regularise(self) -> tuple[str, ...]:
        stage, model = self.stage, self.recipe.model
        if stage.augment == AugmentSpec():  # shifts suit every kind of image; flips do not
            return tuple(f"{self.key}.augment.{change}" for change in ("width_shift=0.1", "height_shift=0.1"))
        if isinstance(model, CnnSpec):
            last = len(model.blocks) - 1
            dropout = model.blocks[last].dropout
            if dropout < 0.3:
                return (f"model.blocks.{last}.dropout={dropout + 0.2:.2g}",)
        decay = 3 * stage.weight_decay if stage.weight_decay else 1e-2
        return (f"{self.key}.weight_decay={decay:.2g}",) if decay <= MOST_WEIGHT_DECAY else ()

    def less_regularisation(self) -> tuple[str, ...]:
        """Settings: twice the epochs, and half of the highest dropout rate."""
        model = self.recipe.model
        rates = {f"model.hidden.{i}": layer.dropout for i, layer in enumerate(model.hidden)}
        if isinstance(model, CnnSpec):
            rates |= {f"model.blocks.{i}": block.dropout for i, block in enumerate(model.blocks)}
        strongest = max(rates, key=rates.__getitem__, default=None)
        halved = (f"{strongest}.dropout={rates[strongest] / 2:.2g}",) if strongest and rates[strongest] else ()
        return (*self.more_epochs(), *halved)

    def more_capacity(self) -> tuple[str, ...]:
        """Settings: one more trainable block or twice the filters of the last block; twice the epochs."""
        model = self.recipe.model
        if not isinstance(model, CnnSpec):
            whole = self.stage.part == "all"
            part = () if whole else (f"{self.key}.part={_one_more_block(self.stage.part, self.blocks)}",)
            return (*part, *self.more_epochs())
        last = len(model.blocks) - 1
        filters = [2 * number for number in model.blocks[last].filters]
        return (f"model.blocks.{last}.filters={filters}", *self.more_epochs())

    def wider_strengths(self, selected: int, strength_S: Sequence[float]) -> tuple[str, ...]:
        """Settings: a wider range of L2 strengths, where the selected one, from 0, is at a named end."""
        spec, strength = self.stage.optimizer, strength_S[selected]
        assert isinstance(spec, Logistic)
        usual = (None, None) if self.stage.is_open else (optimizer.STRONGEST, optimizer.WEAKEST)
        strongest, weakest = (given or end for given, end in zip((spec.strongest, spec.weakest), usual, strict=True))
        if len(strength_S) > 1 and weakest and math.isclose(strength, weakest) and weakest / 100 >= WEAKEST:
            return (f"{self.key}.optimizer.weakest={weakest / 100:g}",)
        if len(strength_S) > 1 and strongest and math.isclose(strength, strongest) and strongest * 100 <= STRONGEST:
            return (f"{self.key}.optimizer.strongest={strongest * 100:g}",)
        return ()


def _one_more_block(part: str, blocks: int) -> str:
    """Next larger trainable part: the head, the last block, the last two, and so on to all."""
    trainable = {"head": 0, "last-block": 1}.get(part)
    larger = (int(part.removeprefix("last-")) if trainable is None else trainable) + 1
    if larger >= blocks:
        return "all"
    return "last-block" if larger == 1 else f"last-{larger}"
