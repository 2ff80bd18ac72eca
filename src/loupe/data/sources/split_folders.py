"""Decision on folders: which of them are splits, which are classes, and which hold unlabelled images.

A folder with a split word in its name (`splits/words.py`) is a split where its siblings show it: a folder of training
images is among them, and they have class folders in common or are named by the split alone. Otherwise it is a class,
as in `plane/ train/ car/` or `test_tube/ valley/`. Where both could be meant, it is refused.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loupe.data.class_names import same_form
from loupe.data.splits.words import PREDICT, ends_in_split, is_filler, is_whole, rest_of, split_of, words_in
from loupe.errors import DataError, enumerated

EXPECTED = """expected a folder for each class, with or without split folders above them:
    DATA/cat/1.jpg  DATA/dog/2.jpg
    DATA/train/cat/1.jpg  DATA/val/cat/2.jpg  DATA/test/dog/3.jpg
or a CSV file with the columns path,label."""
REMEDY = (
    "Splits: name these folders train, val and test, with the class folders in each. Classes: rename them without "
    "split words, or list the images in a CSV file with the columns path,label."
)
UNKNOWN = frozenset({"unknown", "all", "class", "classes", "none"})


Parts = tuple[str, ...]
"""Folders in the relative path of an image, then "" for its file: the same object for all images of a folder."""


@dataclass
class TopFolder:
    """One of the folders in which the images lie.

    Attributes:
        inner: lone folders in it, on the way to its class folders: `seg_train/seg_train/cat/1.jpg`.
        direct: number of images in it, outside of any folder below `inner`.
        children: images of each folder below `inner`.
        deeper: those children that have folders themselves.
    """

    name: str
    inner: tuple[str, ...] = ()
    direct: int = 0
    children: Counter[str] = field(default_factory=Counter)
    deeper: set[str] = field(default_factory=set)

    @property
    def forms(self) -> set[str]:
        return {same_form(name) for name in self.children}

    @property
    def lone_child(self) -> str | None:
        return next(iter(self.children)) if len(self.children) == 1 and not self.direct else None


def top_folders(names: Sequence[Parts]) -> dict[str, TopFolder]:
    tops: dict[str, TopFolder] = {}
    for parts, images in Counter(names).items():
        if len(parts) > 1:
            _count(tops.setdefault(parts[0], TopFolder(parts[0])), parts[1:], images)
    return tops


def _count(top: TopFolder, below: Parts, images: int) -> None:
    """Count images, whose folders are `below` the folder."""
    if len(below) == 1:
        top.direct += images
        return
    top.children[below[0]] += images
    if len(below) > 2:
        top.deeper.add(below[0])


def _descended(top: TopFolder, names: Sequence[Parts]) -> TopFolder:
    """The same folder, read from its lone child on."""
    assert top.lone_child is not None
    inner = (*top.inner, top.lone_child)
    lower = TopFolder(top.name, inner)
    for parts, images in Counter(names).items():
        if parts[0] == top.name and len(parts) > 1:
            _count(lower, parts[1 + len(inner) :], images)
    return lower


def entered(top: TopFolder, names: Sequence[Parts]) -> TopFolder:
    """A folder with a split word, entered where it only holds itself again: `test/test/*.jpg`."""
    while (child := top.lone_child) is not None and (split := split_of(top.name)) and split_of(child) == split:
        top = _descended(top, names)
    return top


def all_entered(tops: dict[str, TopFolder], splits: Mapping[str, str], names: Sequence[Parts]) -> dict[str, TopFolder]:
    """Split folders entered where they hold one folder, in which the class folders are: `train/images/cat/1.jpg`."""
    while True:
        nested = [tops[name] for name in splits if tops[name].children]
        several = set[str]().union(*(top.forms for top in nested if len(top.children) > 1))
        lone = [top for top in nested if top.lone_child in top.deeper and not top.forms & several]
        chosen = lone if len(lone) == len(nested) else [top for top in lone if is_filler(str(top.lone_child))]
        if not chosen:
            return tops
        tops = tops | {top.name: _descended(top, names) for top in chosen}


def split_folders(tops: Mapping[str, TopFolder], folder: str) -> dict[str, str]:
    """Folders that are splits, and their split; empty where all folders are classes.

    Raises:
        DataError: the folders could be splits or classes.
    """
    worded = {name: split for name in tops if (split := split_of(name))}
    nested = {name for name in worded if tops[name].children}
    plain = [name for name in tops if name not in worded]
    kinds = set(worded.values()) - {PREDICT}
    if not kinds:
        return {}
    alike = len({rest_of(name) for name in worded}) == 1 and len(set(worded.values())) > 1
    named = {name for name in worded if is_whole(name) or alike}  # nothing but the split tells them apart
    if not nested:
        _check_flat(worded, named, plain, folder)
        return {}
    forms = set[str]().union(*(tops[name].forms for name in nested))
    beside = [name for name in plain if tops[name].forms & forms]
    if len(set(worded.values())) == 1:
        return _one_kind(tops, worded, named, plain, beside, folder)
    shared, all_named = _shared(tops, worded), set(worded) <= named
    trained = any(worded[name] == "train" for name in nested)
    if shared and not all_named and (beside or not trained):
        raise _either(folder, worded, beside)
    if nested <= named or (trained and (shared or named or (not plain and kinds == {"train"}))):
        return worded
    return {}


def _one_kind(
    tops: Mapping[str, TopFolder],
    worded: dict[str, str],
    named: set[str],
    plain: list[str],
    beside: list[str],
    folder: str,
) -> dict[str, str]:
    """The same for folders with the words of one split."""
    if not named:
        forms = [tops[name].forms for name in worded if ends_in_split(name)]
        if forms and (beside or (len(forms) > 1 and set.intersection(*forms))):
            raise _either(folder, worded, beside)
        return {}
    if not named & {name for name in worded if tops[name].children}:
        return {}
    if len(plain) > 1 or (beside and "train" not in worded.values()):
        raise DataError(
            f"{folder}: {next(iter(worded))!r} could be a split, or a class beside "
            f"{enumerated(sorted(plain), most=5)}. Move the other folders away, or rename that folder; {EXPECTED}"
        )
    return worded


def _shared(tops: Mapping[str, TopFolder], worded: Mapping[str, str]) -> bool:
    """True if folders of two splits have class folders of the same name."""
    owner: dict[str, str] = {}
    return any(owner.setdefault(form, worded[name]) != worded[name] for name in worded for form in tops[name].forms)


def _check_flat(worded: Mapping[str, str], named: set[str], plain: Sequence[str], folder: str) -> None:
    """Refuse folders of images that are splits without class folders, or name a class and a split in one.

    Raises:
        DataError: as said.
    """
    real = {name: split for name, split in worded.items() if split != PREDICT}
    if not plain and set(worded) <= named:
        raise DataError(
            f"{folder}: the images in {enumerated(sorted(worded), most=5)} are outside of class folders; {EXPECTED}"
        )
    by_rest: dict[tuple[str, ...], set[str]] = {}
    for name, split in real.items():
        by_rest.setdefault(rest_of(name), set()).add(split)
    classes = {tuple(words_in(name)) for name in plain} - {()}
    paired = [name for name in real if rest_of(name) in classes]  # as in cats, cats_test, dogs, dogs_test
    if any(len(splits) > 1 for splits in by_rest.values()) or len(paired) > 1 or any(map(ends_in_split, paired)):
        raise _either(folder, real, plain if paired else [])


def _either(folder: str, worded: Mapping[str, str], beside: Sequence[str]) -> DataError:
    rest = f", beside {enumerated(sorted(beside), most=5)}" if beside else ""
    return DataError(
        f"{folder}: {enumerated(sorted(worded), most=5)} have split words in their names{rest}, and could be splits or "
        f"classes. {REMEDY}"
    )


def set_aside(tops: Mapping[str, TopFolder]) -> set[str]:
    """Folders beside class folders that hold unlabelled images: `unlabelled/*.jpg`, `test/test/*.jpg`."""
    flat = [top for top in tops.values() if not top.children and is_whole(top.name)]
    return {top.name for top in flat if split_of(top.name) == PREDICT or (top.inner and split_of(top.name) != "train")}


def splits_below(tops: Mapping[str, TopFolder], folder: str) -> dict[str, str]:
    """Split of each folder below the class folders, in the layout `cat/train/1.jpg`; empty for another layout.

    Raises:
        DataError: some of the class folders are divided like this, and others are not.
    """
    splits = {name: split_of(name) for top in tops.values() for name in top.children if is_whole(name)}
    divided = [
        name
        for name, top in tops.items()
        if set(top.children) <= splits.keys() and len({splits[child] for child in top.children}) > 1 and not top.direct
    ]
    if not divided:
        return {}
    known = {name: split for name, split in splits.items() if split}
    rest = [name for name, top in tops.items() if top.direct or not set(top.children) <= splits.keys()]
    if rest:
        raise DataError(
            f"{folder}: {enumerated(sorted(divided), most=3)} have the splits "
            f"{enumerated(sorted({*known.values()}))} in them, and {enumerated(sorted(rest), most=3)} have not. "
            f"Divide all class folders like this, or none; {EXPECTED}"
        )
    return known


def unlabelled(tops: Mapping[str, TopFolder], splits: Mapping[str, str]) -> Iterator[str]:
    """Split folders, but those of training images, whose images have no class folder, or one that names no class."""
    trained = set[str]().union(*(tops[name].forms for name in splits if splits[name] == "train"))
    for name, split in splits.items():
        top = tops[name]
        child = top.lone_child
        nameless = child is not None and same_form(child) not in trained and _names_no_class(child)
        if split == PREDICT or (split != "train" and (not top.children or (trained and nameless))):
            yield name


def _names_no_class(name: str) -> bool:
    return is_whole(name) or is_filler(name) or set(words_in(name)) & UNKNOWN != set()
