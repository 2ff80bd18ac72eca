"""Probe for mirrored training images: are mirror images recognised as well as the images themselves?

Each image and its mirror image are classified by their nearest neighbours among the images of the other folds, on
frozen features. Mirror images of photographs find the same classes. Those of letters and other signs do not, and
training on them would teach what is not so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loupe.evaluate.paired import Difference, Ints, difference_of_hits

NEIGHBOURS = 5
HARMLESS = -0.02  # difference of the accuracies from which on mirror images are of the same class
SURELY_HARMLESS = -0.05  # lower end of its interval

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MirrorProbe:
    """Accuracy of nearest neighbours on mirror images minus that on the images.

    Attributes:
        helps: True to train on mirror images, False not to; None where the images cannot tell.
    """

    difference: Difference

    @property
    def helps(self) -> bool | None:
        if self.difference.value >= HARMLESS and self.difference.low > SURELY_HARMLESS:
            return True
        return False if self.difference.high < 0 else None


def mirror_probe(plain_NC: Floats, mirrored_NC: Floats, label_N: Ints, fold_N: Ints) -> MirrorProbe:
    """Compare images with their mirror images.

    Args:
        plain_NC: features of the images.
        mirrored_NC: features of their mirror images.
        label_N: class of each image.
        fold_N: fold of each image. Neighbours are of other folds, so that no image finds itself or its copies.
    """
    hits = {
        "plain": nearest(plain_NC, plain_NC, label_N, fold_N) == label_N,
        "mirrored": nearest(mirrored_NC, plain_NC, label_N, fold_N) == label_N,
    }
    return MirrorProbe(difference_of_hits("plain", "mirrored", {name: hit_N[None] for name, hit_N in hits.items()}))


def nearest(query_NC: Floats, known_NC: Floats, label_N: Ints, fold_N: Ints) -> Ints:
    """Most common class among the nearest neighbours of each image by cosine, weighted by it, in the other folds."""
    mean_C = known_NC.mean(axis=0)
    query_NC, known_NC = _unit(query_NC - mean_C), _unit(known_NC - mean_C)
    cosine_NN = np.where(fold_N[:, None] == fold_N[None], -np.inf, query_NC @ known_NC.T)
    count = min(NEIGHBOURS, int((fold_N[:, None] != fold_N[None]).sum(axis=1).min()))
    near_NK = np.argpartition(-cosine_NN, count - 1, axis=1)[:, :count]
    votes_NL = np.zeros((len(label_N), int(label_N.max()) + 1))
    weight_NK = np.take_along_axis(cosine_NN, near_NK, axis=1)
    np.add.at(votes_NL, (np.arange(len(label_N))[:, None], label_N[near_NK]), 1.0 + weight_NK)
    return np.asarray(votes_NL.argmax(axis=1), np.int64)


def _unit(features_NC: Floats) -> Floats:
    norm_N1 = np.linalg.norm(features_NC, axis=1, keepdims=True)
    return np.asarray(features_NC / np.maximum(norm_N1, np.finfo(np.float32).tiny), np.float32)
