"""Source of a prediction in bulk from what a user names."""

from collections.abc import Sequence
from pathlib import Path

from loupe.bulk.lists import ListSource
from loupe.bulk.parquet_rows import ParquetSource
from loupe.bulk.paths import PathSource
from loupe.bulk.remote import RemoteSource
from loupe.bulk.shards import TAR, RemotePlace, TarSource, tars_in
from loupe.bulk.source import Source
from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.parquet_columns import holds_images
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.remote import is_elsewhere
from loupe.data.sources.rows import LIST_SUFFIXES, PARQUET_SUFFIXES
from loupe.errors import ConfigError


def source_of(paths: Sequence[str], listed: Path | None, options: ReadOptions) -> Source:
    """Open a source; nothing is listed yet.

    Args:
        paths: files, folders and globs.
        listed: list of images, in the place of the paths.
        options: columns of a list, folder of its images, and links.

    Raises:
        ConfigError: the source is of a kind that is not predicted in bulk, or of several kinds.
        DataError: there is no such list.
    """
    if elsewhere := [path for path in paths if is_elsewhere(path)]:
        if len(paths) > 1:
            raise ConfigError(f"{redacted_word(elsewhere[0])}: give an address alone.")
        return _remote(elsewhere[0], options)
    if tars := tars_in(paths):
        if len(tars) < len(paths):
            other = next(path for path in paths if path not in tars)
            raise ConfigError(f"{tars[0]} is a tar, and {other} is none: predict them one after the other.")
        return TarSource(paths, None, _extension(options))
    if listed is None:
        return PathSource(paths, follow_links=options.follow_links)
    source = ListSource(listed, options)
    if listed.suffix.lower() in PARQUET_SUFFIXES and holds_images(listed, options):
        return ParquetSource(listed, options)
    return source


def _remote(text: str, options: ReadOptions) -> Source:
    """Source at an address: tars where there are any, else image files."""
    place = RemotePlace(text)
    name = place.address.path.lower()
    if name.endswith(TAR):
        return TarSource((), place, _extension(options))
    if name.endswith(tuple(LIST_SUFFIXES)):
        raise ConfigError(
            f"{place.address.shown}: lists and Parquet files elsewhere are not predicted in bulk. Download the file, "
            "and give its path."
        )
    return RemoteSource(place)


def _extension(options: ReadOptions) -> str | None:
    """Extension of the images in tars that the user chose."""
    asked = "" if options.lenient else options.columns.get("path", "")
    return asked.lstrip(".").lower() or None
