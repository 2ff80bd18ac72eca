"""Folds for cross-validation: every image that is not locked away for testing is validated on once.

scikit-learn's StratifiedGroupKFold draws them, by class; images of identical content and of one group stay together.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from loupe.config.recipe import SplitSpec
from loupe.data.splits.split import Split, assign
from loupe.data.splits.stratify import Indices, units
from loupe.data.table import ImageTable, shown
from loupe.errors import ConfigError, DataError


def fold(table: ImageTable, content: Sequence[str], spec: SplitSpec, seed: int, *, number: int, folds: int) -> Split:
    """The split whose validation part is fold `number` (from 1); over all numbers, each image is in one such part.

    What `spec` makes the test split is left out of all of them: it stays locked, whatever cross-validation chooses.

    Raises:
        LoupeError: fewer than two folds, or fewer images of a class, copies and groups counted once, than folds.
    """
    if folds < 2:
        raise ConfigError(f"cross-validation needs at least 2 folds; got {folds}.")
    split = assign(table, content, spec, seed)
    pool = np.sort(np.concatenate([split.train, split.val]))
    number_N = numbers(table, content, pool, folds=folds, seed=seed)
    train, val = pool[number_N != number - 1], pool[number_N == number - 1]
    note = f"Fold {number} of {folds}: train {len(train):,}, val {len(val):,}; the test images are left out."
    return Split(train, val, np.array([], dtype=np.int64), (note,))


def numbers(table: ImageTable, content: Sequence[str], rows_N: Indices, *, folds: int, seed: int) -> Indices:
    """The fold, from 0, of each of these rows.

    Raises:
        LoupeError: fewer images of a class among them, copies and groups counted once, than folds.
    """
    labels, unit = table.labels[rows_N], units(content, table.groups)[rows_N]
    present = np.unique(labels).tolist()
    scarce = [table.classes[label] for label in present if len(np.unique(unit[labels == label])) < folds]
    if scarce:
        raise DataError(
            f"{table.name}: {folds} folds need as many images of each class, copies and groups counted once; there "
            f"are fewer of {shown(scarce)}. Choose fewer folds, or add images."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    number_N = np.empty(len(rows_N), np.int64)
    for number, (_, val) in enumerate(splitter.split(np.zeros(len(rows_N)), labels, groups=unit)):
        number_N[val] = number
    return number_N
