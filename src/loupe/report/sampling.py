"""Sample of images in which the classes take turns."""

from collections.abc import Sequence

import numpy as np

from loupe.augment import random
from loupe.data.keyed_order import turns


def in_turn(label_M: np.ndarray, classes: Sequence[str], seed: int, most: int) -> np.ndarray:
    """Positions of at most `most` images, alternating between the classes; the seed draws images and classes.

    Args:
        label_M: class of each image; -1 for images without a label, which take a turn of their own.
        classes: names, by which the classes to begin with are drawn where there are more of them than images.
    """
    order_M = random.permutation(seed, 0, np.arange(len(label_M)))
    turn_M = np.empty(len(label_M), np.int64)
    for label in np.unique(label_M):
        mine = order_M[label_M[order_M] == label]
        turn_M[mine] = np.arange(len(mine))
    class_turn_K = np.append(turns(f"samples {seed}", classes), len(classes))  # the last is that of label -1
    drawn = np.lexsort((class_turn_K[label_M], turn_M))[:most]
    chosen: np.ndarray = drawn[np.lexsort((label_M[drawn], turn_M[drawn]))]
    return chosen
