"""State of a training between two steps, and its texts in log and progress bar."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from loupe.config.optimizer import Logistic
from loupe.config.recipe import Stage
from loupe.log import duration
from loupe.training.schedules import strength

Row = dict[str, Any]
LOWER_IS_BETTER = frozenset({"val_loss", "val_objective"})


@dataclass
class TrainState:
    """State of a training. With weights, averaged weights and optimizer, it is all that a resumed run needs."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    step: int = 0  # finished steps of the epoch
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of loss and hits in the epoch so far
    seconds: float = 0.0  # spent on the epoch so far
    history: list[Row] = field(default_factory=list)
    best_epoch: int = 0  # from 1, over all stages; 0: none yet
    stopped: str | None = None  # reason for early stopping of the last stage

    @classmethod
    def of(cls, values: Any) -> "TrainState":
        """State from the plain values of a checkpoint.

        Raises:
            ValueError: values of another shape.
        """
        return TypeAdapter(cls).validate_python(values)

    def monitored(self, monitor: str, stage: int | None = None) -> list[float]:
        """Monitored metric after each epoch (of one stage); its sign is changed if lower is better."""
        sign = -1.0 if monitor in LOWER_IS_BETTER else 1.0
        return [sign * row[monitor] for row in self._rows(stage) if row[monitor] is not None]

    def best(self, monitor: str, stage: int | None = None) -> int:
        """Best epoch so far (of one stage), from 0; the last one without validation.

        Of epochs with the same metric, as accuracy on few images often has, the one with the lowest validation loss.
        """
        rows, sign = self._rows(stage), -1.0 if monitor in LOWER_IS_BETTER else 1.0
        measured = [number for number, row in enumerate(rows) if row[monitor] is not None]
        if not measured:
            return len(rows) - 1
        return max(measured, key=lambda number: (sign * rows[number][monitor], -rows[number]["val_loss"], -number))

    def _rows(self, stage: int | None) -> list[Row]:
        return [row for row in self.history if stage is None or row["stage"] == stage + 1]


class EpochTimer:
    """Time of an epoch over interruptions, and time since the last save within it.

    Attributes:
        before: seconds before the interruption.
    """

    def __init__(self, before: float) -> None:
        self.before = before
        self.began = self.saved = time.perf_counter()

    def total(self) -> float:
        """Seconds of the epoch so far."""
        return self.before + time.perf_counter() - self.began

    def due(self, every_seconds: float) -> bool:
        """True once in every `every_seconds`."""
        if time.perf_counter() - self.saved < every_seconds:
            return False
        self.saved = time.perf_counter()
        return True


def progress_title(state: TrainState, stage: Stage) -> str:
    """Text before the progress bar: the epoch."""
    return f"epoch {state.epoch + 1}/{stage.epochs}"


def progress_note(
    state: TrainState, stage: Stage, monitor: str, images: int, train_images: int, timer: EpochTimer
) -> str:
    """Text beside the progress bar: loss so far, last validation metric, estimated time left in the stage."""
    parts = [f"loss {state.sums[0] / images:.3f}"]
    if state.history and state.history[-1][monitor] is not None:
        parts.append(f"{monitor} {state.history[-1][monitor]:.4f}")
    epochs_left = stage.epochs - state.epoch - images / train_images
    parts.append(f"{duration(epochs_left * timer.total() * train_images / images)} left")
    return ", ".join(parts)


def epoch_line(state: TrainState, stages: Sequence[Stage]) -> str:
    """Results of the last epoch in one line."""
    row = state.history[-1]
    where = f"epoch {state.epoch:>3}/{stages[state.stage].epochs}"
    if len(stages) > 1:
        where = f"stage {state.stage + 1}, {where}"
    stage = stages[state.stage]
    if isinstance(stage.optimizer, Logistic):
        where += f"   penalty {strength(stage, state.epoch - 1):.3g}"
    parts = [f"{where}   loss {row['train_loss']:.4f}   accuracy {row['train_accuracy']:.4f}"]
    if row["val_loss"] is not None:
        parts.append(f"val loss {row['val_loss']:.4f}   val accuracy {row['val_accuracy']:.4f}")
    parts.append(f"{row['seconds']:.1f} s   {row['images_per_second']:,.0f} images/s")
    is_best = row["val_loss"] is not None and state.best_epoch == len(state.history)
    return "   ".join(parts) + ("   best" if is_best else "")
