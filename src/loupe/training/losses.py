"""Losses of a training step, one number for each image, and the targets that they take.

A target is a class index for each image [B], or, where images are mixed, a share of each class [B, K].
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from loupe.config.loss import Focal
from loupe.config.recipe import Stage

LossFunction = Callable[[Tensor, Tensor], Tensor]  # float32 logits [B, K] and a target, to losses [B]


def target(own: Tensor, partner: Tensor | None, share_B: Tensor | None, classes: int) -> Tensor:
    """Target of a batch, as its own, or the shares of the classes [B, K] where it is mixed with a partner.

    Args:
        own, partner: class indices [B], or shares of each class [B, K].
        share_B: the share that the image itself has in the mixture, from 0 to 1.
    """
    if partner is None or share_B is None:
        return own
    return torch.lerp(_shares(partner, classes), _shares(own, classes), share_B[:, None])


def taught(y_B: Tensor, teacher_BK: Tensor, share: float) -> Tensor:
    """Target [B, K] whose `share` is the probabilities of a teacher, and the rest the label.

    With it, the cross-entropy is that of Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
    section 2, at temperature 1: a weighted mean of the cross-entropies with both targets.
    """
    return torch.lerp(_shares(y_B, teacher_BK.shape[1]), teacher_BK, share)


def _shares(target: Tensor, classes: int) -> Tensor:
    return F.one_hot(target, classes).float() if target.ndim == 1 else target


def hits(logits_BK: Tensor, target: Tensor) -> Tensor:
    """Number of images whose largest logit is that of the target's (largest) class."""
    answer_B = target if target.ndim == 1 else target.argmax(dim=1)
    return (logits_BK.argmax(dim=1) == answer_B).sum()


def cross_entropy(
    logits_BK: Tensor, target: Tensor, *, class_weights_K: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each image [B], weighted by class; not divided by the sum of the weights, as in Keras."""
    return F.cross_entropy(logits_BK, target, class_weights_K, reduction="none", label_smoothing=label_smoothing)


def focal(logits_BK: Tensor, target: Tensor, *, class_weights_K: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Focal loss of each image [B]: -Σ share · weight · (1 - p)^gamma · log p over the classes of the target.

    Source: Lin, Goyal, Girshick, He and Dollár 2017, "Focal Loss for Dense Object Detection", equations 4 and 5, with
    the softmax in the place of the sigmoid; `class_weights_K` is their alpha.
    """
    log_p_BK = logits_BK.log_softmax(dim=1)
    # The power's derivative at 0 is infinite for a gamma below 1.
    rest_BK = (-torch.expm1(log_p_BK)).clamp(min=torch.finfo(log_p_BK.dtype).tiny)
    loss_BK = -(rest_BK**gamma) * log_p_BK
    if class_weights_K is not None:
        loss_BK = loss_BK * class_weights_K
    if target.ndim == 1:
        return loss_BK.gather(1, target[:, None]).squeeze(1)
    return (target * loss_BK).sum(dim=1)


def build(stage: Stage, class_weights_K: Tensor | None, log_prior_K: Tensor | None = None) -> LossFunction:
    """The stage's loss, as a function of logits and target.

    Args:
        class_weights_K: weight of each class; None: equal weights.
        log_prior_K: added to the logits, so that the network learns them without it; None: nothing. Source: Menon et
            al. 2021, "Long-tail learning via logit adjustment", equation 10.
    """
    loss = LOSSES[stage.loss.name](stage, class_weights_K)
    return loss if log_prior_K is None else lambda logits_BK, target: loss(logits_BK + log_prior_K, target)


def _cross_entropy(stage: Stage, class_weights_K: Tensor | None) -> LossFunction:
    return partial(cross_entropy, class_weights_K=class_weights_K, label_smoothing=stage.label_smoothing)


def _focal(stage: Stage, class_weights_K: Tensor | None) -> LossFunction:
    assert isinstance(stage.loss, Focal)
    return partial(focal, class_weights_K=class_weights_K, gamma=stage.loss.gamma)


LOSSES: dict[str, Callable[[Stage, Tensor | None], LossFunction]] = {
    "cross-entropy": _cross_entropy,
    "focal": _focal,
}
