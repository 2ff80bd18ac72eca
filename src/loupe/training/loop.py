"""The one training loop: forward, backward, step, log, evaluate, save, in that order."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from loupe.augment import random
from loupe.augment.pipeline import Augmenter
from loupe.console import Console
from loupe.data.batches import Batch, Feed, steps_in
from loupe.errors import LoupeError
from loupe.models.classifier import Classifier
from loupe.optimization import Logistic
from loupe.recipe import Stage
from loupe.runtime import Arithmetic, StopSignal
from loupe.training import schedules
from loupe.training.checkpoint import Checkpoints, Snapshot
from loupe.training.feeds import FrozenFeed
from loupe.training.learner import Learner
from loupe.training.progress import Clock, Position, Row, epoch_line, note, title
from loupe.training.solver import Solver, check_memory
from loupe.training.work import Work

# Reading a number off a GPU makes the CPU wait for it, so the loss is looked at only so often.
LOOK_EVERY_STEPS = 20
SAVE_EVERY_SECONDS = 600.0


class DivergedError(LoupeError):
    """The loss is no longer a finite number."""


def fit(
    model: Classifier,
    *,
    stages: Sequence[Stage],
    prepare: Callable[[Stage, int], Work],
    train_N: np.ndarray,
    validate: Callable[[Classifier, Work], Row],
    checkpoints: Checkpoints,
    on_epoch: Callable[[Sequence[Row]], None],
    arithmetic: Arithmetic,
    class_weights_K: Tensor | None,
    monitor: str,
    keep_best: bool,
    console: Console,
    stop: StopSignal,
) -> Position:
    """Trains the model through the stages, from the last checkpoint on where there is one.

    A stage goes on from the weights that the one before ended with (the averaged ones, where it averaged). At the end
    the model has the weights of the best epoch, or with `keep_best` off those of the last.

    Args:
        prepare: what a stage learns from, when it begins or goes on; the number is that of its first epoch over all
            stages. The model then has the weights that the stage begins with.
        train_N: the images to train on, as rows of the table.
        validate: the validation metrics of a network, by name; None for those that cannot be had.
        on_epoch: called with the history after each epoch, once its checkpoint is written.
        stop: once received, training saves and returns with `position.stage` short of the number of stages.

    Raises:
        DivergedError: the loss is not finite; the last good checkpoint stays.
    """
    snapshot = checkpoints.load_last(console)
    position = Position(**snapshot.values["position"]) if snapshot else Position()
    checkpoints.forget_bests_after(position.best_epoch)
    while position.stage < len(stages):
        stage = stages[position.stage]
        if snapshot:  # before what is frozen is computed with these weights
            model.load_state_dict(snapshot.tensors["weights"])
        first_epoch = len(position.history) - position.epoch
        work = learner = solver = None  # what the stage before held makes room first
        if isinstance(stage.optimizer, Logistic):
            check_memory(model, stage, position.stage, len(train_N))
        work = prepare(stage, first_epoch)
        learner = Learner(model, stage, work.augmenter, arithmetic, class_weights_K, work.first)
        if snapshot:
            learner.restore(snapshot)
            snapshot = None
        if isinstance(stage.optimizer, Logistic):
            solver = Solver(learner, work, train_N, first_epoch, console, stop)
        while position.epoch < stage.epochs and not _patience_is_over(stage, position, monitor):
            whole = (
                _solve(solver, position, len(train_N), stop)
                if solver
                else _train_epoch(learner, position, work.feed, train_N, checkpoints, monitor, console, stop)
            )
            if not whole:
                checkpoints.save_last(_snapshot(learner, position))
                return position
            began = time.perf_counter()
            scores = {**validate(learner.result, work), "val_objective": None}
            if scores["val_loss"] is not None:
                _check_finite(position, stage, scores["val_loss"], "validation loss")
                scores["val_objective"] = scores["val_loss"] + learner.penalty()
            _close_epoch(position, stage, train_N, monitor, scores, time.perf_counter() - began)
            if schedules.stale_epochs(position.monitored(monitor)) == 0:
                position.best_epoch = len(position.history)
                if keep_best and not solver:
                    checkpoints.save_best(position.best_epoch, learner.result.state_dict())
            if not solver:
                checkpoints.save_last(_snapshot(learner, position))
            on_epoch(position.history)
            console.say(epoch_line(position, stages))
        position.stopped = None
        if position.epoch < stage.epochs:
            position.stopped = f"stage {position.stage + 1}: no better {monitor} for {stage.patience_epochs} epochs"
            console.say(f"stopped early: {position.stopped}.")
        if solver and stop.received:
            checkpoints.save_last(_snapshot(learner, position))
            return position
        if solver:  # solved again sooner than eleven checkpoints of a whole network are written
            solver.solve(_best_of(position.monitored(monitor, position.stage)))
            if keep_best and position.best_epoch > first_epoch:
                checkpoints.save_best(position.best_epoch, learner.result.state_dict())
            checkpoints.save_last(_snapshot(learner, position))
        model.load_state_dict(learner.result.state_dict())
        position.stage, position.epoch = position.stage + 1, 0
    if keep_best:
        model.load_state_dict(checkpoints.load_best(position.best_epoch))
    return position


def _train_epoch(
    learner: Learner,
    position: Position,
    feed: Feed | FrozenFeed,
    train_N: np.ndarray,
    checkpoints: Checkpoints,
    monitor: str,
    console: Console,
    stop: StopSignal,
) -> bool:
    """The rest of the epoch that `position` stands in; False when asked to stop before its end."""
    stage, augmenter = learner.stage, learner.augmenter
    epoch = len(position.history)
    steps_per_epoch = steps_in(len(train_N), stage.batch_size)
    monitored = position.monitored(monitor, position.stage)
    order_N = random.permutation(augmenter.seed, epoch, train_N)
    batches = feed.at(epoch).batches(order_N, stage.batch_size, first=position.step)
    partners: Iterator[Batch | None] = itertools.repeat(None)
    if stage.augment.mixes:
        assert isinstance(augmenter, Augmenter), "images are mixed as images"
        partner_N = augmenter.partners(order_N, epoch, train_N)
        partners = feed.batches(partner_N, stage.batch_size, first=position.step)
    sums = torch.tensor(position.sums, dtype=_widest(feed.device), device=feed.device)
    clock = Clock(position.seconds)
    with console.progress() as progress:
        bar = progress.add_task(title(position, stage), total=steps_per_epoch, completed=position.step, note="")
        for batch, partner in zip(batches, partners, strict=False):
            if stop.received:
                position.sums, position.seconds = sums.tolist(), clock.total()
                _check_finite(position, stage)
                return False
            before = position.epoch * steps_per_epoch + position.step
            lr = schedules.rate(stage, before, steps_per_epoch, monitored)
            sums += learner.train_step(batch, partner, epoch=epoch, step=position.step, steps=before, lr=lr)
            position.step += 1
            if position.step % LOOK_EVERY_STEPS and position.step != steps_per_epoch and feed.device.type != "cpu":
                continue
            position.sums = sums.tolist()
            _check_finite(position, stage)
            images = min(position.step * stage.batch_size, len(train_N))
            progress.update(
                bar, completed=position.step, note=note(position, stage, monitor, images, len(train_N), clock)
            )
            if clock.due(SAVE_EVERY_SECONDS):
                position.seconds = clock.total()
                checkpoints.save_last(_snapshot(learner, position))
    learner.arithmetic.synchronize()
    position.seconds = clock.total()
    return True


def _best_of(values: Sequence[float]) -> int:
    """The epoch of a stage, from 0, with the highest value; the only one where nothing was measured."""
    return values.index(max(values)) if values else 0


def _solve(solver: Solver, position: Position, images: int, stop: StopSignal) -> bool:
    """An epoch of logistic regression: one strength of the penalty, to convergence. False when asked to stop."""
    if stop.received:
        return False
    clock = Clock(0.0)
    loss, accuracy = solver.solve(position.epoch)
    position.sums, position.seconds = [loss * images, accuracy * images], clock.total()
    return True


def _widest(device: torch.device) -> torch.dtype:
    """The widest float that the device has: sums over an epoch must not depend on how they were cut."""
    return torch.float32 if device.type == "mps" else torch.float64


def _check_finite(position: Position, stage: Stage, value: float | None = None, what: str = "loss") -> None:
    if math.isfinite(position.sums[0] if value is None else value):
        return
    raise DivergedError(
        f"the {what} is not finite in epoch {len(position.history) + 1}, step {position.step}. The learning rate "
        f"{stage.lr:.2g} is probably too high: train again with --lr {stage.lr / 10:.2g}, or with "
        f"--set stages.{position.stage}.clip_norm=1. The last good checkpoint is kept."
    )


def _snapshot(learner: Learner, position: Position) -> Snapshot:
    state = learner.state()
    return Snapshot(state.tensors, {**state.values, "position": asdict(position)})


def _patience_is_over(stage: Stage, position: Position, monitor: str) -> bool:
    stale = schedules.stale_epochs(position.monitored(monitor, position.stage))
    return stage.patience_epochs is not None and stale >= stage.patience_epochs


def _close_epoch(
    position: Position, stage: Stage, train_N: np.ndarray, monitor: str, scores: Row, seconds: float
) -> None:
    """Writes the epoch into the history; the position moves to the start of the next one."""
    steps_per_epoch = steps_in(len(train_N), stage.batch_size)
    last_step = (position.epoch + 1) * steps_per_epoch - 1
    row: Row = {
        "epoch": len(position.history) + 1,
        "stage": position.stage + 1,
        "lr": None
        if isinstance(stage.optimizer, Logistic)
        else schedules.rate(stage, last_step, steps_per_epoch, position.monitored(monitor, position.stage)),
        "train_loss": position.sums[0] / len(train_N),
        "train_accuracy": position.sums[1] / len(train_N),
        **scores,
        "seconds": round(position.seconds + seconds, 3),
        "images_per_second": round(len(train_N) / max(position.seconds, 1e-9), 1),
    }
    position.history.append(row)
    position.epoch, position.step, position.sums, position.seconds = position.epoch + 1, 0, [0.0, 0.0], 0.0
