"""Entry point for data: any supported source as an ImageTable."""

import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from loupe.data import class_names
from loupe.data.find_file import existing
from loupe.data.formats import format_of_suffix
from loupe.data.sources import archives, datasets, tars
from loupe.data.sources.arrays import from_arrays, open_arrays, open_npz
from loupe.data.sources.boundary import Boundary, links_error
from loupe.data.sources.folders import Tree, from_paths, open_folder, scan
from loupe.data.sources.image_list import open_list
from loupe.data.sources.in_memory import local_path
from loupe.data.sources.metadata import open_metadata
from loupe.data.sources.parquet import open_parquet
from loupe.data.sources.parquet_columns import holds_images
from loupe.data.sources.path_patterns import files_of, is_pattern, name_of, root_of
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.remote import is_elsewhere, open_remote
from loupe.data.sources.rows import LIST_SUFFIXES, PARQUET_SUFFIXES
from loupe.data.table import ImageTable, os_name, text_name
from loupe.errors import ConfigError, DataError, enumerated

__all__ = ["Data", "ImageTable", "from_arrays", "from_paths", "open_table"]

DEFAULT = ReadOptions({})
Data = str | Path | Mapping[Any, Any] | tuple[Any, ...] | ImageTable
KINDS = (
    "a folder of class folders, a CSV, TSV or JSONL list, a Parquet file or folder of shards, tars in the WebDataset "
    "layout, a CIFAR python archive, an .npz file, an address such as s3://bucket/folder, "
    "or one of the named sets " + ", ".join(datasets.DATASETS)
)


def open_table(data: Data, options: ReadOptions = DEFAULT) -> ImageTable:
    """Open a source of images and labels. The caller shows the table's notes.

    Args:
        data: name of a data set (`digits`) or a path; `./digits` and a `Path` are always paths. Arrays are `(x, y)`,
            `((x_train, y_train), (x_test, y_test))`, or a mapping.
        options: columns of a list of images, and the folder of its images.

    Raises:
        DataError: the source is not supported, cannot be read, or is empty.
        ConfigError: there are options, and the source has no columns.
    """
    options.check()
    if options and not isinstance(data, str | os.PathLike):
        raise _no_columns(type(data).__name__)
    if options and data in datasets.DATASETS:
        raise _no_columns(str(data))
    if isinstance(data, ImageTable):
        if len(data) == 0:
            raise DataError(f"{data.name}: there are no images in it.")
        return data
    if isinstance(data, str) and data in datasets.DATASETS:
        table = _with_note(datasets.load(data), data)
    elif isinstance(data, str | os.PathLike):
        return _checked(_open_path(data, options))
    elif isinstance(data, Mapping | tuple):
        table = open_arrays(data)
    else:
        raise DataError(f"data of type {type(data).__name__} is not supported. Give {KINDS}, or arrays as (x, y).")
    return _checked(table)


def _checked(table: ImageTable) -> ImageTable:
    if len(table) == 0:
        raise DataError(f"{table.name}: there are no images in it.")
    if table.layout:
        _check_given_splits(table)
    return replace(table, notes=(*table.notes, *class_names.notes(table.classes)))


def _check_given_splits(table: ImageTable) -> None:
    """Refuse a validation or test split that has none of the classes of the training images.

    Raises:
        DataError: as said.
    """
    split_N = np.array([split or "train" for split in table.splits], dtype=object)
    split_N[table.labels < 0] = ""
    trained = set(table.labels[split_N == "train"].tolist())
    for split in ("val", "test"):
        present = set(table.labels[split_N == split].tolist())
        if trained and present and not trained & present:
            theirs, ours = ([table.classes[k] for k in sorted(labels)] for labels in (present, trained))
            raise DataError(
                f"{table.name}: the split {split} has no class of the training images. Its classes: "
                f"{enumerated(theirs, most=5)}; those of training: {enumerated(ours, most=5)}."
                f"{class_names.hint(theirs, ours)} Rename its classes, or move these images away and classify them "
                "with `loupe predict`."
            )


def _no_columns(data: object) -> ConfigError:
    return ConfigError(
        f"{data} has no columns: --columns and --images are for lists of images ({', '.join(sorted(LIST_SUFFIXES))})."
    )


def _open_path(data: str | os.PathLike[str], options: ReadOptions) -> ImageTable:
    if is_elsewhere(os.fspath(data)):
        return open_remote(os.fspath(data), options, _open_path)
    # pathlib's functions raise for an unknown user and for a name that is too long.
    path = Path(existing(Path(), os.path.expanduser(local_path(os.fspath(data)))))  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        return _open_folder(path, options)
    if not os.path.exists(path):  # noqa: PTH110
        if is_pattern(str(path)):
            return _open_pattern(str(path), options)
        raise DataError(_missing(str(data)))
    if not os.path.isfile(path):  # noqa: PTH113
        raise DataError(f"{path}: not a regular file; a device or a pipe is never read. Give {KINDS}.")
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES and holds_images(path, options):
        return open_parquet([path], path.parent, path.stem, options)
    if suffix in LIST_SUFFIXES:
        return open_list(path, options)
    if suffix == ".tar" and not tars.is_cifar(path):
        return tars.open_local([path], path.parent, path.stem, options)
    if options:
        raise _no_columns(path)
    if archives.is_archive_name(path):
        return archives.open_archive(path)
    match suffix:
        case ".npz":
            return open_npz(path)
        case ".zip" | ".rar" | ".7z":
            raise DataError(f"{path}: unpack this archive and give the folder.")
        case suffix if format_of_suffix(suffix):
            raise DataError(f"{path}: a single image has no label. Give {KINDS}.")
        case _:
            raise DataError(f"{path}: this kind of file is not supported. Give {KINDS}.")


def _open_folder(folder: Path, options: ReadOptions) -> ImageTable:
    if cifar := archives.find_folder(folder):
        boundary = Boundary(folder, follow_links=options.follow_links)
        targets = {name: boundary.outside(cifar / name) for name in sorted(archives.FILES)}
        if outside := {name: target for name, target in targets.items() if target}:
            raise links_error(cifar, outside)
        return archives.open_folder(cifar)
    tree = scan(folder, follow_links=options.follow_links)
    if tree.metadata and (table := open_metadata(folder, tree, options)):
        return table
    if tree.tars and not tree.images and not tree.shards:
        files = [folder / os_name(name) for name in tree.tars]
        return tars.open_local(files, folder, text_name(folder.resolve().name), options)
    if not tree.shards:
        if options:
            raise _no_columns(folder)
        return open_folder(folder, tree)
    if tree.images and all("/" in name for name in tree.shards):
        raise DataError(f"{folder}: it has both images and Parquet files. Give the folder of one of them.")
    return open_parquet(_paths(folder, tree), folder, text_name(folder.resolve().name), options)


def _open_pattern(pattern: str, options: ReadOptions) -> ImageTable:
    """Table of the files of a pattern: tars, or Parquet files.

    Raises:
        DataError: no file matches, or one of a range is missing.
    """
    files = files_of(pattern)
    root, name = root_of(files), name_of(pattern)
    suffixes = {file.suffix.lower() for file in files}
    if suffixes == {".tar"}:
        return tars.open_local(files, root, name, options)
    if suffixes <= PARQUET_SUFFIXES:
        return open_parquet(files, root, name, options)
    raise DataError(
        f"{text_name(pattern)}: a pattern is for shards, .tar or .parquet; it has {enumerated(sorted(suffixes))}."
    )


def _paths(folder: Path, tree: Tree) -> list[Path]:
    return [folder / os_name(name) for name in tree.shards]


def _missing(text: str) -> str:
    near = get_close_matches(text, datasets.DATASETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{text_name(text)}: no such file or folder.{hint} Give {KINDS}."


def _with_note(table: ImageTable, name: str) -> ImageTable:
    """Table with a note if a path of the same name exists."""
    if not Path(name).exists():
        return table
    note = f"{name} is the named data set; write ./{name} for the path of that name."
    return replace(table, notes=(*table.notes, note))
