"""Fixed numbers of the random draws of the augmentations."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Draw(IntEnum):
    """Fixed number of each random draw. A new augmentation takes the next free number, so that the others keep theirs.

    A changed number would change the random values of existing recipes.
    """

    ROTATION = 0
    ROW_SHIFT = 1
    COLUMN_SHIFT = 2
    HORIZONTAL_FLIP = 3
    VERTICAL_FLIP = 4
    SHEAR = 5
    ROW_ZOOM = 6
    COLUMN_ZOOM = 7
    CROP_ROW = 8
    CROP_COLUMN = 9
    RESIZED_ROW = 10
    RESIZED_COLUMN = 11
    RESIZED_AREA = 12
    RESIZED_RATIO = 13
    CUTOUT_ROW = 14
    CUTOUT_COLUMN = 15
    BRIGHTNESS = 16
    PARTNER = 17
    MIX_WEIGHT = 18
    MIX_CHOICE = 19
    CUTMIX_ROW = 20
    CUTMIX_COLUMN = 21


Draws = dict[Draw, npt.NDArray[np.float64]]
