"""Use of each folder, file, array or value of a source of images: what `loupe check` shows of its layout."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loupe.data.class_names import sorted_classes


@dataclass(frozen=True)
class SourceUse:
    """Use of one folder, file, array or value of a column: what `loupe check` shows of the layout.

    Attributes:
        source: the folder, file, name of an array, or value of the column `split`.
        use: train, val, test, `class` (of images without a split), `no split`, `predict` (set aside) or `skipped`.
        classes: names of its classes.
        images: number of its images.
    """

    source: str
    use: str
    classes: tuple[str, ...]
    images: int


def uses_of_splits(
    words: Sequence[str | None],
    splits: Sequence[str | None],
    labels: Sequence[str | None],
    name: str = "no split given",
) -> tuple[SourceUse, ...]:
    """Use of each value of a column `split`, from that column, the splits that it means, and the labels of the rows.

    Args:
        name: source of rows that have no value in the column.
    """
    images = Counter(zip(words, splits, strict=True))
    classes: dict[tuple[str | None, str | None], dict[str | None, None]] = {key: {} for key in images}
    if len(images) == 1:
        classes = {key: dict.fromkeys(labels) for key in images}
    else:
        for word, split, label in zip(words, splits, labels, strict=True):
            classes[word, split][label] = None
    for found in classes.values():
        found.pop(None, None)
    return tuple(
        SourceUse(f"split {word}" if word else name, split or "no split", sorted_classes(classes[word, split]), count)
        for (word, split), count in images.items()
    )
