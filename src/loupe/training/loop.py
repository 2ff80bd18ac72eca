"""The training loop: forward, backward, step, log, evaluate, save, in that order."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from loupe.augment.shard_order import EpochOrder
from loupe.config.optimizer import Logistic
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.read_ahead import steps_in
from loupe.devices import Compute, StopSignal
from loupe.errors import DivergedError, LoupeError, RunStateError, counted, memory_error
from loupe.evaluate.history import MACRO_F1, beats_last, best_epoch, selected_strength, strength_losses
from loupe.log import logger, progress_bar, rounded
from loupe.models.classifier import Classifier
from loupe.ranks import Ranks
from loupe.training import schedules
from loupe.training.activation_loader import ActivationLoader
from loupe.training.agreement import Agreement
from loupe.training.checkpoint import Checkpoints, Snapshot
from loupe.training.epoch_batches import epoch_batches
from loupe.training.rank_checkpoints import RankCheckpoints
from loupe.training.solver import Solver, check_memory
from loupe.training.stage_data import StageData
from loupe.training.strengths import PATIENCE, PATIENCE_OF_F1, next_strength
from loupe.training.train_state import EpochTimer, Row, TrainState, epoch_line, progress_note, progress_title
from loupe.training.train_step import Teaching, TrainStep

# Steps between two readings of the loss: each makes the CPU wait for the GPU.
READ_EVERY_STEPS = 20
SAVE_EVERY_SECONDS = 600.0


@dataclass
class Trainer:
    """Training of a model in stages, from the last checkpoint on if there is one.

    A stage starts from the final weights of the stage before (the averaged ones, if it averaged). At the end the model
    has the weights of the best epoch, or of the last one if `keep_best` is False, or if the best is not better by more
    than chance on `judged_images`.

    Over several ranks, each computes its share of every batch, and all have the same weights after every step; rank 0
    alone writes checkpoints and calls `on_epoch`.

    Attributes:
        prepare: function that returns the inputs of a stage, called when the stage starts or resumes, with the stage,
            the number of its first epoch over all stages, and True for the last stage. The model then has the weights
            that the stage starts from.
        train_N: rows of the table to train on.
        validate: function that returns the validation metrics of a network by name; None for one that is undefined.
        on_epoch: function called with the history after each epoch, once its checkpoint is written.
        class_weights_K: weight of each class in the loss; None: equal weights.
        monitor: metric that chooses the best epoch.
        judged_images: number of validation images, of which the best epoch must be more accurate than the last by more
            than chance to be kept; None: it is kept in any case.
        stop: on this signal, training saves and returns, with `state.stage` below the number of stages.
        order: order of the training images in each epoch.
        fold_N: fold of each training image, from 0: without validation images, out-of-fold predictions select an L2
            strength where their series goes on by itself. None with validation images.
        ranks: ranks that train together.
        log_prior_K: logit adjustment of each class; None: none.
        teaching: another classifier's probabilities to learn beside the labels, in stages that are trained in steps.
        state: state of the training between two steps.
    """

    model: Classifier
    stages: Sequence[ResolvedStage]
    prepare: Callable[[ResolvedStage, int, bool], StageData]
    train_N: np.ndarray
    validate: Callable[[Classifier, StageData], Row]
    checkpoints: Checkpoints
    on_epoch: Callable[[Sequence[Row]], None]
    compute: Compute
    class_weights_K: Tensor | None
    monitor: str
    keep_best: bool
    stop: StopSignal
    judged_images: int | None = None
    order: EpochOrder = field(default_factory=EpochOrder)
    fold_N: np.ndarray | None = None
    ranks: Ranks = field(default_factory=Ranks)
    log_prior_K: Tensor | None = None
    teaching: Teaching | None = None
    state: TrainState = field(default_factory=TrainState, init=False)
    _saved: Snapshot | None = field(default=None, init=False)  # until the stage that it was saved in resumes
    _only_strength: float | None = field(default=None, init=False)  # of this stage, by out-of-fold predictions

    def __post_init__(self) -> None:
        self._kept = RankCheckpoints(self.checkpoints, self.ranks)
        self._agreement = Agreement(self.ranks, self.stop)

    def fit(self) -> TrainState:
        """Train to the end of the last stage, or until asked to stop.

        Raises:
            DivergedError: the loss is not finite; the last good checkpoint is kept.
            RunStateError: the checkpoints are damaged, or belong to other stages or another network.
            StoppedError: asked to stop while the features of a stage are computed.
            LostRankError: another rank has ended.
        """
        self._saved = self._kept.load_last()
        if self._saved:
            with self._fitting():
                self.state = TrainState.of(self._saved.values["position"])
        self._kept.forget_bests_after(self.state.best_epoch)
        while self.state.stage < len(self.stages):
            if not self._train_stage():
                return self.state
        if self.keep_best and self._best_is_kept():
            self.state.kept_epoch = self.state.best_epoch
            self.model.load_state_dict(self._kept.load_best(self.state.best_epoch))
        return self.state

    def _best_is_kept(self) -> bool:
        """True unless chance explains that the best epoch is better than the last."""
        state, last = self.state, len(self.state.history)
        if self.judged_images is None or state.best_epoch == last:
            return True
        if beats_last(state.history, state.best_epoch, self.judged_images):
            logger.info(f"Kept: the weights of epoch {state.best_epoch}, better than the last by more than chance.")
            return True
        logger.info(
            f"Kept: the weights of the last epoch. That epoch {state.best_epoch} was better may be chance "
            f"({counted(self.judged_images, 'validation image')}). To keep it: --set keep=best"
        )
        return False

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Turn errors of a checkpoint of other stages or another network into RunStateError."""
        try:
            yield
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, LoupeError) or memory_error(error, ""):
                raise
            raise RunStateError(
                f"{self.checkpoints.last}: the checkpoint does not fit recipe.yaml, or another version of Loupe wrote "
                f"it ({' '.join(str(error).split())[:200]}). Restore recipe.yaml, or train again under another --name."
            ) from None

    @property
    def stage(self) -> ResolvedStage:
        return self.stages[self.state.stage]

    def _train_stage(self) -> bool:
        """Train the rest of the current stage; save and return False if asked to stop before its end."""
        state, stage = self.state, self.stage
        snapshot, self._saved = self._saved, None
        if snapshot:  # before the frozen blocks run with these weights
            with self._fitting():
                self.model.load_state_dict(snapshot.tensors["weights"])
        first_epoch = len(state.history) - state.epoch
        solved = stage.is_solved
        if solved:
            self.ranks.together(lambda: check_memory(self.model, stage, state.stage, len(self.train_N)))
        stage_data = self.prepare(stage, first_epoch, state.stage == len(self.stages) - 1)
        train_step = TrainStep(
            self.model,
            stage,
            stage_data.augmenter,
            self.compute,
            self.class_weights_K,
            stage_data.first,
            self.ranks,
            self.log_prior_K,
            None if solved else self.teaching,
        )
        if snapshot:
            with self._fitting():
                train_step.restore(snapshot)
        del snapshot  # as large as the weights, the optimizer and the averaged weights together
        solver = Solver(train_step, stage_data, self.train_N, first_epoch, self._agreement) if solved else None
        self._only_strength = None
        if solver and stage.is_open and self.fold_N is not None:
            self._only_strength = self._by_folds(solver, self.fold_N)
        whole = self._train_epochs(train_step, stage_data, solver)
        if whole and solver:
            whole = self._settle(train_step, solver, first_epoch)
        if solver or not whole:
            self._save(train_step)
        if not whole:
            return False
        self.model.load_state_dict(train_step.result.state_dict())
        state.stage, state.epoch = state.stage + 1, 0
        return True

    def _train_epochs(self, train_step: TrainStep, stage_data: StageData, solver: Solver | None) -> bool:
        """Train the remaining epochs of the stage, until patience ends them; return False if asked to stop before."""
        state, stage = self.state, self.stage
        while self._goes_on():
            if not (self.solve_stage(solver) if solver else self.train_epoch(train_step, stage_data.loader)):
                return False
            began = time.perf_counter()
            scores = self._scores(train_step, stage_data)
            self._close_epoch(scores, time.perf_counter() - began)
            state.best_epoch = best_epoch(state.history, self.stages, self.monitor) + 1
            if state.best_epoch == len(state.history) and self.keep_best and not solver:
                self._kept.save_best(state.best_epoch, train_step.result.state_dict())
            if not solver:
                self._save(train_step)
            if self.ranks.is_main:
                self.on_epoch(state.history)
            logger.info(epoch_line(state, self.stages))
        state.stopped = None
        if stage.epochs != "auto" and state.epoch < stage.epochs:
            assert stage.patience_epochs is not None
            most = stage.patience_epochs
            waited = counted(most, "L2 strength") if solver else counted(most, "epoch")
            state.stopped = f"stage {state.stage + 1}: no better {self.monitor} for {waited}"
            logger.info(f"stopped early: {state.stopped}.")
        return True

    def train_epoch(self, train_step: TrainStep, loader: BatchLoader | ActivationLoader) -> bool:
        """Train the rest of the current epoch; return False if asked to stop before its end."""
        state, stage, train_N = self.state, train_step.stage, self.train_N
        epoch = len(state.history)
        steps_per_epoch = steps_in(len(train_N), stage.batch_size)
        monitored = state.monitored(self.monitor, state.stage)
        batches = epoch_batches(train_step, loader, self.order, train_N, epoch=epoch, first=state.step)
        before = state.sums if self.ranks.is_main else [0.0, 0.0]
        sums = torch.tensor(before, dtype=_widest(loader.device), device=loader.device)
        timer = EpochTimer(state.seconds)
        with progress_bar() as progress:
            bar = progress.add_task(progress_title(state, stage), total=steps_per_epoch, completed=state.step, note="")
            for batch, partner, images in batches:
                if self._agreement.is_stopping:
                    state.sums, state.seconds = self._agreement.totals(sums.tolist()), timer.total()
                    self._check_finite(state.sums[0])
                    return False
                steps = state.epoch * steps_per_epoch + state.step
                lr = schedules.rate(stage, steps, steps_per_epoch, monitored)
                sums += train_step.step(batch, partner, epoch=epoch, step=state.step, steps=steps, lr=lr, images=images)
                state.step += 1
                if state.step % READ_EVERY_STEPS and state.step != steps_per_epoch and loader.device.type != "cpu":
                    continue
                state.sums = self._agreement.totals(sums.tolist())
                self._check_finite(state.sums[0])
                done = min(state.step * stage.batch_size, len(train_N))
                text = progress_note(state, stage, self.monitor, done, len(train_N), timer)
                progress.update(bar, completed=state.step, note=text)
                if timer.due(SAVE_EVERY_SECONDS):
                    state.seconds = timer.total()
                    self._save(train_step)
        train_step.settle()
        train_step.compute.synchronize()
        state.seconds = timer.total()
        return True

    def solve_stage(self, solver: Solver) -> bool:
        """Solve the head for one L2 strength, a row of the history; return False if asked to stop."""
        if self._agreement.ask():
            return False
        state, images, timer = self.state, len(self.train_N), EpochTimer(0.0)
        loss, accuracy = solver.solve([*self._tried(), self._strength()])
        state.sums, state.seconds = [loss * images, accuracy * images], timer.total()
        return True

    def _goes_on(self) -> bool:
        """True unless the last epoch or L2 strength of the stage is over, or patience is."""
        stage, state = self.stage, self.state
        if stage.epochs != "auto":
            return state.epoch < stage.epochs and not self._patience_is_over()
        return state.epoch == 0 if self._only_strength else self._next_strength() is not None

    def _next_strength(self) -> float | None:
        """Next L2 strength of a series that goes on by itself; None at its end."""
        assert isinstance(self.stage.optimizer, Logistic)
        tried = strength_losses(self.state.rows(self.state.stage), self.monitor)
        return next_strength(tried, self.stage.optimizer, PATIENCE_OF_F1 if self.monitor == MACRO_F1 else PATIENCE)

    def _strength(self) -> float:
        """L2 strength of the row that comes next."""
        if self.stage.epochs != "auto":
            return self.stage.l2_strength(self.state.epoch)
        strength = self._only_strength or self._next_strength()
        assert strength is not None
        return strength

    def _tried(self) -> list[float]:
        """L2 strengths of the stage so far."""
        if self.stage.epochs != "auto":
            return [self.stage.l2_strength(number) for number in range(self.state.epoch)]
        return [row["l2_strength"] for row in self.state.rows(self.state.stage)]

    def _by_folds(self, solver: Solver, fold_N: np.ndarray) -> float:
        """L2 strength that is best in out-of-fold predictions."""
        by_f1 = self.monitor == MACRO_F1
        strength = solver.out_of_fold(fold_N, by_f1=by_f1).strength
        folds, images = int(fold_N.max()) + 1, counted(len(fold_N), "training image")
        logger.info(
            f"L2 strength {rounded(strength)}: {'highest macro-F1' if by_f1 else 'lowest log loss'} of out-of-fold "
            f"predictions of the {images}, in {folds} folds. There are no validation images."
        )
        return strength

    def _settle(self, train_step: TrainStep, solver: Solver, first_epoch: int) -> bool:
        """Set the head to that of the best L2 strength, and save it as the best weights; return False if asked to stop.

        Within the stage, weights are not saved after each strength.
        """
        if self._agreement.ask():
            return False
        state = self.state
        selected = selected_strength(state.rows(state.stage), self.stage, self.monitor)
        solver.solve(self._tried()[: selected + 1])
        if self.keep_best and state.best_epoch > first_epoch:
            self._kept.save_best(state.best_epoch, train_step.result.state_dict())
        return True

    def _scores(self, train_step: TrainStep, stage_data: StageData) -> Row:
        """Validation metrics, and `val_objective`, the validation loss with the L2 term."""
        scores = {**self.validate(train_step.result, stage_data), "val_objective": None}
        if scores["val_loss"] is not None:
            self._check_finite(scores["val_loss"], "validation loss")
            scores["val_objective"] = scores["val_loss"] + train_step.penalty()
        return scores

    def _close_epoch(self, scores: Row, seconds: float) -> None:
        """Add the epoch to the history, with the times of rank 0, and set the state to the start of the next epoch."""
        state, stage, images = self.state, self.stage, len(self.train_N)
        lr = None
        if not stage.is_solved:
            steps_per_epoch = steps_in(images, stage.batch_size)
            last_step = (state.epoch + 1) * steps_per_epoch - 1
            lr = schedules.rate(stage, last_step, steps_per_epoch, state.monitored(self.monitor, state.stage))
        row: Row = {
            "epoch": len(state.history) + 1,
            "stage": state.stage + 1,
            "lr": lr,
            "l2_strength": self._strength() if stage.is_solved else None,
            "train_loss": state.sums[0] / images,
            "train_accuracy": state.sums[1] / images,
            **scores,
            "seconds": round(state.seconds + seconds, 3),
            "images_per_second": round(images / max(state.seconds, 1e-9), 1),
        }
        state.history.append(self.ranks.from_main(lambda: row))
        state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, [0.0, 0.0], 0.0

    def _patience_is_over(self) -> bool:
        stale = schedules.stale_epochs(self.state.monitored(self.monitor, self.state.stage))
        return self.stage.patience_epochs is not None and stale >= self.stage.patience_epochs

    def _check_finite(self, value: float, what: str = "loss") -> None:
        if math.isfinite(value):
            return
        state, stage = self.state, self.stage
        if stage.is_solved:
            raise DivergedError(
                f"the {what} is not finite at L2 strength {rounded(self._strength())}. The weights of "
                "the frozen blocks are damaged, or the precision is too low for them: try --precision fp32."
            )
        rate = stage.lr
        raise DivergedError(
            f"the {what} is not finite in epoch {len(state.history) + 1}, step {state.step}. The learning rate "
            f"{rate:.2g} is probably too high: train again with --lr {rate / 10:.2g}, or with "
            f"--set stages.{state.stage}.clip_norm=1. The last good checkpoint is kept."
        )

    def _save(self, train_step: TrainStep) -> None:
        def snapshot() -> Snapshot:
            state = train_step.state()
            return Snapshot(state.tensors, {**state.values, "position": asdict(self.state)})

        self._kept.save_last(snapshot)


def _widest(device: torch.device) -> torch.dtype:
    """Widest float type of the device, so that sums over an epoch do not depend on interruptions."""
    return torch.float32 if device.type == "mps" else torch.float64
