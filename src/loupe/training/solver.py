"""Solver of linear heads on frozen features: logistic regression to convergence, for a series of L2 strengths."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from loupe.config.optimizer import Logistic
from loupe.config.resolved import ResolvedStage
from loupe.data.memory import free_bytes
from loupe.data.pixels.batches import room_bytes
from loupe.data.pixels.read_ahead import batch_size, cut
from loupe.errors import DataError, DivergedError, NotEnoughMemoryError, StoppedError, counted
from loupe.log import logger, progress_bar, rounded, size_text
from loupe.models.classifier import Classifier
from loupe.ranks import merge_rows
from loupe.training.agreement import Agreement
from loupe.training.heads import OutOfFold, out_of_fold
from loupe.training.logistic import MOST_STEPS, Regression, Solution, expected_seconds
from loupe.training.stage_data import StageData, views_of
from loupe.training.strengths import nearest_last
from loupe.training.train_step import TrainStep

UNSEEN = 10.0  # bias of a class without training images, below the smallest bias of the others
FLOATS_BESIDE = 3  # besides the features, of each view of an image: its label (64 bits) and its weight


def check_memory(model: Classifier, stage: ResolvedStage, number: int, images: int) -> None:
    """Check that the features of stage `number`, from 0, fit in memory, before any are computed.

    Raises:
        NotEnoughMemoryError: they do not; the message has the settings to change.
    """
    view_bytes = 4 * images * (logits_layer(model).in_features + FLOATS_BESIDE)
    views, free = views_of(stage), free_bytes()
    if views * view_bytes <= free:
        return
    fitting = free // view_bytes
    fewer = f"fewer views of each image (--set stages.{number}.views={fitting}), or " if fitting else ""
    raise NotEnoughMemoryError(
        f"optimizer logistic needs the features of all {counted(images, 'training image')} in memory, in "
        f"{counted(views, 'view')}: about {size_text(views * view_bytes)}, and {size_text(free)} are free. Set {fewer}"
        f"an optimizer that takes steps, and needs one batch at a time (--set stages.{number}.optimizer=adamw)."
    )


def solving_seconds(model: Classifier, stage: ResolvedStage, images: int) -> float:
    """Estimated time of solving the stage on that many training images, from timed passes over random features."""
    layer, rows = logits_layer(model), views_of(stage) * images
    device = _solver_device(layer.weight.device, 4 * rows * layer.in_features)
    return expected_seconds(rows, layer.in_features, layer.out_features, stage.planned_epochs, device)


def _solver_device(device: torch.device, feature_bytes: int) -> torch.device:
    """Device that heads are solved on: an NVIDIA GPU with room for the features, else the CPU."""
    return device if device.type == "cuda" and feature_bytes <= room_bytes(device) else torch.device("cpu")


def logits_layer(model: Classifier) -> nn.Linear:
    """The only linear layer of a head without hidden layers."""
    [layer] = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)]
    return layer


def _check_features(features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise DivergedError(
            "the frozen blocks give features that are not finite. Their weights are damaged, or the precision is too "
            "low for them: try --precision fp32."
        )


class Solver:
    """Solver of a head, for one L2 strength after the other, on the features of all training images in all views.

    Each search starts from the solutions of the strengths before. Over several ranks, the features are shared out, in
    the batches of one process; rank 0 has all of them, solves, and sends the head.

    Attributes:
        logits: the linear layer that gets the weights.
        classes: indices of the classes that have training images.
        solutions: solutions so far, one for each strength; on rank 0.
    """

    def __init__(
        self,
        train_step: TrainStep,
        stage_data: StageData,
        train_N: np.ndarray,
        first_epoch: int,
        agreement: Agreement,
    ) -> None:
        """Compute the features.

        Raises:
            DataError: all training images are of one class.
            DivergedError: features that are not finite.
            StoppedError: asked to stop while the features are computed.
            LostRankError: another rank has ended.
        """
        self.logits = logits_layer(train_step.model)
        self.train_step = train_step
        self.ranks, self.stop = agreement.ranks, agreement.stop
        label_N = np.tile(stage_data.loader.labels_N.cpu().numpy()[train_N], stage_data.views)
        self.classes = np.unique(label_N)
        if len(self.classes) < 2:
            raise DataError("all training images have the same class. Add images of at least one other class.")
        try:
            features_NC = self._features(stage_data, train_N, first_epoch)
        except StoppedError:
            agreement.ask()  # so that every rank knows the signal
            raise
        self.regression = None
        if self.ranks.is_main:
            self.regression = self._regression(features_NC, np.searchsorted(self.classes, label_N))
        self.solutions: list[Solution] = []

    def _features(self, stage_data: StageData, train_N: np.ndarray, first_epoch: int) -> np.ndarray:
        """Inputs of the logits layer for all views, [N, C] on rank 0."""
        count, images = self.ranks.count, batch_size(self.train_step.model.preprocessing.size)
        batches = cut(np.arange(len(train_N)), images)
        place_RM = [np.concatenate([*batches[rank::count], np.empty(0, np.int64)]) for rank in range(count)]
        mine_M = train_N[place_RM[self.ranks.rank]]
        features_MC = self.ranks.together(lambda: self._features_of(stage_data, mine_M, first_epoch))
        if self.ranks.alone:
            return features_MC
        ahead = np.arange(stage_data.views)[:, None] * len(train_N)
        place_RV = [(ahead + place_M).ravel() for place_M in place_RM]
        return merge_rows(self.ranks, features_MC, place_RV, everywhere=False)

    @torch.inference_mode()
    def _features_of(self, stage_data: StageData, rows_M: np.ndarray, first_epoch: int) -> np.ndarray:
        """Inputs of the logits layer for some rows of the table, one view after the other."""
        model, images = self.train_step.model, batch_size(self.train_step.model.preprocessing.size)
        pool = nn.Sequential(*[layer for layer in model.head if layer is not self.logits])
        features_NC = np.empty((stage_data.views * len(rows_M), self.logits.in_features), np.float32)
        done = 0
        model.eval()
        with progress_bar() as progress:
            bar = progress.add_task("features", total=len(features_NC), note="")
            for epoch in range(first_epoch, first_epoch + stage_data.views):
                for batch in stage_data.loader.at(epoch).batches(rows_M, images):
                    if self.stop.received:
                        raise StoppedError("stopped; finished outputs of the frozen blocks are kept.")
                    with self.train_step.compute.autocast():
                        x = stage_data.augmenter.train(batch.x_BCHW, batch.index_B, epoch)
                        features_BC = pool(model.trunk[stage_data.first :](x))
                    _check_features(features_BC)
                    features_NC[done : done + len(batch)] = features_BC.float().cpu().numpy()
                    done += len(batch)
                    progress.update(bar, completed=done)
        model.train()
        return features_NC

    def _regression(self, features_NC: np.ndarray, class_N: np.ndarray) -> Regression:
        """Regression over the classes that have training images; `class_N` are indices into `classes`."""
        device = _solver_device(self.train_step.compute.device, features_NC.nbytes)
        features, labels = torch.from_numpy(features_NC).to(device), torch.from_numpy(class_N).to(device)
        weights_K = self.train_step.class_weights_K
        weight_N = None if weights_K is None else weights_K.cpu()[torch.from_numpy(self.classes)].to(device)[labels]
        return Regression(features, labels, len(self.classes), weight_N=weight_N)

    def out_of_fold(
        self, fold_N: np.ndarray, strengths: Sequence[float] | None = None, *, by_f1: bool = False
    ) -> OutOfFold:
        """Out-of-fold predictions of the training images, at the L2 strength that is best in these.

        Args:
            fold_N: fold of each training image, from 0.
            strengths: L2 strengths to try; None for the series of the stage that goes on by itself.
            by_f1: the best strength has the highest macro-F1, not the lowest log loss.

        Returns:
            Logits of all classes, on rank 0; other ranks have the strength alone, and no rows of logits.

        Raises:
            StoppedError: asked to stop.
            LostRankError: another rank has ended.
        """
        own: list[OutOfFold] = []

        def found() -> tuple[float, tuple[tuple[float, float], ...]]:
            own.append(self._out_of_fold(fold_N, strengths, by_f1))
            return own[0].strength, own[0].losses

        strength, losses = self.ranks.from_main(found)
        return own[0] if own else OutOfFold(np.empty((0, self.logits.out_features), np.float32), strength, losses)

    def _out_of_fold(self, fold_N: np.ndarray, strengths: Sequence[float] | None, by_f1: bool) -> OutOfFold:
        step = self.train_step
        spec, weights_K, prior_K = step.stage.optimizer, step.class_weights_K, step.log_prior_K
        assert self.regression and isinstance(spec, Logistic)
        return out_of_fold(
            self.regression.features_NC.cpu().numpy(),
            self.classes[self.regression.label_N.cpu().numpy()],
            np.resize(fold_N, len(self.regression.label_N)),  # all views of an image are in its fold
            self.logits.out_features,
            weight_K=None if weights_K is None else weights_K.cpu().numpy(),
            spec=spec,
            strengths=strengths,
            log_prior_K=None if prior_K is None else prior_K.cpu().numpy(),
            before_each=self._check_stop,
            by_f1=by_f1,
        )

    def _check_stop(self) -> None:
        if self.stop.received:
            raise StoppedError("stopped; finished outputs of the frozen blocks are kept.")

    def solve(self, strength_S: Sequence[float]) -> tuple[float, float]:
        """Set the weights of the head to those of the last of these L2 strengths; return loss and accuracy.

        Those before it are solved first, in their order, unless they have been.

        Raises:
            LostRankError: another rank has ended.
        """
        weight_KC, bias_K, loss, accuracy = self.ranks.from_main(lambda: self._solution(strength_S))
        with torch.no_grad():
            self.logits.weight.zero_()
            self.logits.bias.fill_(float(bias_K.min()) - UNSEEN)
            rows = torch.from_numpy(self.classes)
            self.logits.weight[rows] = weight_KC.to(self.logits.weight)
            self.logits.bias[rows] = bias_K.to(self.logits.bias)
            if self.train_step.log_prior_K is not None:
                self.logits.bias.sub_(self.train_step.log_prior_K.to(self.logits.bias))
        return loss, accuracy

    def _solution(self, strength_S: Sequence[float]) -> tuple[Tensor, Tensor, float, float]:
        """Weights and biases of the last of these strengths, with loss and accuracy; solved on rank 0."""
        stage, done = self.train_step.stage, len(self.solutions)
        assert self.regression
        with progress_bar() as progress:
            total = len(strength_S) if stage.is_open else stage.planned_epochs
            bar = progress.add_task("L2 strengths", total=total, completed=done, note="")
            for strength in strength_S[done:]:
                near = nearest_last([solution.penalty for solution in self.solutions], strength)
                self.solutions.append(self.regression.solve(strength, [self.solutions[number] for number in near]))
                progress.update(bar, completed=len(self.solutions))
                if not self.solutions[-1].converged:
                    logger.info(
                        f"L2 strength {rounded(strength)}: not converged within {MOST_STEPS:,} steps in float32."
                    )
        solution = self.solutions[len(strength_S) - 1]
        return solution.weight_KC.cpu(), solution.bias_K.cpu(), solution.loss, solution.accuracy
