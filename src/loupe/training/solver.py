"""A linear head on frozen features, solved to convergence, for one strength of its penalty after another."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from loupe.console import Console, size_text
from loupe.data.memory import free_bytes
from loupe.errors import LoupeError
from loupe.evaluate.predict import batch_size
from loupe.models.classifier import Classifier
from loupe.optimization import Logistic
from loupe.recipe import Stage
from loupe.runtime import StopSignal
from loupe.training.frozen import StoppedError
from loupe.training.learner import Learner
from loupe.training.work import Work, views_of

MOST_STEPS = 1000
TOLERANCE = 1e-4
UNSEEN = 10.0  # how far below the least likely class one without training images starts


FLOATS_PER_CLASS = 4  # for each image in each view; scikit-learn 1.9 was seen to take up to 3.5 while it solves


def check_memory(model: Classifier, stage: Stage, number: int, images: int) -> None:
    """Finds out, before anything is computed for it, that the features of stage `number`, from 0, do not fit in memory.

    Raises:
        LoupeError: they do not; the error says what to set.
    """
    view_bytes = 4 * images * (_logits(model).in_features + FLOATS_PER_CLASS * len(model.classes))
    views, free = views_of(stage), free_bytes()
    if views * view_bytes <= free:
        return
    fitting = free // view_bytes
    fewer = f"fewer views of each image (--set stages.{number}.views={fitting}), or " if fitting else ""
    raise LoupeError(
        f"optimizer logistic holds the features of all {images:,} training images in memory, in {views} views: about "
        f"{size_text(views * view_bytes)}, and {size_text(free)} are free. Set {fewer}an optimizer that takes steps, "
        f"and holds a batch at a time (--set stages.{number}.optimizer=adamw)."
    )


def _logits(model: Classifier) -> nn.Linear:
    [found] = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)]
    return found


def strength(stage: Stage, number: int) -> float:
    """The strength that the stage's epoch `number`, from 0, tries; the middle of the range where there is but one."""
    assert isinstance(stage.optimizer, Logistic)
    share = number / (stage.epochs - 1) if stage.epochs > 1 else 0.5
    return float(stage.optimizer.strongest * (stage.optimizer.weakest / stage.optimizer.strongest) ** share)


class Solver:
    """Solves the head for one strength after the other, on the features of every training image in every view."""

    def __init__(
        self,
        learner: Learner,
        work: Work,
        train_N: np.ndarray,
        first_epoch: int,
        console: Console,
        stop: StopSignal,
    ) -> None:
        """Raises StoppedError when asked to stop while the features are made."""
        self.logits = _logits(learner.model)
        self.learner = learner
        self.console = console
        self.stop = stop
        self.features_NC, self.label_N = self._features(work, train_N, first_epoch)
        if len(np.unique(self.label_N)) < 2:
            raise LoupeError("the training images are all of one class: there is nothing to tell apart.")

    @torch.inference_mode()
    def _features(self, work: Work, train_N: np.ndarray, first_epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What the head's linear layer gets, for all views."""
        model, batch = self.learner.model, batch_size(self.learner.model.preprocessing.size_px)
        pool = nn.Sequential(*[layer for layer in model.head if layer is not self.logits])
        features_NC = np.empty((work.views * len(train_N), self.logits.in_features), np.float32)
        label_N = np.empty(len(features_NC), np.int64)
        done = 0
        model.eval()
        with self.console.progress() as progress:
            bar = progress.add_task("features", total=len(features_NC), note="")
            for epoch in range(first_epoch, first_epoch + work.views):
                for given in work.feed.at(epoch).batches(train_N, batch):
                    if self.stop.received:
                        raise StoppedError("stopped; what was computed is kept.")
                    with self.learner.arithmetic.autocast():
                        x = work.augmenter.train(given.x_BCHW, given.index_B, epoch)
                        made = pool(model.trunk[work.first :](x))
                    features_NC[done : done + len(given)] = made.float().cpu().numpy()
                    label_N[done : done + len(given)] = given.y_B.cpu().numpy()
                    done += len(given)
                    progress.update(bar, completed=done)
        model.train()
        return features_NC, label_N

    def solve(self, number: int) -> tuple[float, float]:
        """Gives the head the weights of the stage's epoch `number`, from 0; returns the mean loss and the accuracy."""
        penalty = strength(self.learner.stage, number)
        found = LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS, tol=TOLERANCE)
        weights_K = self.learner.class_weights_K
        weight_N = None if weights_K is None else weights_K.cpu().numpy()[self.label_N]
        with warnings.catch_warnings(), self.console.progress() as progress:
            penalties = self.learner.stage.epochs
            progress.add_task(f"penalty {number + 1} of {penalties}", total=penalties, completed=number, note="")
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in a sentence
            found.fit(self.features_NC, self.label_N, sample_weight=weight_N)
        if found.n_iter_.max() >= MOST_STEPS:
            self.console.say(f"penalty {penalty:.3g}: not converged after {MOST_STEPS:,} steps.")
        weight_KC, bias_K = found.coef_, found.intercept_
        if len(found.classes_) == 2:  # one row, of the second class against the first
            weight_KC, bias_K = np.stack([-weight_KC[0], weight_KC[0]]) / 2, np.array([-bias_K[0], bias_K[0]]) / 2
        with torch.no_grad():
            self.logits.weight.zero_()
            self.logits.bias.fill_(float(bias_K.min()) - UNSEEN)
            rows = torch.from_numpy(found.classes_.astype(np.int64))
            self.logits.weight[rows] = torch.from_numpy(weight_KC).to(self.logits.weight)
            self.logits.bias[rows] = torch.from_numpy(bias_K).to(self.logits.bias)
        probability_NK = found.predict_proba(self.features_NC)
        place_N = np.searchsorted(found.classes_, self.label_N)
        chosen_N = probability_NK[np.arange(len(place_N)), place_N]
        hits_N = found.predict(self.features_NC) == self.label_N
        return float(-np.log(np.maximum(chosen_N, 1e-300)).mean()), float(hits_N.mean())
