"""A linear head on frozen features, solved to convergence, for one strength of its penalty after another."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from loupe.console import Console
from loupe.errors import LoupeError
from loupe.evaluate.predict import batch_size
from loupe.optimization import Logistic
from loupe.recipe import Stage
from loupe.training.learner import Learner
from loupe.training.work import Work

MOST_STEPS = 1000
TOLERANCE = 1e-4
UNSEEN = 10.0  # how far below the least likely class one without training images starts


def strength(stage: Stage, number: int) -> float:
    """The strength that the stage's epoch `number`, from 0, tries; the middle of the range where there is but one."""
    assert isinstance(stage.optimizer, Logistic)
    share = number / (stage.epochs - 1) if stage.epochs > 1 else 0.5
    return float(stage.optimizer.strongest * (stage.optimizer.weakest / stage.optimizer.strongest) ** share)


class Solver:
    """Solves the head for one strength after the other, on the features of every training image in every view."""

    def __init__(self, learner: Learner, work: Work, train_N: np.ndarray, first_epoch: int, console: Console) -> None:
        [self.logits] = [layer for layer in learner.model.head.modules() if isinstance(layer, nn.Linear)]
        self.learner = learner
        self.console = console
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
        for epoch in range(first_epoch, first_epoch + work.views):
            for given in work.feed.at(epoch).batches(train_N, batch):
                with self.learner.arithmetic.autocast():
                    x = work.augmenter.train(given.x_BCHW, given.index_B, epoch)
                    made = pool(model.trunk[work.first :](x))
                features_NC[done : done + len(given)] = made.float().cpu().numpy()
                label_N[done : done + len(given)] = given.y_B.cpu().numpy()
                done += len(given)
        model.train()
        return features_NC, label_N

    def solve(self, number: int) -> tuple[float, float]:
        """Gives the head the weights of the stage's epoch `number`, from 0; returns the mean loss and the accuracy."""
        penalty = strength(self.learner.stage, number)
        found = LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS, tol=TOLERANCE)
        weights_K = self.learner.class_weights_K
        weight_N = None if weights_K is None else weights_K.cpu().numpy()[self.label_N]
        with warnings.catch_warnings():
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
