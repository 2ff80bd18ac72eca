"""Exponential moving average of a network's weights."""

import copy

import torch

from loupe.models.classifier import Classifier


class WeightAverage:
    """Copy of a model with averaged weights: average ← d · average + (1 - d) · weights.

    d is `decay`, but at most (1 + n) / (10 + n) at the n-th update, so that the random first weights soon count little
    (Abadi et al. 2016, TensorFlow's ExponentialMovingAverage). Running statistics are averaged with the weights.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._mine = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        self._counts = [value for value in self.model.state_dict().values() if not value.is_floating_point()]

    @torch.no_grad()
    def update(self, model: Classifier, updates: int) -> None:
        """Move the average towards the model's weights; `updates` is the number of updates before this one."""
        share = 1 - min(self.decay, (1 + updates) / (10 + updates))
        state = model.state_dict().values()
        torch._foreach_lerp_(self._mine, [value for value in state if value.is_floating_point()], share)
        for mine, theirs in zip(self._counts, (value for value in state if not value.is_floating_point()), strict=True):
            mine.copy_(theirs)
