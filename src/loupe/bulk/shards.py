"""Tars in the WebDataset layout as a source, on this disk or elsewhere: each image is a range of bytes of a shard."""

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from loupe.bulk.plan import PlanRecord, Unit
from loupe.bulk.source import Listed
from loupe.cache import cache_folder
from loupe.data.file_state import State
from loupe.data.remote.address import Address
from loupe.data.remote.objects import listed
from loupe.data.remote.shard_cache import ShardCache
from loupe.data.remote.store import RemoteObject
from loupe.data.shards import LocalShard, ShardFile, Shards
from loupe.data.sources.path_patterns import files_of, is_pattern
from loupe.data.sources.remote_shards import RemoteShard, read_ahead
from loupe.data.sources.tar_index import indices
from loupe.data.table import ImageTable, make_rows, os_name, text_name
from loupe.errors import ConfigError, counted

SHARDS = "shards"
TAR = ".tar"


class TarSource:
    """Tars by their paths and patterns (`photos-{000..099}.tar`), or by one address. Labels in them are not read.

    Listing reads each tar once, for its index, which the cache keeps.

    Args:
        places: paths and patterns of this disk.
        remote: files of an address, in the place of the paths.
        image: extension of the images, where a sample has several.
    """

    kind = SHARDS
    id_name: str | None = None
    root = ""

    def __init__(self, places: Sequence[str], remote: "RemotePlace | None", image: str | None) -> None:
        self.places = (remote.address.shown,) if remote else tuple(text_name(os.path.abspath(name)) for name in places)  # noqa: PTH100
        self._given = places
        self._remote = remote
        self._image = image
        self._images = self._tars = self._without = 0

    def rows(self, spill: Path) -> Iterator[Listed]:
        """Images in order; as for any source."""
        shards = self._shards()
        if self._remote:
            read_ahead([shard for _, shard in shards])
        for name, shard in shards:
            index = indices([shard], self._image)[0]
            self._tars += 1
            self._without += index.without_image + len(index.unread)
            place = _place_of(shard)
            members, starts, sizes = (index.rows[column].to_pylist() for column in ("name", "start", "size"))
            for member, start, size in zip(members, starts, sizes, strict=True):
                self._images += 1
                yield Listed(f"{name}/{member}", place=json.dumps([*place, start, size]))

    def notes(self) -> list[str]:
        """As for any source."""
        notes = [f"{counted(self._images, 'image')} in {counted(self._tars, 'tar')}."]
        if self._without:
            notes.append(f"Skipped {counted(self._without, 'sample')} without an image that can be read.")
        return notes

    def warnings(self) -> list[str]:
        """As for any source."""
        return []

    def _shards(self) -> list[tuple[str, ShardFile]]:
        if self._remote:
            cache = shard_cache(cache_folder())
            return [(remote.shown, RemoteShard(remote, cache)) for remote in self._remote.files()]
        files = [file for name in self._given for file in (files_of(name) if is_pattern(name) else [Path(name)])]
        return [(text_name(file.as_posix()), LocalShard.of(file.absolute())) for file in files]


class RemotePlace:
    """Files at an address; they are listed when they are asked for, once."""

    def __init__(self, text: str) -> None:
        self.address = Address.of(text)

    def files(self) -> tuple[RemoteObject, ...]:
        """Files, sorted by their addresses.

        Raises:
            RemoteError: they cannot be listed.
            ConfigError: their addresses hold credentials, which a plan would keep.
        """
        found = self._listed()
        if secret := next((remote for remote in found if remote.shown != remote.url), None):
            raise ConfigError(
                f"{secret.shown}: its address holds credentials, and the plan of a prediction keeps addresses. Give "
                "them in the environment, or download the images."
            )
        return found

    @lru_cache(maxsize=1)  # noqa: B019 - it lives as long as a command
    def _listed(self) -> tuple[RemoteObject, ...]:
        return listed(self.address)


def are_tars(places: Sequence[str]) -> bool:
    """True for paths and patterns that name tars alone."""
    return bool(places) and all(name.lower().endswith(TAR) and not os.path.isdir(name) for name in places)  # noqa: PTH112


def open_shards(record: PlanRecord, unit: Unit) -> Callable[[int], bytes]:
    """Reader of the images of a unit that lie in shards."""
    files: dict[str, tuple[int, ShardFile]] = {}
    numbers, starts, sizes = [], [], []
    for row in unit.rows:
        *place, start, size = json.loads(row.place or "[]")
        key = json.dumps(place)
        if key not in files:
            files[key] = len(files), _shard_at(place)
        numbers.append(files[key][0])
        starts.append(start)
        sizes.append(size)
    shards = Shards(
        tuple(shard for _, shard in files.values()),
        np.array(numbers, np.int32),
        np.array(starts, np.int64),
        np.array(sizes, np.int64),
        np.zeros((len(unit), 32), np.uint8),
    )
    rows = make_rows(n=len(unit), path=[row.path for row in unit.rows], label=None)
    return ImageTable(rows, classes=(), name="shards", shards=shards).encoded


def _place_of(shard: ShardFile) -> list[Any]:
    """Place of a shard as JSON can hold it."""
    if isinstance(shard, LocalShard):
        return [text_name(str(shard.path)), list(shard.state)]
    assert isinstance(shard, RemoteShard)
    return object_place(shard.remote)


def _shard_at(place: list[Any]) -> ShardFile:
    if isinstance(place[1], list):
        return LocalShard(Path(os_name(place[0])), State(*place[1]))
    return RemoteShard(object_at(place), shard_cache(cache_folder()))


def object_place(remote: RemoteObject) -> list[Any]:
    """Remote file as JSON can hold it."""
    return [remote.url, remote.size, remote.version, remote.checksum]


def object_at(place: list[Any]) -> RemoteObject:
    """Remote file of a place in a plan."""
    return RemoteObject(*place)


@lru_cache(maxsize=1)
def shard_cache(folder: Path) -> ShardCache:
    """Cache of shards of this process, in the folder of Loupe's cache; its pins are given up at the end."""
    cache = ShardCache(folder / "shards")
    atexit.register(cache.close)
    return cache
