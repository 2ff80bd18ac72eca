"""Train, validation and test: which image is on which side, the same on every machine.

Splits that the data gives are kept. What is not given is carved from the training images (those given as train, and
those without a split), seeded and stratified by class:

* nothing given, or only train: test and validation are carved, each a fraction of all these images;
* test given: validation is carved from train;
* validation given, but no test: no test split is carved. Who gives a validation set has said how the model is to be
  judged while it is built, and images set aside for a test would be missing from the train set that was given.

Images of identical content, and images of one group, stay on one side. Those that are tied to an image of a given
validation or test split stay in train: there `loupe check` reports the leakage, and nothing carved adds to it.
Unlabelled images are in no split. Each class keeps a training image before test, then validation, get any of it.

The order in which images are drawn is that of a keyed hash of their content, not of a random stream: it depends
neither on the order of the rows nor on the platform, and an image that is added moves few others.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe import csv_files
from loupe.config.recipe import SplitSpec
from loupe.data.splits.stratify import Carver, units
from loupe.data.table import ImageTable, counted, shown
from loupe.errors import ConfigError, DataError, RunStateError

Indices = NDArray[np.int64]
PARTS = ("train", "val", "test")
HEADER = ("path", "label", "split", "content")


@dataclass(frozen=True)
class Split:
    """Row indices of each part, ascending and disjoint. `notes` say what a person should know about them."""

    train: Indices
    val: Indices
    test: Indices
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> Indices:
        """The images of train, val or test."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def digest(images: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the sorted (content, class name) of images: the same for the same ones, whatever run they are in."""
    lines = sorted(f"{content} {name}\n" for content, name in images)
    return sha256("".join(lines).encode()).hexdigest()


def assign(table: ImageTable, content: Sequence[str], spec: SplitSpec, seed: int) -> Split:
    """Keeps the splits that the table gives and carves the others, as the module says.

    `content` holds a digest of each image's bytes. LoupeError where there is nothing to learn from, where a part that
    was asked for would be empty, or where the sizes leave no training images.
    """
    part = np.array([split or "train" for split in table.splits], dtype=object)
    part[table.labels < 0] = "none"
    pool = np.flatnonzero(part == "train")
    _check_pool(table, pool)
    has_val, has_test = bool(np.any(part == "val")), bool(np.any(part == "test"))
    unit = units(content, table.groups)
    carver = Carver(
        content=content,
        labels=table.labels,
        pool=pool,
        unit=unit,
        pinned=set(unit[(part == "val") | (part == "test")].tolist()),
        n_classes=len(table.classes),
    )
    n_test = 0 if has_test or has_val else _size(spec.test, len(pool), "test")
    n_val = 0 if has_val else _size(spec.validation, len(pool), "validation")
    if n_val + n_test >= len(pool):
        raise DataError(
            f"{table.name}: {n_val:,} images for validation and {n_test:,} for test leave none of the {len(pool):,} to "
            "train on. Make split.validation and split.test smaller."
        )
    test = carver.stratified(n_test, key=f"test {seed}")
    if spec.choose == "stratified":
        val = carver.stratified(n_val, key=f"val {seed}")
    else:
        val = carver.in_order(n_val, last=spec.choose == "last")
        _check_in_order(table, carver, spec.choose, n_val)
    for name, wanted, drawn in (("test", n_test, test), ("validation", n_val, val)):
        if wanted and not len(drawn):
            raise DataError(
                f"{table.name}: no image can be set aside for {name} without leaving a class, or a group, without a "
                f"training image. Add images, give a {name} split, or set split.{name}=0."
            )
    part[test], part[val] = "test", "val"
    carved = {"test": n_test > 0, "val": n_val > 0}
    split = _from_parts(part)
    return replace(split, notes=tuple(_notes(table, split, carved, seed)))


def write(path: Path, table: ImageTable, content: Sequence[str], split: Split) -> None:
    """The split as CSV: path, label (the class name), split, content; a row for each image, in the order of the table.

    `split` is empty for an image that is in none, and `label` for one without.
    """
    part = _part_names(split, len(table))
    names = [table.classes[label] if label >= 0 else "" for label in table.labels.tolist()]
    csv_files.write(path, HEADER, zip(table.paths, names, part, content, strict=True))


def read(path: Path, table: ImageTable, content: Sequence[str]) -> Split:
    """The split that `write` wrote, for the same images in any order, matched by path and content.

    LoupeError where images have come, gone, changed or been labelled otherwise since: the split would no longer be the
    one that the run was trained and judged by.
    """
    rows = stored(path)
    names = [table.classes[label] if label >= 0 else "" for label in table.labels.tolist()]
    here = dict(zip(table.paths, zip(names, content, strict=True), strict=True))
    changes = {
        "new": [name for name in here if name not in rows],
        "gone": [name for name in rows if name not in here],
        "changed": [name for name in here if name in rows and here[name][1] != rows[name][2]],
        "labelled otherwise": [name for name in here if name in rows and here[name][0] != rows[name][0]],
    }
    if any(changes.values()):
        listed = "; ".join(f"{len(found):,} {kind} ({shown(found, 3)})" for kind, found in changes.items() if found)
        raise DataError(
            f"{table.name}: the images are not those of {path}: {listed}. Restore the data, or start a new run, which "
            "splits the images as they are now."
        )
    part = np.array([rows[name][1] for name in table.paths], dtype=object)
    return _from_parts(part)


def known(path: Path, table: ImageTable, content: Sequence[str]) -> NDArray[np.object_]:
    """The part that a split file has each image in, by content, wherever it lies now; empty for images not in it.

    Where copies of one image are in several parts, the path decides; else the first of train, val and test: an image
    that trained is never taken for one that did not. LoupeError where the file cannot be read as a split.
    """
    rows = stored(path)
    by_content = {digest: part for name in reversed(PARTS) for _, part, digest in rows.values() if part == name}
    here = zip(table.paths, content, strict=True)
    parts = [
        rows[name][1] if name in rows and rows[name][2] == digest else by_content.get(digest, "")
        for name, digest in here
    ]
    return np.array(parts, dtype=object)


def stored(path: Path) -> dict[str, tuple[str, str, str]]:
    """(label, split, content) of each path in a split file; LoupeError where it cannot be read as one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RunStateError(f"{path}: cannot be read as a split file: {error}. Start a new run.") from None
    wrong = [row for row in rows if len(row) != len(HEADER) or row[2] not in ("", *PARTS)]
    if tuple(header) != HEADER or wrong:
        raise RunStateError(f"{path}: not a split file as Loupe writes it ({','.join(HEADER)}). Start a new run.")
    return {name: (label, part, digest) for name, label, part, digest in rows}


def _from_parts(part: NDArray[np.object_]) -> Split:
    train, val, test = (np.flatnonzero(part == name).astype(np.int64) for name in PARTS)
    return Split(train, val, test)


def _part_names(split: Split, n: int) -> list[str]:
    names = [""] * n
    for part in PARTS:
        for i in split.part(part).tolist():
            names[i] = part
    return names


def _check_pool(table: ImageTable, pool: Indices) -> None:
    if not len(pool):
        raise DataError(
            f"{table.name}: there are no labelled training images in it ({counted(len(table), 'image')} in all). "
            "Give a train split beside val and test."
        )
    if len(found := np.unique(table.labels[pool])) < 2:
        raise DataError(
            f"{table.name}: all {len(pool):,} training images are of the class {table.classes[found[0]]!r}; a "
            "classifier needs at least two. Check that the folders, or the labels, are the classes."
        )


def _size(value: float, n: int, name: str) -> int:
    """A fraction of `n`, rounded up as Keras and scikit-learn do, or a number of images."""
    if value < 1:
        return ceil(n * value - 1e-9)  # 0.1 * 30 shall be 3, not the 4 of a rounding error
    if value != int(value):
        raise ConfigError(f"split.{name} is a fraction below 1 or a whole number of images; got {value}.")
    return int(value)


def _check_in_order(table: ImageTable, carver: Carver, choose: str, n: int) -> None:
    """Data sorted by class has whole classes at its ends."""
    if lost := [table.classes[label] for label in carver.emptied()]:
        raise DataError(
            f"{table.name}: the {choose} {n:,} training images hold all there are of {shown(lost)}; the data seem to "
            "be sorted by class. Set split.choose=stratified."
        )


def _notes(table: ImageTable, split: Split, carved: Mapping[str, bool], seed: int) -> Iterator[str]:
    """How the images are split, and which classes a part lacks."""
    how = {name: f" (carved from train, seed {seed})" if carved.get(name) else "" for name in PARTS}
    yield "Split: " + ", ".join(f"{name} {len(split.part(name)):,}{how[name]}" for name in PARTS) + "."
    if len(split.val) and not len(split.test) and not carved["val"]:
        yield "A validation split is given and no test split: none is carved, and no test result will be reported."
    if unlabelled := len(table) - sum(len(split.part(name)) for name in PARTS):
        yield f"{counted(unlabelled, 'image')} without a label left out."
    for name in PARTS:
        present = set(table.labels[split.part(name)].tolist())
        absent = [label for i, label in enumerate(table.classes) if i not in present]
        if len(split.part(name)) and absent:
            yield f"The split {name} has no images of {shown(absent)}."
