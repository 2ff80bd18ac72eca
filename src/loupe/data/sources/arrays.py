"""Images and labels from Python: arrays, lists of images in memory, and `.npz` files."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.data.class_names import form_notes, index_of, same_form, sorted_classes
from loupe.data.source_use import SourceUse, uses_of_splits
from loupe.data.sources import in_memory
from loupe.data.sources.array_names import EXPECTED, LAYOUTS, paired, pairs
from loupe.data.sources.in_memory import Images
from loupe.data.sources.npz_members import check_members, member_names
from loupe.data.sources.pixel_arrays import as_array
from loupe.data.splits.words import PREDICT, known_words, split_of
from loupe.data.table import SCHEMA, ImageTable, describe, make_rows, text_name
from loupe.errors import DataError, NotEnoughMemoryError, counted, enumerated

CLASS_KEYS = ("classes", "class_names", "target_names")


def from_arrays(
    images: Any,
    labels: Any,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    splits: Sequence[str | None] | None = None,
) -> ImageTable:
    """Table of images and labels in arrays.

    Args:
        images: array or tensor [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, from 0 to 255 or floats from 0 to 1;
            or a list of images as `in_memory` reads them.
        labels: [N] class indices or names.
        classes: class names; by default the distinct labels in order.
        name: name of the data set.
        splits: train, val, test or None for each image.

    Raises:
        DataError: shapes, types or values are invalid.
    """
    pixels = in_memory.read(images, name, one=False)
    values = _labels(labels, len(pixels), name)
    known = tuple(classes) if classes is not None else sorted_classes(_distinct(values))
    if splits is not None and len(splits) != len(pixels):
        raise DataError(
            f"{name}: {counted(len(pixels), 'image')} but {counted(len(splits), 'split')}. Give one for each image."
        )
    meant = None if splits is None else [_split_of(split, name) for split in splits]
    indices = _indices(values, known, named=classes is None, name=name)
    if meant and PREDICT in meant:
        indices[[split == PREDICT for split in meant]] = -1
    rows = array_rows(pixels, indices, name, meant and [None if split == PREDICT else split for split in meant])
    uses = uses_of_splits(splits, meant, [known[k] if k >= 0 else None for k in indices]) if splits and meant else ()
    notes = (describe(rows, known), *_form_notes(values))
    return ImageTable(rows, known, name, notes=notes, layout=uses)


def _split_of(word: str | None, name: str) -> str | None:
    split = split_of(word) if word else None
    if word and split is None:
        raise DataError(f"{name}: split {word!r} is not known. A split has one of the words {known_words()}.")
    return split


def _form_notes(values: NDArray[Any]) -> list[str]:
    return form_notes(_distinct(values)) if values.dtype == object else []


def _distinct(values: NDArray[Any]) -> list[Any]:
    """Distinct labels in order: Python's texts or numbers, since NumPy takes texts that end in NUL for shorter ones."""
    return sorted({*values.tolist()}) if values.dtype == object else np.unique(values).tolist()


def array_rows(
    images: Images, labels: NDArray[np.int64] | None, prefix: str, split: str | Sequence[str | None] | None = None
) -> pa.Table:
    """Rows of images from `in_memory.read` and class indices, with the paths `prefix#0`, `prefix#1`, ...

    Paths among the images keep their names.
    """
    pieces, start = [], 0
    for names, data in in_memory.chunks(images, prefix):
        part = slice(start, start + len(data))
        pieces.append(
            make_rows(
                n=len(data),
                path=names if isinstance(names, pa.Array) else [*map(text_name, names)],
                label=None if labels is None else pa.array(labels[part], mask=labels[part] < 0),
                data=data,
                split=split if split is None or isinstance(split, str) else list(split[part]),
            )
        )
        start = part.stop
    return pa.concat_tables(pieces) if pieces else SCHEMA.empty_table()


def open_arrays(data: Mapping[Any, Any] | tuple[Any, ...], name: str = "arrays") -> ImageTable:
    """Table of `(x, y)`, of Keras's `((x_train, y_train), (x_test, y_test))`, or of a mapping as in `LAYOUTS`.

    Raises:
        DataError: no images and labels are found, or shapes, types or values are invalid.
    """
    if isinstance(data, tuple):
        data = _named(data)
    parts = paired(data, name)
    pixels = [in_memory.read(x, f"{name}: {key}", one=False) for x, _, _, key in parts]
    values = [_labels(y, len(x), f"{name}: {key}") for x, (_, y, _, key) in zip(pixels, parts, strict=True)]
    given = next((data[key] for key in CLASS_KEYS if data.get(key) is not None), None)
    if given is not None:
        known = tuple(map(str, _array(given, f"{name}: class names").tolist()))
    else:
        known = sorted_classes(value for part in values for value in _distinct(part))
    tables = [
        array_rows(
            x,
            _indices(value, known, named=given is None, name=f"{name}: {key}"),
            key if split else name,
            split,
        )
        for x, value, (_, _, split, key) in zip(pixels, values, parts, strict=True)
    ]
    rows = pa.concat_tables(tables)
    uses = tuple(
        SourceUse(key, split or "no split", sorted_classes(known[k] for k in np.unique(table["label"])), len(table))
        for table, (_, _, split, key) in zip(tables, parts, strict=True)
    )
    notes = (describe(rows, known), *(note for part in values for note in _form_notes(part)))
    return ImageTable(rows, known, name, notes=notes, layout=uses)


def open_npz(path: Path) -> ImageTable:
    """Table of the arrays of a `.npz` file, by the names of `LAYOUTS`. Pickled objects can run code and are refused.

    Raises:
        DataError: the file cannot be read, or its arrays are invalid.
        NotEnoughMemoryError: its arrays do not fit in memory.
    """
    try:
        with path.open("rb") as start:
            if start.read(6) == b"\x93NUMPY":
                raise ValueError("it is one array without a name, as in a .npy file; images and labels are needed")
        names = member_names(path)
        wanted = {key for pair in LAYOUTS for key in pair}.union(CLASS_KEYS)
        wanted |= {key for pair in pairs(names).values() for key in pair.values()}
        check_members(path, wanted)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] if key in wanted else None for key in file.files}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: encrypted
        raise DataError(f"{path}: cannot be read as .npz: {error}. Write it anew with numpy.savez.") from None
    except MemoryError as error:  # also for a shape that a damaged header claims
        raise NotEnoughMemoryError(f"{path}: {error}. Give fewer images, or a folder of image files.") from None
    except (ValueError, SyntaxError, RecursionError, TokenError) as error:  # the last three: a header is Python code
        raise DataError(
            f"{path}: {error}. Loupe reads plain arrays only: images as uint8, labels as integers or text."
        ) from None
    return open_arrays(arrays, path.stem)


def _named(data: tuple[Any, ...]) -> dict[str, Any]:
    if len(data) == 2 and not isinstance(data[0], tuple):
        return {"x": data[0], "y": data[1]}
    if all(isinstance(part, tuple) and len(part) == 2 for part in data) and len(data) in (2, 3):
        names = ("train", "test") if len(data) == 2 else ("train", "val", "test")
        pairs = zip(names, data, strict=True)
        return {f"{letter}_{part}": value for part, pair in pairs for letter, value in zip("xy", pair, strict=True)}
    raise DataError(
        "arrays must be (x, y), ((x_train, y_train), (x_test, y_test)), "
        f"or a mapping with {EXPECTED}; got a tuple of {len(data)}."
    )


def _array(values: Any, name: str) -> NDArray[Any]:
    if hasattr(values, "detach"):
        return as_array(values, name)
    try:
        array = np.asarray(values)
        # An array of text of a fixed width has no NULs at the end.
        return np.array(values, dtype=object) if array.dtype.kind == "U" and array is not values else array
    except ValueError:
        raise DataError(f"{name} have different shapes. Give one label for each image.") from None


def _labels(labels: Any, n: int, name: str) -> NDArray[Any]:
    """Labels [n], integers or texts as objects; also from a column [n, 1], as in MedMNIST and Keras's CIFAR."""
    values = _array(labels, f"{name}: labels")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and len(values) == n:
        raise DataError(
            f"{name}: labels must be one for each image; got {list(values.shape)}. For one-hot labels give "
            "y.argmax(axis=1)."
        )
    if values.shape != (n,):
        raise DataError(
            f"{name}: {counted(n, 'image')} but labels of shape {list(values.shape)}. Give one label for each image."
        )
    if values.dtype.kind in "OU" and all(isinstance(value, str | int | np.integer) for value in values.tolist()):
        return np.array([*map(str, values.tolist())], dtype=object)
    if values.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be integers or names; got {values.dtype}. Leave out images without a label, and use "
            "y.astype(int) or y.astype(str)."
        )
    return values


def _indices(values: NDArray[Any], classes: tuple[str, ...], *, named: bool, name: str) -> NDArray[np.int64]:
    """Class indices. With `named` the classes are the values of the labels; otherwise integers are class indices."""
    if not named and values.dtype.kind in "iu":
        wrong = values[(values < 0) | (values >= len(classes))]
        if len(wrong):
            raise DataError(
                f"{name}: label {wrong[0]} is out of range. With {counted(len(classes), 'class')}, labels must be 0 to "
                f"{len(classes) - 1}."
            )
        return values.astype(np.int64)
    position, distinct = index_of(classes), _distinct(values)
    if unknown := [label for label in map(str, distinct) if same_form(label) not in position]:
        raise DataError(f"{name}: label {unknown[0]!r} is not among the classes {enumerated(classes, most=10)}.")
    index = {label: position[same_form(str(label))] for label in distinct}
    return np.array([index[label] for label in values.tolist()], dtype=np.int64)
