"""History of a training: rows of metrics.csv, one for each epoch or L2 strength, and the stages that they make up."""

import csv
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

from loupe.config.recipe import Recipe, Stage
from loupe.errors import LoupeError, RunStateError
from loupe.records import Part, Quantity, Seconds, Whole
from loupe.rundir import RunDirectory

LOWER_IS_BETTER = frozenset({"val_loss", "val_objective"})
MACRO_F1 = "val_macro_f1"
NORMAL_95 = 1.96  # standard errors
Count = Whole | Quantity  # means over several runs need not be whole
Row = dict[str, float | None]


class StageResult(Part):
    """One stage of a training.

    Attributes:
        part: part of the network that was trained.
        epochs: epochs of a stage that was trained in steps; None for a solved head, which has none.
        strengths: L2 strengths that a solved head was tried with; None for a stage that was trained in steps.
        l2_strength: the one of them that was selected.
        seconds: time of the stage, with its validation.
    """

    part: str
    epochs: Count | None = None
    strengths: Count | None = None
    l2_strength: Quantity | None = None
    seconds: Seconds

    @property
    def rows(self) -> float:
        """Rows of metrics.csv."""
        return (self.epochs or 0) + (self.strengths or 0)


def best_row(rows: Sequence[Mapping[str, Any]], monitor: str) -> int:
    """Row with the best monitored metric, from 0; the last one without validation.

    Of rows with the same metric, as accuracy on few images often has, the one with the lowest validation loss.
    """
    sign = -1.0 if monitor in LOWER_IS_BETTER else 1.0
    measured = [number for number, row in enumerate(rows) if row[monitor] is not None]
    if not measured:
        return len(rows) - 1
    return max(measured, key=lambda number: (sign * rows[number][monitor], -rows[number]["val_loss"], -number))


def selected_strength(rows: Sequence[Mapping[str, Any]], stage: Stage, monitor: str) -> int:
    """Selected row of a solved head, from 0.

    By the lowest validation loss where the series of strengths goes on by itself, unless `monitor` is macro-F1:
    accuracy is too coarse to end it by. A named number of strengths is chosen among as epochs are, by `monitor`.
    """
    return best_row(rows, "val_loss" if stage.is_open and monitor != MACRO_F1 else monitor)


def strength_losses(rows: Sequence[Mapping[str, Any]], monitor: str) -> list[tuple[float, float]]:
    """L2 strengths of a series that goes on by itself, each with what is to be low: log loss, or 1 - macro-F1."""
    of_f1 = monitor == MACRO_F1
    return [(row["l2_strength"], 1 - row[MACRO_F1] if of_f1 else row["val_loss"]) for row in rows]


def best_epoch(history: Sequence[Mapping[str, Any]], stages: Sequence[Stage], monitor: str) -> int:
    """Row with the best monitored metric over all stages, from 0, as `best_row`.

    Of a solved head whose series of strengths goes on by itself, only the selected row counts.
    """
    rivals: list[int] = []
    for number, stage in enumerate(stages):
        of_stage = [place for place, row in enumerate(history) if row["stage"] == number + 1]
        if stage.is_open and of_stage:
            of_stage = [of_stage[selected_strength([history[place] for place in of_stage], stage, monitor)]]
        rivals += of_stage
    return rivals[best_row([history[place] for place in rivals], monitor)]


def beats_last(history: Sequence[Mapping[str, Any]], epoch: int, images: int) -> bool:
    """True if an epoch, from 1, is more accurate than the last one by more than chance.

    That is, by more than 1.96 standard errors of the difference of two proportions. Of the same images the error is
    smaller, so that the last epoch is preferred.

    Args:
        images: number of validation images.
    """
    one, last = history[epoch - 1]["val_accuracy"], history[-1]["val_accuracy"]
    if one is None or last is None or not images:
        return False
    return bool(one - last > NORMAL_95 * math.sqrt((one * (1 - one) + last * (1 - last)) / images))


def stage_results(history: Sequence[Mapping[str, Any]], recipe: Recipe) -> tuple[StageResult, ...]:
    """Stages of a recipe, as far as the history goes."""
    results = []
    for number, stage in enumerate(recipe.stages):
        rows = [row for row in history if row["stage"] == number + 1]
        if not rows:
            break
        seconds = round(sum(row["seconds"] for row in rows), 3)
        if stage.is_solved:
            row = selected_strength(rows, stage, recipe.monitor)
            selected = rows[row]["l2_strength"] if stage.is_open else stage.l2_strength(row)
            results.append(StageResult(part=stage.part, strengths=len(rows), l2_strength=selected, seconds=seconds))
        else:
            results.append(StageResult(part=stage.part, epochs=len(rows), seconds=seconds))
    return tuple(results)


def read_history(run: RunDirectory) -> list[Row]:
    """Rows of metrics.csv; None stands for what was not measured or is not finite.

    The file of an earlier version has no L2 strengths: they come from the recipe, where it can be read.

    Raises:
        RunStateError: a cell is not a number.
    """
    path = run.file("metrics.csv")
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: _finite(text) for name, text in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunStateError(f"{path}: cannot be read as the history of a run: {error}.") from None
    if rows and "l2_strength" not in rows[0]:
        with suppress(LoupeError, OSError):
            _add_strengths(rows, run.read_recipe())
    return rows


def _finite(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _add_strengths(rows: Sequence[Row], recipe: Recipe) -> None:
    for number, stage in enumerate(recipe.stages):
        solved = [row for row in rows if row.get("stage") == number + 1] if stage.is_solved else []
        for index, row in enumerate([] if stage.is_open else solved[: stage.planned_epochs]):
            row["l2_strength"] = stage.l2_strength(index)


def kept_row(history: Sequence[Row], row: int | None) -> Row:
    """Row of the weights that were kept, from 1, or the last one; empty if there is none."""
    number = row or len(history)
    return history[number - 1] if 0 < number <= len(history) else {}


def strength_of(row: Row) -> float | None:
    """L2 strength of a row; None for an epoch, and for a value that no axis can show."""
    strength = row.get("l2_strength")
    return strength if strength is not None and 1e-200 < strength < 1e200 else None


def read_stages(run: RunDirectory) -> tuple[StageResult, ...]:
    """Stages of a run, from metrics.csv and its recipe; none where these cannot be read."""
    with suppress(LoupeError, OSError, LookupError, TypeError, ValueError):
        return stage_results(read_history(run), run.read_recipe())
    return ()


def over_runs(runs: Sequence[tuple[StageResult, ...]]) -> tuple[StageResult, ...]:
    """Means over runs of one recipe; the selected strength where all runs selected the same one."""
    if len({len(stages) for stages in runs}) != 1:
        return ()
    return tuple(_mean(together) for together in zip(*runs, strict=True))


def _mean(stages: Sequence[StageResult]) -> StageResult:
    epochs = [stage.epochs for stage in stages if stage.epochs is not None]
    strengths = [stage.strengths for stage in stages if stage.strengths is not None]
    selected = {stage.l2_strength for stage in stages}
    return StageResult(
        part=stages[0].part,
        epochs=fmean(epochs) if epochs else None,
        strengths=fmean(strengths) if strengths else None,
        l2_strength=selected.pop() if len(selected) == 1 else None,
        seconds=fmean(stage.seconds for stage in stages),
    )
