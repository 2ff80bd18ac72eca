"""A linear head on frozen features, solved to convergence, for one strength of its penalty after another."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from loupe.errors import LoupeError
from loupe.evaluate.predict import batch_size
from loupe.optimization import Logistic
from loupe.recipe import Stage
from loupe.training.learner import Learner
from loupe.training.work import Work

MOST_STEPS = 1000
TOLERANCE = 1e-4


def strength(stage: Stage, number: int) -> float:
    """The strength that the stage's epoch `number`, from 0, tries."""
    assert isinstance(stage.optimizer, Logistic)
    share = number / max(1, stage.epochs - 1)
    return float(stage.optimizer.strongest * (stage.optimizer.weakest / stage.optimizer.strongest) ** share)


class Solver:
    """Solves the head for one strength after the other, on the features of every training image in every view."""

    def __init__(self, learner: Learner, work: Work, train_N: np.ndarray, first_epoch: int) -> None:
        head = learner.model.head
        linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if len(linear) != 1:
            raise LoupeError(
                f"optimizer logistic solves a linear head, and this one has {len(linear) - 1} hidden layers. Set "
                "model.hidden=[], or another optimizer."
            )
        self.learner = learner
        self.logits = linear[0]
        self.features_NC, self.label_N = self._features(work, train_N, first_epoch)

    @torch.inference_mode()
    def _features(self, work: Work, train_N: np.ndarray, first_epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What the head's linear layer gets, for all views."""
        model, features, labels = self.learner.model, [], []
        pool = nn.Sequential(*[layer for layer in model.head if layer is not self.logits])
        model.eval()
        for epoch in range(first_epoch, first_epoch + work.views):
            for batch in work.feed.at(epoch).batches(train_N, batch_size(model.preprocessing.size_px)):
                with self.learner.arithmetic.autocast():
                    x = work.augmenter.train(batch.x_BCHW, batch.index_B, epoch)
                    features.append(pool(model.trunk[work.first :](x)).float().cpu().numpy())
                labels.append(batch.y_B.cpu().numpy())
        model.train()
        return np.concatenate(features), np.concatenate(labels)

    def solve(self, number: int) -> tuple[float, float]:
        """Gives the head the weights of the stage's epoch `number`, from 0; returns the mean loss and the accuracy."""
        found = LogisticRegression(C=1 / strength(self.learner.stage, number), max_iter=MOST_STEPS, tol=TOLERANCE)
        weights_K = self.learner.class_weights_K
        weight_N = None if weights_K is None else weights_K.cpu().numpy()[self.label_N]
        found.fit(self.features_NC, self.label_N, sample_weight=weight_N)
        weight_KC, bias_K = found.coef_, found.intercept_
        if len(found.classes_) == 2:  # one row, of the second class against the first
            weight_KC, bias_K = np.stack([-weight_KC[0], weight_KC[0]]) / 2, np.array([-bias_K[0], bias_K[0]]) / 2
        with torch.no_grad():
            self.logits.weight.zero_()
            self.logits.bias.fill_(-1e4)  # a class without training images is never predicted
            rows = torch.from_numpy(found.classes_.astype(np.int64))
            self.logits.weight[rows] = torch.from_numpy(weight_KC).to(self.logits.weight)
            self.logits.bias[rows] = torch.from_numpy(bias_K).to(self.logits.bias)
        probability_NK = found.predict_proba(self.features_NC)
        place_N = np.searchsorted(found.classes_, self.label_N)
        chosen_N = probability_NK[np.arange(len(place_N)), place_N]
        hits_N = found.predict(self.features_NC) == self.label_N
        return float(-np.log(np.maximum(chosen_N, 1e-300)).mean()), float(hits_N.mean())
