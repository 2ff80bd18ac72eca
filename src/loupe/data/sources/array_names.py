"""Names of arrays: which hold images and which labels, of which split."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loupe.data.splits.words import PREDICT, SPLIT_OF_WORD, splits_in, words_in
from loupe.errors import DataError, enumerated

# Words for images and for labels, by the names of Keras, MedMNIST and scikit-learn, and common ones.
IMAGE_WORDS = frozenset({"x", "images", "image", "imgs", "data"})
LABEL_WORDS = frozenset({"y", "labels", "label", "target", "targets"})
LAYOUTS = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target"))  # of arrays without a split
EXPECTED = "x_train, y_train, x_test, y_test, or train_images, train_labels, ..., or images, labels, or x, y"


def paired(data: Mapping[Any, Any], name: str) -> list[tuple[Any, Any, str | None, str]]:
    """Images, labels, split and name of each pair of arrays; pairs without a split only where none has one.

    Raises:
        DataError: there is no pair, or images of a split are without labels, or the other way round.
    """
    found = pairs([key for key in data if isinstance(key, str)])
    for pair in found.values():
        if len(pair) == 1:
            [(kind, has)] = pair.items()
            lacks = _partner(has, kind)
            raise DataError(f"{name}: {has} is given without {lacks}. Give both, or neither.")
    order = {"train": 0, "val": 1, "test": 2}
    by_split = sorted(found.items(), key=lambda item: order[item[0][0]])
    if by_split:
        return [(data[pair["x"]], data[pair["y"]], split, pair["x"]) for (split, _), pair in by_split]
    for x, y in LAYOUTS:
        if x in data and y in data:
            return [(data[x], data[y], None, x)]
    raise DataError(
        f"{name}: no images and labels among its arrays ({enumerated([*map(str, data)], most=5)}). "
        f"Name them {EXPECTED}."
    )


def pairs(keys: Sequence[str]) -> dict[tuple[str, tuple[str, ...]], dict[str, str]]:
    """Names of images (`x`) and labels (`y`) by split and its words, such as the pair `x_train` and `y_train`."""
    found: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
    for key in keys:
        words = words_in(key)
        kinds = [kind for kind, of in (("x", IMAGE_WORDS), ("y", LABEL_WORDS)) if of & set(words)]
        splits = splits_in(words) - {PREDICT}
        rest = tuple(word for word in words if word not in IMAGE_WORDS | LABEL_WORDS)
        if len(kinds) == 1 and len(splits) == 1 and all(word in SPLIT_OF_WORD for word in rest):
            style = "x" if set(words) & {"x", "y"} else "images"
            found.setdefault((splits.pop(), (style, *rest)), {})[kinds[0]] = key
    return found


def _partner(key: str, kind: str) -> str:
    """Name that the other array of a pair is expected to have."""
    names = {"x": "y", "y": "x", "images": "labels", "labels": "images", "data": "target", "target": "data"}
    word = next((word for word in names if word in words_in(key)), None)
    if word is None:
        return "its labels" if kind == "x" else "its images"
    return re.sub(rf"(?<![a-z]){word}(?![a-z])", names[word], key, flags=re.IGNORECASE)
