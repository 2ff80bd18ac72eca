"""Label, split and group of each sample in tars: of members, of fields in JSON, or of the folders in the keys."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from loupe.data.sources.columns import Columns, MissingColumn, resolve
from loupe.data.sources.folders import labelled_by_folders
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.split_column import SplitRule
from loupe.data.sources.tar_members import TEXTS
from loupe.data.splits.words import known_words
from loupe.errors import DataError

Cells = Mapping[str, Sequence[str]]

IMAGE = "__image__"  # column of the images, for the resolution of roles
OF_MEMBER = ("cls", "label", "class")  # extensions of members that hold a label
MOST_FIELDS = 1000


@dataclass(frozen=True)
class SampleLabels:
    """Positions of the samples that are used; label (None or "" for none), split and group of each; notes.

    `words` are the names or values from which the splits come.
    """

    used: Sequence[int]
    labels: Sequence[str | None]
    splits: Sequence[str | None]
    groups: Sequence[str | None]
    words: Sequence[str]
    notes: Sequence[str]


def labels_of(
    rows: pa.Table, shard_N: np.ndarray, of_shard: Sequence[str | None], *, where: str, options: ReadOptions
) -> SampleLabels:
    """Labels of samples.

    Args:
        rows: indices of the tars, one after the other.
        shard_N: tar of each sample.
        of_shard: split of each tar.
        where: place of the data set, for messages.
        options: columns that the user chose; `label` is an extension or a field of `.json`.

    Raises:
        DataError: there are no labels, or a split is not known.
    """
    splits = [of_shard[shard] for shard in shard_N.tolist()]
    words = [split or "" for split in splits]
    cells = _cells(rows, where)
    try:
        roles = _roles(cells, where, options)
        if roles.label is None:
            raise MissingColumn(f"{where}: one-hot fields are not read from tars. Give each sample one label.", "label")
    except MissingColumn as missing:
        if "label" in options.columns and not options.lenient:
            raise
        return _of_folders(rows, splits, words, where, missing)
    if roles.split:
        words = list(cells[roles.split.name])
        splits = _splits(roles.split, words, where)
    groups = [group or None for group in cells[roles.group]] if roles.group else [None] * len(rows)
    return SampleLabels(range(len(rows)), cells[roles.label], splits, groups, words, roles.notes)


def _roles(cells: Cells, where: str, options: ReadOptions) -> Columns:
    """Columns by their role; members that hold a label come before fields."""
    chosen = {role: name.lstrip(".").removeprefix("json.") for role, name in options.columns.items() if role != "path"}
    own = next((name for name in OF_MEMBER if name in cells), None)
    if "label" not in chosen and own:
        chosen["label"] = own
    asked = replace(options, columns={"path": IMAGE, **chosen})
    unused = [] if chosen.get("label") == "txt" or "txt" not in cells else ["txt"]
    names = [IMAGE, *(name for name in cells if name not in unused)]
    return resolve(Path(where), names, lambda name: cells.get(name, ()), asked, images=[IMAGE])


def _cells(rows: pa.Table, where: str) -> Cells:
    """Text of each sample by extension of its members, and by field of its JSON; "" where it has none."""
    cells: dict[str, list[str]] = {}
    for name in TEXTS:
        if name != "json" and rows[name].null_count < len(rows):
            cells[name] = [(text or "").strip() for text in rows[name].to_pylist()]
    if rows["json"].null_count == len(rows):
        return cells
    members = rows["name"]
    for i, text in enumerate(rows["json"].to_pylist()):
        for field, value in _fields(text, f"{where}: {members[i]}").items():
            if field not in cells:
                if len(cells) > MOST_FIELDS:
                    raise DataError(f"{where}: the JSON of its samples has more than {MOST_FIELDS:,} fields.")
                cells[field] = [""] * len(rows)
            cells[field][i] = cells[field][i] or value
    return cells


def _fields(text: str | None, where: str) -> dict[str, str]:
    """Fields of an object in JSON that are texts or numbers; a text or number alone is the field `json`."""
    if text is None:
        return {}
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "nested too deeply"
        raise DataError(f"{where}: the .json of this sample is not JSON: {reason}.") from None
    pairs = value.items() if isinstance(value, dict) else [("json", value)]
    return {_valid(name): _text(value) for name, value in pairs if isinstance(value, str | bool)}


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else _valid(value).strip()


def _valid(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON can hold and no table can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _splits(rule: SplitRule, words: Sequence[str], where: str) -> list[str | None]:
    meaning: dict[str, str | None] = {}
    for word in dict.fromkeys(words):
        try:
            meaning[word] = rule.split(word)
        except ValueError as error:
            raise DataError(f"{where}: {error}; a split has one of the words {known_words()}.") from None
    return [meaning[word] for word in words]


def _of_folders(
    rows: pa.Table, splits: Sequence[str | None], words: Sequence[str], where: str, missing: MissingColumn
) -> SampleLabels:
    """Labels of the folders in the keys; the split of a folder comes before that of the tar.

    Raises:
        DataError: the keys have no class folders.
    """
    names = [name.removeprefix("./").lstrip("/") for name in rows["name"].to_pylist()]
    try:
        found = labelled_by_folders(names, where)
    except DataError:
        if not any("/" in name for name in names):
            raise DataError(
                f"{where}: its samples have no labels. Expected a member .cls or .json beside each image, or keys with "
                "class folders, as cat/0001.jpg. To name a field or an extension: --columns label=NAME"
            ) from None
        raise
    own = [split or splits[i] for i, (split, _) in zip(found.used, found.assigned, strict=True)]
    labels = [label for _, label in found.assigned]
    used = [words[i] for i in found.used]
    return SampleLabels(found.used, labels, own, [None] * len(used), used, [*found.notes])
