"""State of a training between two steps, and its texts in log and progress bar."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from loupe.config.recipe import Stage
from loupe.evaluate.history import LOWER_IS_BETTER, best_row
from loupe.log import duration, rounded

Row = dict[str, Any]


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
    kept_epoch: int = 0  # whose saved weights the model has at the end; 0: it has those of the last one
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
        return [sign * row[monitor] for row in self.rows(stage) if row[monitor] is not None]

    def best(self, monitor: str, stage: int | None = None) -> int:
        """Best row so far (of one stage), from 0, as `best_row`."""
        return best_row(self.rows(stage), monitor)

    def rows(self, stage: int | None = None) -> list[Row]:
        """Rows of the history (of one stage)."""
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
    epochs_left = stage.planned_epochs - state.epoch - images / train_images
    parts.append(f"{duration(epochs_left * timer.total() * train_images / images)} left")
    return ", ".join(parts)


def epoch_line(state: TrainState, stages: Sequence[Stage]) -> str:
    """Results of the last epoch, or of the last L2 strength of a solved head, in one line."""
    row, stage = state.history[-1], stages[state.stage]
    if stage.is_solved:
        strength = row["l2_strength"] if stage.is_open else stage.l2_strength(state.epoch - 1)
        where = f"L2 strength {rounded(strength):>6}   {state.epoch:>3}" + ("" if stage.is_open else f"/{stage.epochs}")
    else:
        where = f"epoch {state.epoch:>3}/{stage.epochs}"
    if len(stages) > 1:
        where = f"stage {state.stage + 1}, {where}"
    parts = [f"{where}   loss {row['train_loss']:.4f}   accuracy {row['train_accuracy']:.4f}"]
    if row["val_loss"] is not None:
        parts.append(f"val loss {row['val_loss']:.4f}   val accuracy {row['val_accuracy']:.4f}")
    parts.append(f"{row['seconds']:.1f} s")
    if not stage.is_solved:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "   ".join(parts) + ("   best" if row["val_loss"] is not None and _is_best(state, stage) else "")


def _is_best(state: TrainState, stage: Stage) -> bool:
    """True if the last row is the best so far: of its stage, where the loss selects among L2 strengths."""
    if not stage.is_open:
        return state.best_epoch == len(state.history)
    return state.best("val_loss", state.stage) == len(state.rows(state.stage)) - 1
