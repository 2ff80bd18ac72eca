"""Splits of a list of images without a column of splits, by split folders in the paths that it names."""

from collections.abc import Sequence

from loupe.data.class_names import same_form
from loupe.data.splits.words import PREDICT, is_whole, split_of
from loupe.errors import counted, enumerated


def splits_of_paths(
    paths: Sequence[str | None], labels: Sequence[str]
) -> tuple[list[tuple[str, str]] | None, str | None]:
    """Split folder and split of each path, and a note.

    A folder of the path that is named by a split alone (`train`, `test_images`) is a split folder, the nearest to the
    file first; folders that all paths have in common do not count. The splits are taken if each path has such a
    folder, there are training images and others, and these have classes of the training images.

    Returns:
        folder and split for each path, or None if they are not taken; a sentence about it, or None if no folder of the
        paths is a split.
    """
    folders = {path: [] if path is None else path.replace("\\", "/").split("/")[:-1] for path in dict.fromkeys(paths)}
    common = _common([*folders.values()])
    nearest = {path: _nearest(parts[common:]) for path, parts in folders.items()}
    found = [nearest[path] for path in paths]
    known = [pair for pair in found if pair]
    kinds = {split for _, split in known}
    names = enumerated(sorted({folder for folder, _ in known}), most=5)
    if "train" not in kinds or kinds <= {"train", PREDICT}:
        return None, None
    if len(known) < len(paths):
        rows = len(paths) - len(known)
        reason = f"{counted(rows, 'path')} {'has' if rows == 1 else 'have'} no such folder"
    elif not _share_classes(known, labels):
        reason = "they have no class in common"
    else:
        return known, f"Splits are those of the folders in the paths: {names}. To draw them: --columns split="
    return None, (
        f"There is no column of splits. {names} in the paths could be splits, but {reason}: splits are drawn. To give "
        "them, add a column split with train, val and test."
    )


def _share_classes(known: Sequence[tuple[str, str]], labels: Sequence[str]) -> bool:
    """True if each split of labelled images has a class of the training images."""
    classes: dict[str, set[str]] = {}
    for (_, split), label in zip(known, labels, strict=True):
        classes.setdefault(split, set()).add(same_form(label))
    return all(names & classes["train"] for split, names in classes.items() if split != PREDICT)


def _common(folders: Sequence[list[str]]) -> int:
    """Number of leading folders that all paths have in common."""
    depth = 0
    while folders and all(len(parts) > depth for parts in folders) and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    return depth


def _nearest(folders: Sequence[str]) -> tuple[str, str] | None:
    for folder in reversed(folders):
        if is_whole(folder) and (split := split_of(folder)):
            return folder, split
    return None
