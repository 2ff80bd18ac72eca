"""Source of a prediction in bulk from what a user names."""

from collections.abc import Sequence
from pathlib import Path

from loupe.bulk.lists import ListSource
from loupe.bulk.paths import PathSource
from loupe.bulk.source import Source
from loupe.data.sources.parquet_columns import holds_images
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.rows import PARQUET_SUFFIXES
from loupe.errors import ConfigError


def source_of(paths: Sequence[str], listed: Path | None, options: ReadOptions) -> Source:
    """Open a source; nothing is listed yet.

    Args:
        paths: files, folders and globs.
        listed: list of images, in the place of the paths.
        options: columns of a list, folder of its images, and links.

    Raises:
        ConfigError: the source is of a kind that is not predicted in bulk.
        DataError: there is no such list.
    """
    if listed is None:
        return PathSource(paths, follow_links=options.follow_links)
    source = ListSource(listed, options)
    if listed.suffix.lower() in PARQUET_SUFFIXES and holds_images(listed, options):
        raise ConfigError(f"{listed} holds the bytes of images. Write its predictions to a CSV file: --to FILE.csv")
    return source
