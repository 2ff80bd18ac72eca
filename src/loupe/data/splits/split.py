"""Train, validation and test splits, the same on every machine.

Splits in the data are kept. Missing splits are drawn from the training images (those marked train, and those without a
split), with a seed and stratified by class:

* no split, or only train: test and validation are drawn, each a fraction of all these images;
* test present: validation is drawn from train;
* validation present, but no test: no test split is drawn, because it would reduce the training set that was provided.

Images of identical content, and images of one group or of like looks (`split.group`), stay in one split. If such an
image is in a validation or test split of the data, its training copies stay in train: `loupe check` reports the
leakage, and drawn splits add none.
Unlabelled images are in no split. Each class keeps at least one training image, before test and then validation.

Images are drawn in the order of a keyed hash of their content. The order depends neither on the order of the rows nor
on the platform, and an added image changes the split of few others. Where the share of a class is no whole number, the
seed decides whether it is rounded up, so that over the seeds every class is in every split.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil

import numpy as np
from numpy.typing import NDArray

from loupe.config.recipe import SplitSpec
from loupe.data.class_names import same_form
from loupe.data.splits.grouping import grouping
from loupe.data.splits.stratify import UnitSampler
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, counted, enumerated

Indices = NDArray[np.int64]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Row indices of each split, ascending and disjoint, with notes for the user."""

    train: Indices
    val: Indices
    test: Indices
    notes: tuple[str, ...] = ()

    def rows(self, name: str) -> Indices:
        """Row indices of `train`, `val` or `test`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def digest(images: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of the sorted (content, class name) pairs of images: independent of order, run and Unicode form."""
    lines = sorted(f"{content} {same_form(name)}\n" for content, name in images)
    return sha256("".join(lines).encode()).hexdigest()


def from_names(split_N: NDArray[np.object_]) -> Split:
    """Split from the name of each image's split; images with another name are in none."""
    train, val, test = (np.flatnonzero(split_N == name).astype(np.int64) for name in SPLITS)
    return Split(train, val, test)


def assign(table: ImageTable, content: Sequence[str], spec: SplitSpec, seed: int) -> Split:
    """Keep the splits of the table and draw the missing ones, as described in the module.

    Args:
        table: images.
        content: digest of the bytes of each image.
        spec: sizes of the splits, and the selection of validation images.
        seed: seed of the draw.

    Raises:
        DataError: there are no training images or only one class, a requested split would be empty, or the sizes
            leave no training images.
    """
    split_N = np.array([split or "train" for split in table.splits], dtype=object)
    split_N[table.labels < 0] = "none"
    pool = np.flatnonzero(split_N == "train")
    _check_pool(table, pool)
    has_val, has_test = bool(np.any(split_N == "val")), bool(np.any(split_N == "test"))
    grouped = grouping(table, content, spec.group)
    unit = grouped.unit_N
    sampler = UnitSampler(
        content=content,
        labels=table.labels,
        pool=pool,
        unit=unit,
        pinned=unit[(split_N == "val") | (split_N == "test")],
        classes=table.classes,
    )
    n_test = 0 if has_test or has_val else _size(spec.test, len(pool), "test")
    n_val = 0 if has_val else _size(spec.validation, len(pool), "validation")
    if n_val + n_test >= len(pool):
        raise DataError(
            f"{table.name}: {counted(n_val, 'image')} for validation and {n_test:,} for test leave none of the "
            f"{len(pool):,} for training. Reduce split.validation and split.test."
        )
    test = sampler.stratified(n_test, key=f"test {seed}")
    if spec.choose == "stratified":
        val = sampler.stratified(n_val, key=f"val {seed}")
    else:
        val = sampler.in_order(n_val, last=spec.choose == "last")
        _check_in_order(table, sampler, spec.choose, n_val)
    for name, size, drawn in (("test", n_test, test), ("validation", n_val, val)):
        if size and not len(drawn):
            raise _nothing_to_draw(table, name, pool[~sampler.is_free[unit[pool]]].tolist(), len(pool), spec.group)
    split_N[test], split_N[val] = "test", "val"
    if spec.train is not None:
        _leave_out(table, split_N, sampler, spec.train, seed)
    is_drawn = {"test": n_test > 0, "val": n_val > 0}
    split = from_names(split_N)
    return replace(split, notes=(*grouped.notes, *_notes(table, split, is_drawn, spec.group, seed)))


def _leave_out(table: ImageTable, split_N: NDArray[np.object_], sampler: UnitSampler, size: float, seed: int) -> None:
    """Leave training images out of all splits, but for a stratified sample of that size.

    Raises:
        DataError: no image would be left.
    """
    train = np.flatnonzero(split_N == "train")
    most = _size(size, len(train), "train")
    if most >= len(train):
        return
    kept = sampler.stratified(most, key=f"train {seed}") if most else train[:0]
    if len(np.unique(table.labels[kept])) < 2:
        raise DataError(f"{table.name}: split.train={size:g} leaves fewer than two classes to learn. Raise it.")
    split_N[train] = "unused"
    split_N[kept] = "train"


def _check_pool(table: ImageTable, pool: Indices) -> None:
    if not len(pool):
        raise DataError(
            f"{table.name}: there are no labelled training images ({counted(len(table), 'image')} in all). "
            "Provide a train split beside val and test."
        )
    if len(labels := np.unique(table.labels[pool])) < 2:
        raise DataError(
            f"{table.name}: all {len(pool):,} training images have the class {table.classes[labels[0]]!r}; a "
            "classifier needs at least two. Check that the folders, or the labels, are the classes."
        )


def _size(value: float, n: int, name: str) -> int:
    """Number of images: `value` itself, or a fraction of `n` rounded up as in Keras and scikit-learn."""
    if value < 1:
        return ceil(n * value - 1e-9)  # 0.1 * 30 is 3, in spite of rounding errors
    if value != int(value):
        raise ConfigError(f"split.{name} must be a fraction below 1 or a whole number of images; got {value}.")
    return int(value)


def _check_in_order(table: ImageTable, sampler: UnitSampler, choose: str, n: int) -> None:
    """Refuse a validation split that takes all images of a class, as from data sorted by class."""
    if emptied := [table.classes[label] for label in sampler.emptied()]:
        raise DataError(
            f"{table.name}: the {choose} {counted(n, 'training image')} would take all images of "
            f"{enumerated(emptied, most=5)}. The data seem to be sorted by class. Set split.choose=stratified."
        )


def _nothing_to_draw(table: ImageTable, name: str, tied: Sequence[int], images: int, group: str) -> DataError:
    """Error where no image can be drawn for a split of `images`, with what keeps the `tied` rows from it."""
    given = [] if group == "none" else [table.groups[row] for row in tied]
    groups = list(dict.fromkeys(one for one in given if one is not None))
    settings = f"provide a {name} split, or set split.{name}=0"
    if tied and not groups and group == "near":
        return DataError(
            f"{table.name}: no image can be drawn for {name}: {len(tied):,} of {counted(images, 'training image')} "
            f"look like images of a given split, and stay in train. {settings[0].upper()}{settings[1:]}, or set "
            "split.group=given."
        )
    if not groups:
        return DataError(
            f"{table.name}: no image can be drawn for {name}: a class would have no training image. Add images, "
            f"{settings}."
        )
    return DataError(
        f"{table.name}: no image can be drawn for {name}: {len(tied):,} of {counted(images, 'training image')} "
        f"belong to groups that are also in a given split ({enumerated(groups, most=5)}), and a group stays in one "
        f"split. Give each group one split, {settings}, or leave the groups out with --columns group="
    )


def _divided_groups(table: ImageTable, split: Split) -> list[str]:
    """Groups that are in more than one split, as only given splits can have them."""
    of_group: dict[str, set[str]] = {}
    for name in SPLITS:
        for row in split.rows(name).tolist():
            if (group := table.groups[row]) is not None:
                of_group.setdefault(group, set()).add(name)
    return [group for group, names in of_group.items() if len(names) > 1]


def _notes(table: ImageTable, split: Split, is_drawn: Mapping[str, bool], group: str, seed: int) -> Iterator[str]:
    """Sizes of the splits, and classes that a split lacks, as sentences."""
    origin = {name: f" (drawn from train, seed {seed})" if is_drawn.get(name) else "" for name in SPLITS}
    yield "Split: " + ", ".join(f"{name} {len(split.rows(name)):,}{origin[name]}" for name in SPLITS) + "."
    if len(split.val) and not len(split.test) and not is_drawn["val"]:
        yield "The data has a validation split and no test split. None is drawn, so no test result is reported."
    divided = _divided_groups(table, split)
    if divided and group == "none" and any(is_drawn.values()):
        yield f"{counted(len(divided), 'group')} of the data divided between splits, as split.group=none asks for."
    elif divided:
        yield (
            f"{counted(len(divided), 'group')} {'is' if len(divided) == 1 else 'are'} in more than one of the given "
            f"splits ({enumerated(divided, most=5)}): figures may be too high. Give each group one split."
        )
    if unlabelled := int((table.labels < 0).sum()):
        yield f"{counted(unlabelled, 'image')} without a label left out."
    if unused := len(table) - unlabelled - sum(len(split.rows(name)) for name in SPLITS):
        yield f"{counted(unused, 'training image')} not used, as split.train asks for."
    for name in SPLITS:
        present = set(table.labels[split.rows(name)].tolist())
        absent = [label for i, label in enumerate(table.classes) if i not in present]
        if len(split.rows(name)) and absent:
            yield f"The split {name} has no images of {enumerated(absent, most=5)}."
