"""A linear head on frozen features, solved to convergence, for one strength of its penalty after another."""

import numpy as np
import torch
from torch import nn

from loupe.config.resolved import ResolvedStage
from loupe.data.memory import free_bytes
from loupe.data.pixels.batches import room_bytes
from loupe.devices import StopSignal
from loupe.errors import DataError, DivergedError, NotEnoughMemoryError, StoppedError
from loupe.evaluate.inference import batch_size
from loupe.log import logger, progress_bar, size_text
from loupe.models.classifier import Classifier
from loupe.training.logistic import MOST_STEPS, Regression, Solution, expected_seconds
from loupe.training.schedules import strength
from loupe.training.stage_data import StageData, views_of
from loupe.training.train_step import TrainStep

UNSEEN = 10.0  # how far below the least likely class one without training images starts
FLOATS_BESIDE = 3  # the features of each image in each view: its label and its weight


def check_memory(model: Classifier, stage: ResolvedStage, number: int, images: int) -> None:
    """Finds out, before anything is computed for it, that the features of stage `number`, from 0, do not fit in memory.

    Raises:
        LoupeError: they do not; the error says what to set.
    """
    view_bytes = 4 * images * (logits_layer(model).in_features + FLOATS_BESIDE)
    views, free = views_of(stage), free_bytes()
    if views * view_bytes <= free:
        return
    fitting = free // view_bytes
    fewer = f"fewer views of each image (--set stages.{number}.views={fitting}), or " if fitting else ""
    raise NotEnoughMemoryError(
        f"optimizer logistic holds the features of all {images:,} training images in memory, in {views} views: about "
        f"{size_text(views * view_bytes)}, and {size_text(free)} are free. Set {fewer}an optimizer that takes steps, "
        f"and holds a batch at a time (--set stages.{number}.optimizer=adamw)."
    )


def solving_seconds(model: Classifier, stage: ResolvedStage, images: int) -> float:
    """About how long solving the stage takes on that many training images, from one timed pass over a part of them."""
    layer, rows = logits_layer(model), views_of(stage) * images
    device = _device(layer.weight.device, 4 * rows * layer.in_features)
    return expected_seconds(rows, layer.in_features, layer.out_features, stage.epochs, device)


def _device(device: torch.device, feature_bytes: int) -> torch.device:
    """Where heads are solved: on an NVIDIA GPU with room for the features, else on the CPU."""
    return device if device.type == "cuda" and feature_bytes <= room_bytes(device) else torch.device("cpu")


def logits_layer(model: Classifier) -> nn.Linear:
    [found] = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)]
    return found


def _check_finite(features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise DivergedError(
            "what is frozen gives features that are not finite. Its weights are damaged, or the precision is too low "
            "for them: try --precision fp32."
        )


class Solver:
    """Solves the head for one strength after the other, on the features of every training image in every view.

    Each strength is solved from the solution of the one before, which is not far.
    """

    def __init__(
        self,
        learner: TrainStep,
        stage_data: StageData,
        train_N: np.ndarray,
        first_epoch: int,
        stop: StopSignal,
    ) -> None:
        """Raises StoppedError when asked to stop while the features are made."""
        self.logits = logits_layer(learner.model)
        self.learner = learner
        self.stop = stop
        features_NC, label_N = self._features(stage_data, train_N, first_epoch)
        self.classes = np.unique(label_N)
        if len(self.classes) < 2:
            raise DataError("the training images are all of one class: there is nothing to tell apart.")
        self.regression = self._regression(features_NC, np.searchsorted(self.classes, label_N))
        self.found: list[Solution] = []

    @torch.inference_mode()
    def _features(self, stage_data: StageData, train_N: np.ndarray, first_epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What the head's linear layer gets, for all views."""
        model, batch = self.learner.model, batch_size(self.learner.model.preprocessing.size_px)
        pool = nn.Sequential(*[layer for layer in model.head if layer is not self.logits])
        features_NC = np.empty((stage_data.views * len(train_N), self.logits.in_features), np.float32)
        label_N = np.empty(len(features_NC), np.int64)
        done = 0
        model.eval()
        with progress_bar() as progress:
            bar = progress.add_task("features", total=len(features_NC), note="")
            for epoch in range(first_epoch, first_epoch + stage_data.views):
                for given in stage_data.loader.at(epoch).batches(train_N, batch):
                    if self.stop.received:
                        raise StoppedError("stopped; what was computed is kept.")
                    with self.learner.arithmetic.autocast():
                        x = stage_data.augmenter.train(given.x_BCHW, given.index_B, epoch)
                        made = pool(model.trunk[stage_data.first :](x))
                    _check_finite(made)
                    features_NC[done : done + len(given)] = made.float().cpu().numpy()
                    label_N[done : done + len(given)] = given.y_B.cpu().numpy()
                    done += len(given)
                    progress.update(bar, completed=done)
        model.train()
        return features_NC, label_N

    def _regression(self, features_NC: np.ndarray, place_N: np.ndarray) -> Regression:
        """Over the classes that there are."""
        device = _device(self.learner.arithmetic.device, features_NC.nbytes)
        features, place = torch.from_numpy(features_NC).to(device), torch.from_numpy(place_N).to(device)
        weights_K = self.learner.class_weights_K
        weight_N = None if weights_K is None else weights_K.cpu()[torch.from_numpy(self.classes)].to(device)[place]
        return Regression(features, place, len(self.classes), weight_N=weight_N)

    def solve(self, number: int) -> tuple[float, float]:
        """Gives the head the weights of the stage's epoch `number`, from 0; returns the mean loss and the accuracy."""
        penalties = self.learner.stage.epochs
        with progress_bar() as progress:
            bar = progress.add_task("penalties", total=penalties, completed=len(self.found), note="")
            while len(self.found) <= number:
                penalty = strength(self.learner.stage, len(self.found))
                self.found.append(self.regression.solve(penalty, self.found))
                progress.update(bar, completed=len(self.found))
                if not self.found[-1].converged:
                    logger.info(f"penalty {penalty:.3g}: not converged in {MOST_STEPS:,} steps at float32 precision.")
        found = self.found[number]
        with torch.no_grad():
            self.logits.weight.zero_()
            self.logits.bias.fill_(float(found.bias_K.min()) - UNSEEN)
            rows = torch.from_numpy(self.classes)
            self.logits.weight[rows] = found.weight_KC.to(self.logits.weight)
            self.logits.bias[rows] = found.bias_K.to(self.logits.bias)
        return found.loss, found.accuracy
