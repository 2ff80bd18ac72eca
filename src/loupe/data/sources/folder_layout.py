"""Layout of a folder of images: the split and class of each image, by the folders in its path."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loupe.data.class_names import same_form
from loupe.data.source_use import SourceUse
from loupe.data.sources.split_folders import (
    EXPECTED,
    Parts,
    TopFolder,
    all_entered,
    entered,
    set_aside,
    split_folders,
    splits_below,
    top_folders,
    unlabelled,
)
from loupe.data.splits.words import PREDICT, is_whole, split_of, words_in
from loupe.errors import DataError, counted, enumerated

ASIDE = "Set aside for `loupe predict`:"

Assignment = tuple[str | None, str]  # split and class


@dataclass
class Layout:
    """Split and class of each image (None: not used), notes on images that are not used, and the use of each folder.

    `depths` has the level of the class folders in each of the folders; that is 0 where they are these folders.
    """

    assignments: list[Assignment | None]
    notes: list[str] = field(default_factory=list)
    uses: list[SourceUse] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)

    def class_of(self, parts: Sequence[str]) -> str | None:
        """Class folder of another file by its relative path; None for a file outside of class folders."""
        depth = self.depths.get(parts[0], 1 if self.depths and split_of(parts[0]) else 0)
        return parts[depth] if len(parts) > depth + 1 else None


def read_layout(names: Sequence[Parts], folder: str) -> Layout:
    """Split and class of each image, by the folders in its relative path.

    Raises:
        DataError: the images are outside of class folders, or folders could be splits or classes.
    """
    tops = top_folders(names)
    if not tops:
        raise DataError(f"{folder}: {counted(len(names), 'image')} outside of class folders; {EXPECTED}")
    tops = {name: entered(top, names) for name, top in tops.items()}
    splits = split_folders(tops, folder)
    if splits:
        return _split_layout(names, all_entered(tops, splits, names), splits)
    aside = set_aside(tops)
    rest = [top for name, top in tops.items() if name not in aside]
    if aside and len(rest) == 1 and rest[0].children and not rest[0].direct:
        return _beside_aside(names, rest[0].name, _class_layout(names, tops, aside), folder)
    if below := splits_below({top.name: top for top in rest}, folder):
        return _class_over_split(names, below)
    return _class_layout(names, tops, aside)


def lone_split(name: str) -> bool:
    """True for the name of a lone folder that is a split, and not a folder on the way to the class folders."""
    split = split_of(name)
    return split not in (None, PREDICT) and is_whole(name) and (split == "train" or len(words_in(name)) == 1)


def classes_in_order(assignments: Sequence[Assignment]) -> tuple[list[str], list[str]]:
    """Names of classes in alphabetical order, those of train first, and notes on splits with others than train."""
    seen: dict[str | None, dict[str, str]] = {}
    for split, label in dict.fromkeys(assignments):
        form, spelled = same_form(label), seen.setdefault(split, {})
        if label == form or form not in spelled:
            spelled[form] = label
    order: dict[str, str] = {}
    notes = []
    for split in (None, "train", "val", "test"):
        present = seen.get(split, {})
        for form in sorted(present):
            order.setdefault(form, present[form])
        if "train" not in seen or split not in seen or split == "train":
            continue
        if extra := sorted(present.keys() - seen["train"].keys()):
            notes.append(f"The split {split} has classes that train lacks: {enumerated(extra, most=5)}.")
        if missing := sorted(seen["train"].keys() - present.keys()):
            notes.append(f"The split {split} has no images of {enumerated(missing, most=5)}.")
    return list(order.values()), notes


def _class_layout(names: Sequence[Parts], tops: Mapping[str, TopFolder], aside: set[str]) -> Layout:
    of = {parts: (None, parts[0]) if len(parts) > 1 and parts[0] not in aside else None for parts in {*names}}
    layout = Layout(
        [of[parts] for parts in names], _left_out(sum(len(parts) == 1 for parts in names), "beside the class folders")
    )
    layout.notes += _nested([parts for parts in names if parts[0] not in aside], 2)
    for name in sorted(tops):
        images = tops[name].direct + tops[name].children.total()
        if name in aside:
            layout.notes.append(_aside_note(images, "/".join((name, *tops[name].inner))))
            layout.uses.append(SourceUse(f"{name}/", PREDICT, (), images))
            continue
        layout.uses.append(SourceUse(f"{name}/", "class", (name,), images))
        if is_whole(name):
            layout.notes.append(
                f"The folder {name} is taken as a class, since no other folder is a split of the same classes."
            )
    return layout


def _beside_aside(names: Sequence[Parts], lone: str, outer: Layout, folder: str) -> Layout:
    """Layout of the only folder that is not set aside, which holds the class folders or the splits."""
    rows = [row for row, parts in enumerate(names) if parts[0] == lone and len(parts) > 1]
    inner = read_layout([names[row][1:] for row in rows], folder)
    found: list[Assignment | None] = [None] * len(names)
    for row, assignment in zip(rows, inner.assignments, strict=True):
        found[row] = assignment
    aside = [note for note in outer.notes if note.startswith(ASIDE)]
    uses = [replace(use, source=f"{lone}/{use.source}") for use in inner.uses]
    uses += [use for use in outer.uses if use.use == PREDICT]
    notes = [f"The images are in {lone}/.", *inner.notes, *aside]
    return Layout(found, notes, uses, {lone: 1 + max(inner.depths.values(), default=0)})


def _class_over_split(names: Sequence[Parts], splits: Mapping[str, str]) -> Layout:
    of: dict[Parts, Assignment | None] = {}
    counts: dict[str, Counter[str]] = {}
    for parts, images in Counter(names).items():
        split = splits.get(parts[1]) if len(parts) > 2 else None
        of[parts] = (split, parts[0]) if split and split != PREDICT else None
        if split:
            counts.setdefault(parts[1], Counter())[parts[0]] += images
    layout = Layout(
        [of[parts] for parts in names], _left_out(sum(len(parts) < 3 for parts in names), "beside the class folders")
    )
    for name, classes in sorted(counts.items()):
        layout.uses.append(SourceUse(f"*/{name}/", splits[name], tuple(sorted(classes)), classes.total()))
        if splits[name] == PREDICT:
            layout.notes.append(_aside_note(classes.total(), f"*/{name}"))
    return layout


def _split_layout(names: Sequence[Parts], tops: Mapping[str, TopFolder], splits: Mapping[str, str]) -> Layout:
    aside = set(unlabelled(tops, splits))
    of: dict[Parts, Assignment | None] = {}
    for parts in {*names}:
        depth = 1 + len(tops[parts[0]].inner) if len(parts) > 1 else 0
        used = len(parts) > depth + 1 and parts[0] in splits and parts[0] not in aside
        of[parts] = (splits[parts[0]], parts[depth]) if used else None
    folders: dict[str, list[str]] = {}
    for name in sorted(splits):
        if name not in aside:
            folders.setdefault(splits[name], []).append(name)
    layout = Layout([of[parts] for parts in names], depths={name: 1 + len(tops[name].inner) for name in splits})
    layout.notes += [
        f"The folders {enumerated(folders[split])} form the split {split}."
        for split in sorted(folders)
        if len(folders[split]) > 1
    ]
    layout.notes += _left_out(sum(len(parts) == 1 for parts in names), "beside the split folders")
    nested = 0
    for name, top in sorted(tops.items()):
        layout.notes += _of_split_folder(top, splits.get(name), name in aside)
        nested += sum(top.children[child] for child in top.deeper) if name in splits and name not in aside else 0
        layout.uses += _use(top, splits.get(name), name in aside)
    if nested:
        layout.notes.append(f"{counted(nested, 'image')} in subfolders of class folders, labelled as that class.")
    return layout


def _of_split_folder(top: TopFolder, split: str | None, is_aside: bool) -> list[str]:
    images = top.direct + top.children.total()
    if split is None:
        return _left_out(images, f"in {top.name}, which is not a split")
    if is_aside:
        return [_aside_note(images, "/".join((top.name, *top.inner)))]
    return _left_out(top.direct, f"in {top.name}, without a class folder")


def _use(top: TopFolder, split: str | None, is_aside: bool) -> list[SourceUse]:
    source = "/".join((top.name, *top.inner, ""))
    classes, images = tuple(sorted(top.children)), top.children.total()
    if split is None:
        return [SourceUse(source, "skipped", (), images + top.direct)]
    if is_aside:
        return [SourceUse(source, PREDICT, (), images + top.direct)]
    loose = [SourceUse(f"{source}*", "skipped", (), top.direct)] if top.direct else []
    return [*([SourceUse(source, split, classes, images)] if images else []), *loose]


def _aside_note(images: int, source: str) -> str:
    return f"{ASIDE} {counted(images, 'unlabelled image')} in {source}."


def _left_out(images: int, where: str) -> list[str]:
    return [f"Skipped {counted(images, 'image')} {where}."] if images else []


def _nested(names: Sequence[Parts], depth: int) -> list[str]:
    deeper = sum(len(parts) > depth for parts in names)
    return [f"{counted(deeper, 'image')} in subfolders of class folders, labelled as that class."] if deeper else []
