"""Trainings that a comparison needs, and their runner: in this process, one after the other, or another one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from loupe.comparison import sweep
from loupe.config.recipe import Recipe
from loupe.data.dataset import Dataset
from loupe.data.splits import split as splits
from loupe.errors import ConfigError, DivergedError, InterruptedRunError, LoupeError
from loupe.log import logger
from loupe.ranks import current
from loupe.runs.options import RunOptions
from loupe.runs.run import Run
from loupe.runs.train import Splitter

OF_EVERY_RANK = (ConfigError, DivergedError)  # they follow from the recipe and from sums over all ranks


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        dataset: images.
        recipe: recipe with its seed.
        name: name of the run.
        split: function that splits the images.
        open_test: evaluate the test images of a new run.
        heading: line that announces it; empty for none.
        seconds: expected time; NaN if unknown.
    """

    dataset: Dataset
    recipe: Recipe
    name: str
    split: Splitter = splits.assign
    open_test: bool = True
    heading: str = ""
    seconds: float = math.nan

    def finished(self, options: RunOptions) -> Run | None:
        """Its run if it is finished.

        Raises:
            RunStateError: a run of that name has another recipe, other data or other images.
        """
        return sweep.finished_run(self.dataset, self.recipe, self.name, options)

    def run(self, options: RunOptions) -> Run:
        """Its run: read if it is finished, resumed if it was interrupted, else trained.

        Raises:
            LoupeError: as for `loupe.train`.
        """
        return sweep.train_or_open(
            self.dataset, self.recipe, self.name, options, split=self.split, open_test=self.open_test
        )


class TrainingRunner(Protocol):
    """Place where trainings run."""

    def announce(self, trainings: Sequence[Training], options: RunOptions) -> None:
        """Check the place before the first training, and log the place of each training and the expected time.

        Raises:
            LoupeError: the trainings cannot run there.
        """

    def run(
        self, groups: Sequence[Sequence[Training]], options: RunOptions
    ) -> Iterator[tuple[int, list[Run] | LoupeError]]:
        """Number of each group as it ends, with its runs, or with the error of the first of them that failed.

        Raises:
            InterruptedRunError: stopped and saved; the same call resumes.
        """


class InTurn:
    """Trainings in this process, one after the other."""

    def announce(self, trainings: Sequence[Training], options: RunOptions) -> None:
        """Nothing to check, and nothing to add to the plan."""

    def run(
        self, groups: Sequence[Sequence[Training]], options: RunOptions
    ) -> Iterator[tuple[int, list[Run] | LoupeError]]:
        """Each group after the one before; a training that fails ends its group.

        Of several ranks, one alone may fail, while the others wait for it. Only after an error that every rank raises
        does the next training begin; any other one ends this rank, and with it the command.
        """
        for number, group in enumerate(groups):
            runs: list[Run] = []
            try:
                for training in group:
                    if training.heading:
                        logger.info(training.heading)
                    runs.append(training.run(options))
            except InterruptedRunError as stopped:
                raise interrupted(stopped.signal_number) from None
            except LoupeError as error:
                if not (current().alone or error.everywhere or isinstance(error, OF_EVERY_RANK)):
                    raise
                yield number, error
            else:
                yield number, runs


def interrupted(signal_number: int) -> InterruptedRunError:
    """Error of a command whose trainings were stopped and saved."""
    return InterruptedRunError("stopped and saved. To resume, give the same command again.", signal_number)
