"""Learning rates of steps, as pure functions."""

import math
from collections.abc import Sequence

from loupe.config.optimizer import Cosine, OneCycle, Plateau, Step
from loupe.config.recipe import Stage


def rate(stage: Stage, step: int, steps_per_epoch: int, monitored: Sequence[float]) -> float:
    """Learning rate of a step of a stage.

    Args:
        step: number of the step, from 0 at the start of the stage.
        steps_per_epoch: optimizer steps in one epoch.
        monitored: monitored metric after each finished epoch of the stage; higher is better. Only `plateau` uses it.
    """
    schedule = stage.schedule
    total = stage.planned_epochs * steps_per_epoch
    if isinstance(schedule, OneCycle):
        return stage.lr * _one_cycle(schedule, step, total)
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    if isinstance(schedule, Step):
        return stage.lr * schedule.factor ** int(step / (schedule.every_epochs * steps_per_epoch))
    if isinstance(schedule, Cosine):
        progress = (step - warmup) / max(1, total - warmup)
        return stage.lr * _between(1.0, schedule.final_fraction, progress)
    if isinstance(schedule, Plateau):
        lowered = stage.lr * schedule.factor ** _plateaus(schedule, monitored)
        return max(lowered, min(schedule.min_lr, stage.lr))
    return stage.lr


def stale_epochs(monitored: Sequence[float]) -> int:
    """Epochs since the best value (higher is better); the first of equal values counts as the best."""
    if not monitored:
        return 0
    best = max(range(len(monitored)), key=lambda epoch: (monitored[epoch], -epoch))
    return len(monitored) - 1 - best


def _between(start: float, end: float, progress: float) -> float:
    """Value between `start` (progress 0) and `end` (progress 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _one_cycle(schedule: OneCycle, step: int, total: int) -> float:
    """Share of the rate in PyTorch's OneCycleLR with two cosine phases: the top is at step peak·total - 1."""
    top = schedule.peak * total - 1
    if step <= top:
        return _between(schedule.start_fraction, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, schedule.final_fraction, (step - top) / max(1e-9, total - 1 - top))


def _plateaus(schedule: Plateau, monitored: Sequence[float]) -> int:
    """Number of times that Keras's ReduceLROnPlateau would have lowered the rate: each time the wait starts anew."""
    best, wait, lowered = -math.inf, 0, 0
    for value in monitored:
        if value > best:
            best, wait = value, 0
        else:
            wait += 1
            if wait >= schedule.patience_epochs:
                lowered, wait = lowered + 1, 0
    return lowered
