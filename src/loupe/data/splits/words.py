"""Split words in names: the one rule that reads train, val, test or predict from folders, files and columns.

A name is divided into words at everything that is not a letter, and where a small letter is followed by a capital:
`seg_train`, `train1`, `pets-train-00000-of-00002` and `TrainingSet` have the word of train, `valley` and `contest`
have none. A name is a split word as a whole if nothing else is in it but words such as `set` and `images`, and digits.
"""

import re
from collections.abc import Iterable, Sequence

from loupe.errors import DataError, enumerated

PREDICT = "predict"
"""Split of images that have no labels: they are set aside for `loupe predict`."""

WORDS = {
    "train": ("train", "training", "trainset", "trainingset", "trainval"),
    "val": ("val", "valid", "validation", "valset", "validset", "validationset", "dev", "devset", "development"),
    "test": ("test", "testing", "testset", "eval", "evaluation", "evalset", "holdout", "heldout"),
    PREDICT: ("pred", "predict", "prediction", "predictions", "inference", "unlabelled", "unlabeled"),
}
SPLIT_OF_WORD = {word: split for split, words in WORDS.items() for word in words}
PAIRS = {("hold", "out"): "holdout", ("held", "out"): "heldout", ("train", "val"): "trainval"}
PAIRS |= {("un", word): f"un{word}" for word in ("labelled", "labeled")}
FILLERS = frozenset(
    {
        *("set", "sets", "data", "dataset", "datasets", "split", "splits", "subset", "part", "of"),
        *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "jpg", "jpeg", "png"),
        *("file", "files", "folder", "dir"),
    }
)

_BOUNDARY = re.compile(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])")
_SHARD = re.compile(r"(.+?)[-_.]+\d+-of-\d+")


def words_in(name: str) -> list[str]:
    """Words of a name in small letters; `hold-out` and its like are one word."""
    found: list[str] = []
    for word in filter(None, (part.casefold() for part in _BOUNDARY.split(name))):
        pair = PAIRS.get((found[-1], word)) if found else None
        if pair:
            found[-1] = pair
        else:
            found.append(word)
    return found


def splits_in(words: Iterable[str]) -> set[str]:
    """Splits that words name; only `predict` where it is among them, since such images have no labels."""
    found = {SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD}
    return {PREDICT} if PREDICT in found else found


def split_of(name: str) -> str | None:
    """Split that the words of a name mean: train, val, test or predict; None for no split or several."""
    found = splits_in(words_in(name))
    return found.pop() if len(found) == 1 else None


def rest_of(name: str) -> tuple[str, ...]:
    """Words of a name that are neither split words nor fillers such as `set` and `images`."""
    return tuple(word for word in words_in(name) if word not in SPLIT_OF_WORD and word not in FILLERS)


def is_whole(name: str) -> bool:
    """True for a name that says nothing but one split: `train`, `training_set`, `test2017`."""
    return split_of(name) is not None and not rest_of(name)


def is_exact(name: str) -> bool:
    """True for a name that is a split word and nothing else."""
    return name.strip().casefold() in SPLIT_OF_WORD


def is_filler(name: str) -> bool:
    """True for a name of words such as `images` and `data` only."""
    words = words_in(name)
    return bool(words) and all(word in FILLERS for word in words)


def ends_in_split(name: str) -> bool:
    """True if the last word of a name, without fillers, is a split word: `my_train`, but not `test_tube`."""
    words = [word for word in words_in(name) if word not in FILLERS]
    return bool(words) and words[-1] in SPLIT_OF_WORD


def known_words() -> str:
    """Split words as a list for messages."""
    return ", ".join(word for words in WORDS.values() for word in words)


def splits_of_files(names: Sequence[str], root: str) -> list[str | None]:
    """Split of each data file by its name, else by the nearest folder with a split word; None where no file has one.

    Args:
        names: paths relative to the data set, with forward slashes.
        root: name of the data set for messages.

    Raises:
        DataError: a name has words of several splits, or a file has none and others have.
    """
    levels = [_levels(name) for name in names]
    common = set.intersection(*(set(words_in(stem)) for stem, *_ in levels)) if len(names) > 1 else set()
    found = [_nearest(each, common) for each in levels]
    if several := [name for name, split in zip(names, found, strict=True) if split == ""]:
        raise DataError(
            f"{root}: {several[0]} has words of several splits in its name. Rename it with one of them, such as "
            "train-00000.parquet, or give the file a column split."
        )
    splits = {split for split in found if split}
    if len(splits) == 1 and splits != {"train"} and not any(map(_leads, levels)):
        return [None] * len(names)  # as in crash_test_images.parquet: the word tells no files apart
    if splits and (without := [name for name, split in zip(names, found, strict=True) if split is None]):
        raise DataError(
            f"{root}: {enumerated(without, most=3)} {'has' if len(without) == 1 else 'have'} no split in the name, and "
            f"the other files have ({enumerated(sorted(splits))}). Rename it, for example to train-00000.parquet; "
            "move it away; or give every file a column split."
        )
    return found


def _levels(name: str) -> list[str]:
    """Name of a file without its suffix, then its folders, the nearest first."""
    *folders, file = name.split("/")
    return [file.rpartition(".")[0] or file, *reversed(folders)]


def _nearest(levels: Sequence[str], common: set[str]) -> str | None:
    """Split of the nearest level with split words; "" where it has words of several."""
    for number, level in enumerate(levels):
        words = words_in(level)
        found = splits_in(words)
        if len(found) > 1 and number == 0:
            shard = _SHARD.match(level)
            last = words_in(shard[1])[-1:] if shard else []
            found = splits_in(last) or splits_in(word for word in words if word not in common)
        if found:
            return found.pop() if len(found) == 1 else ""
    return None


def _leads(levels: Sequence[str]) -> bool:
    """True if a split word leads the file's name or stands before the number of its shard, or is a folder's name."""
    stem, *folders = levels
    shard = _SHARD.match(stem)
    words = words_in(stem)
    ends = [*words[:1], *(words_in(shard[1])[-1:] if shard else [])]
    return bool(splits_in(ends)) or any(map(is_whole, folders))
