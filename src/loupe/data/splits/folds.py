"""Cross-validation folds: every image outside the test split is in one validation fold.

scikit-learn's StratifiedGroupKFold draws the folds, stratified by class. Images of identical content and images of one
group stay together. Where a class cannot be divided equally, the seed decides which folds have more of it: scikit-learn
prefers some folds for the first classes and others for the last, so the folds are then numbered anew.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.config.recipe import SplitSpec
from loupe.data.keyed_order import turns
from loupe.data.splits.grouping import grouping
from loupe.data.splits.split import Split, assign
from loupe.data.splits.split_file import known, stored
from loupe.data.splits.stratify import Indices
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, enumerated

LEAST_FOLDS, USUAL_FOLDS = 2, 5
GIVEN = SplitSpec().group


def most_folds(
    split_file: Path, table: ImageTable | None = None, content: Sequence[str] = (), *, group: str = GIVEN
) -> int:
    """Number of folds to advise for the images of a split file: 5, or fewer where a class has fewer images.

    Copies count once, and images of test splits or without a label not at all.

    Args:
        split_file: split of a run.
        table: its images, of which groups count once; without them groups are unknown.
        content: their hashes.
        group: images that stay in one fold, as in `SplitSpec`.

    Raises:
        RunStateError: the file cannot be read.
    """
    if table is not None:
        split_N = known(split_file, table, content)
        rows_N = np.flatnonzero(np.isin(split_N, ("train", "val")) & (table.labels >= 0))
        unit_N = grouping(table, content, group).unit_N[rows_N]
        return min([USUAL_FOLDS, *_units_of_classes(table.labels[rows_N], unit_N).values()])
    kept = {
        (label, digest) for label, split, digest in stored(split_file).values() if label and split in ("train", "val")
    }
    return min([USUAL_FOLDS, *Counter(label for label, _ in kept).values()])


def fold(table: ImageTable, content: Sequence[str], spec: SplitSpec, seed: int, *, number: int, folds: int) -> Split:
    """Split whose validation images are fold `number`, from 1.

    The test split of `spec` is in no fold, so that it stays locked during cross-validation.

    Raises:
        ConfigError: `folds` is below 2.
        DataError: a class has fewer images than folds, with copies and groups counted once.
    """
    if folds < LEAST_FOLDS:
        raise ConfigError(f"cross-validation needs at least {LEAST_FOLDS} folds; got {folds}.")
    split = assign(table, content, spec, seed)
    pool = np.sort(np.concatenate([split.train, split.val]))
    number_N = numbers(table, content, pool, folds=folds, seed=seed, group=spec.group)
    train, val = pool[number_N != number - 1], pool[number_N == number - 1]
    note = f"Fold {number} of {folds}: train {len(train):,}, val {len(val):,}. Test images are left out."
    of_units = grouping(table, content, spec.group).notes
    return Split(train, val, np.array([], dtype=np.int64), (*of_units, note))


def numbers(
    table: ImageTable, content: Sequence[str], rows_N: Indices, *, folds: int, seed: int, group: str = GIVEN
) -> Indices:
    """Fold of each row, from 0.

    Args:
        table: images.
        content: digest of each image.
        rows_N: rows to be divided.
        folds: number of folds.
        seed: seed of the draw.
        group: images that stay in one fold, as in `SplitSpec`.

    Raises:
        DataError: a class has fewer images than folds, with copies and groups counted once.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes 0.7 s to import; most trainings have no folds

    labels, unit = table.labels[rows_N], grouping(table, content, group).unit_N[rows_N]
    count = _units_of_classes(labels, unit)
    if scarce := [table.classes[label] for label, number in count.items() if number < folds]:
        most = min(count.values())
        remedy = f"Use at most {most} folds, or add images." if most >= LEAST_FOLDS else "Add images of these classes."
        raise DataError(
            f"{table.name}: {folds} folds need at least {folds} images of each class, with copies and groups counted "
            f"once. There are fewer of {enumerated(scarce, most=5)}. {remedy}"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    number_N = np.empty(len(rows_N), np.int64)
    for number, (_, val) in enumerate(splitter.split(np.zeros(len(rows_N)), labels, groups=unit)):
        number_N[val] = number
    count_FK = np.zeros((folds, len(table.classes)), np.int64)
    np.add.at(count_FK, (number_N, labels), 1)
    if np.all(count_FK == count_FK[0]):
        return number_N
    return turns(f"folds {seed}", [str(number) for number in range(folds)])[number_N]


def as_many_as_fit(
    table: ImageTable, content: Sequence[str], rows_N: Indices, *, seed: int, group: str = GIVEN
) -> Indices:
    """Fold of each row, from 0, in 5 folds, or in fewer where a class has fewer images.

    Copies and groups count once. Without any one fold, the rows have two classes or more.

    Args:
        table, content, rows_N, seed, group: as for `numbers`.

    Raises:
        DataError: a class has one image, or all images but those of one class are in one group.
    """
    reason = DataError(f"{table.name}: all images but those of one class are in one group.")
    labels_N = table.labels[rows_N]
    for folds in range(USUAL_FOLDS, LEAST_FOLDS - 1, -1):
        try:
            number_N = numbers(table, content, rows_N, folds=folds, seed=seed, group=group)
        except DataError as error:
            reason = error
            continue
        if all(len(np.unique(labels_N[number_N != fold])) > 1 for fold in range(folds)):
            return np.unique(number_N, return_inverse=True)[1].astype(np.int64)
    raise reason


def _units_of_classes(label_N: Indices, unit_N: Indices) -> dict[int, int]:
    """Number of units of each class: images, with copies and groups counted once."""
    pairs = np.unique(np.stack([label_N, unit_N]), axis=1)
    labels, counts = np.unique(pairs[0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))
