"""Folders of images with a list beside them, in the Hugging Face ImageFolder layout: `metadata.csv` with `file_name`.

https://huggingface.co/docs/datasets/image_dataset
"""

from dataclasses import replace
from pathlib import Path

from loupe.data.sources.column_names import squashed
from loupe.data.sources.columns import MissingColumn
from loupe.data.sources.folders import Tree, open_folder
from loupe.data.sources.image_list import open_lists
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import read_rows
from loupe.data.splits.words import split_of
from loupe.data.table import ImageTable, os_name, text_name
from loupe.errors import DataError, counted, enumerated

FILE_NAME = "filename"  # file_name, as names are compared


def open_metadata(folder: Path, tree: Tree, options: ReadOptions) -> ImageTable | None:
    """Table of the images that the metadata files of a scanned folder list; None if they do not name files.

    Without labels in them, the labels are those of the class folders. The split is that of the column, or of the
    nearest folder of the metadata file with a split word.

    Raises:
        DataError: a metadata file cannot be read, or names files that do not exist; there are no labels.
    """
    tables = [read_rows(folder / os_name(name), options) for name in tree.metadata]
    if not all(any(squashed(name) == FILE_NAME for name in table.names) for table in tables):
        return None
    splits = {table.file: _split_of(name) for table, name in zip(tables, tree.metadata, strict=True)}
    files = enumerated(tree.metadata, most=3)
    try:
        table = open_lists(tables, folder.resolve(), text_name(folder.resolve().name), options, splits)
    except MissingColumn as missing:
        if options:
            raise
        try:
            table = open_folder(folder, tree)
        except DataError:
            raise missing from None
        return _noted(table, f"{files}: no column of labels; classes are those of the folders.")
    unlisted = len(set(tree.images) - set(table.paths))
    rest = f"; {counted(unlisted, 'image')} not listed there left out" if unlisted else ""
    return _noted(table, f"Labels are those of {files}{rest}.")


def _noted(table: ImageTable, note: str) -> ImageTable:
    first, *others = table.notes
    return replace(table, notes=(first, note, *others))


def _split_of(name: str) -> str | None:
    """Split by the nearest folder of a metadata file."""
    return next((split for part in reversed(name.split("/")[:-1]) if (split := split_of(part))), None)
