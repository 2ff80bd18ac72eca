"""Image files of an object store, a web server or a data set on a hub as a source: each is read when it is decoded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from loupe.bulk.plan import PlanRecord, Unit
from loupe.bulk.shards import RemotePlace, object_at, object_place
from loupe.bulk.source import Listed
from loupe.data.formats import image_suffixes
from loupe.data.remote.failures import ChangedError, MissingError
from loupe.data.remote.objects import read
from loupe.data.sources.folders import suffix_of
from loupe.data.table import MAX_FILE_BYTES
from loupe.errors import DataError, ImageError, counted

REMOTE = "remote"
READERS = 16
"""Images that are read at a time: most of the time of each is spent waiting for the store."""


class RemoteSource:
    """Image files at an address: a folder, a pattern or one file. Their addresses are held in memory to be listed."""

    kind = REMOTE
    id_name: str | None = None
    root = ""

    def __init__(self, place: RemotePlace) -> None:
        self.places: tuple[str, ...] = (place.address.shown,)
        self._place = place
        self._images = self._others = 0

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        for remote in self._place.files():
            if suffix_of(remote.shown.rpartition("/")[2]) not in image_suffixes():
                self._others += 1
                continue
            self._images += 1
            yield Listed(remote.shown, place=json.dumps(object_place(remote)))
        if not self._images:
            raise DataError(f"{self.places[0]}: there are no images in it.")

    def notes(self) -> list[str]:
        """As for any source."""
        others = [f"Skipped {counted(self._others, 'file')} without an image suffix."] if self._others else []
        return [f"{counted(self._images, 'image')}.", *others]

    def warnings(self) -> list[str]:
        """As for any source."""
        return []


def open_remote(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    """Reader of the images of a unit that lie elsewhere.

    An image that is gone or has changed is damaged. Any other failure, after all attempts, ends the prediction.
    """

    def encoded(row: int) -> bytes:
        listed = unit.rows[row]
        remote = object_at(json.loads(listed.place or "[]"))
        if remote.size > MAX_FILE_BYTES:
            raise ImageError(listed.path, f"{remote.size:,} bytes exceed the limit of {MAX_FILE_BYTES:,}")
        try:
            return read(remote)
        except (MissingError, ChangedError) as error:
            raise ImageError(listed.path, f"cannot be read: {error.reason}") from None

    return encoded
