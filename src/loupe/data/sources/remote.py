"""Images elsewhere as a table: tars and Parquet files, read through the cache of shards; folders and lists as copies.

An address is a folder, a file, a pattern or a range of an object store, of a web server or of a data set on a hub. The
files are listed once in a command; their versions are recorded with a run.
"""

import os
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from shutil import rmtree
from urllib.parse import unquote, urlsplit

import numpy as np

from loupe import ranks
from loupe.cache import cache_folder
from loupe.data.elsewhere import Elsewhere
from loupe.data.formats import image_suffixes
from loupe.data.remote.address import Address, is_remote
from loupe.data.remote.failures import MissingError, RefusedError, RemoteError
from loupe.data.remote.objects import commit_of, listed, read
from loupe.data.remote.patterns import fixed_folder
from loupe.data.remote.redaction import identity, redacted
from loupe.data.remote.shard_cache import ShardCache, default_budget_bytes
from loupe.data.remote.store import RemoteObject
from loupe.data.shards import Shards
from loupe.data.sources import hub_configs, tars
from loupe.data.sources.class_files import MOST_BYTES
from loupe.data.sources.folders import METADATA
from loupe.data.sources.mirror import mirrored
from loupe.data.sources.parquet import open_parquet
from loupe.data.sources.parquet_columns import holds_images, resolve_files
from loupe.data.sources.parquet_skeleton import places_file, read_places, write_skeleton
from loupe.data.sources.path_patterns import is_pattern, lead_of
from loupe.data.sources.read_options import ReadOptions
from loupe.data.sources.remote_shards import ParquetImages, RemoteShard, read_ahead
from loupe.data.sources.rows import CSV_SUFFIXES, JSON_SUFFIXES, PARQUET_SUFFIXES
from loupe.data.table import ImageTable
from loupe.errors import DataError, enumerated
from loupe.log import logger, progress_bar

__all__ = ["is_elsewhere", "open_remote"]

LocalOpener = Callable[[Path, ReadOptions], ImageTable]
LIST_SUFFIXES = CSV_SUFFIXES | JSON_SUFFIXES


def is_elsewhere(text: str) -> bool:
    """True for the address of data elsewhere; False for a path, and for a `file:` URL of this machine."""
    return is_remote(text) and text[:5].lower() != "file:"


@dataclass(frozen=True)
class _Listing:
    """Files of an address.

    Attributes:
        address: the address, of a data set on a hub with its commit.
        base: address of the folder that names are relative to.
        files: the files by their relative names.
        splits: split of a file where a configuration says it.
    """

    address: Address
    base: str
    files: Mapping[str, RemoteObject]
    splits: Mapping[str, str]

    @property
    def shown(self) -> str:
        return self.address.shown

    @property
    def name(self) -> str:
        """Name of the data set: that of the folder or the file, or what leads the names of a pattern."""
        path = PurePosixPath(_plain(self.address.scheme, self.address.path.rstrip("/")))
        if not path.name:
            return self.address.root.rpartition("/")[2].replace(":", "-")
        if is_pattern(path.name):
            return lead_of(path.name) or path.parent.name or self.address.root.rpartition("/")[2].replace(":", "-")
        return path.stem if path.suffix in {".tar", *PARQUET_SUFFIXES, *LIST_SUFFIXES} else path.name

    def of(self, *suffixes: str) -> dict[str, RemoteObject]:
        return {name: remote for name, remote in self.files.items() if _suffix(name) in suffixes}

    def split_list(self, names: Mapping[str, RemoteObject]) -> list[str | None] | None:
        """Split of each file, where a configuration gives them."""
        return [self.splits.get(name) for name in names] if self.splits else None


def open_remote(text: str, options: ReadOptions, open_local: LocalOpener) -> ImageTable:
    """Open images elsewhere.

    Args:
        text: address; of a data set on a hub, its configuration may follow a `#`.
        options: columns and extensions, as for the same data on this disk.
        open_local: function that opens a path of this disk.

    Raises:
        RemoteError: the files cannot be listed or fetched.
        DataError: there are no images with labels.
        ConfigError: the address is wrong, or the files do not fit in the cache.
    """
    listing = ranks.current().from_main(lambda: _listed(text))
    if tar_files := listing.of(".tar"):
        table = _open_tars(listing, tar_files, options)
    elif (single := _single(listing)) and _suffix(single) in LIST_SUFFIXES:
        table = _open_list(listing, single, options, open_local)
    elif parquet := _parquet_shards(listing):
        table = _open_parquet(listing, parquet, options, open_local)
    elif any(_suffix(name) in image_suffixes() for name in listing.files) and not single:
        folder = mirrored(_images_of(listing.files), _budget_bytes(), listing.shown)
        with _named(folder, listing.shown):
            table = open_local(folder, options)
    else:
        kinds = Counter(_suffix(name) or "no suffix" for name in listing.files)
        raise DataError(
            f"{listing.shown}: no images that can be read from elsewhere ({enumerated([*kinds], most=5)}). Expected "
            "tars in the WebDataset layout, Parquet files, a folder of class folders, or a CSV or JSONL list. Download "
            "other data, and give the file or folder."
        )
    versions = {name: str(remote.version) for name, remote in listing.files.items() if remote.version}
    credentials = redacted(listing.address.url) != listing.address.url
    return replace(table, name=listing.name, elsewhere=Elsewhere(listing.shown, versions, credentials))


def _listed(text: str) -> _Listing:
    """Files of an address, those of the chosen configuration where it is a data set on a hub."""
    wanted = None
    if text.lower().startswith("hf:"):
        text, _, wanted = text.partition("#")
    address = Address.of(text)
    if address.scheme == "hf":
        commit = commit_of(address)
        address = Address.of(f"hf://datasets/{address.root}@{commit}{'/' if address.path else ''}{address.path}")
    found = listed(address)
    path = address.path
    is_single = len(found) == 1 and Address.of(found[0].url).path == path
    folder = fixed_folder(path, "*?[{") if is_single or address.is_pattern or "{" in path else f"{path.rstrip('/')}/"
    folder = folder.lstrip("/")
    files = {}
    for remote in found:
        name = _relative(remote, folder)
        if not _is_safe(name):
            raise DataError(f"{address.shown}: the name {name!r} is no path inside a folder. Rename it.")
        files[name] = remote
    listing = _Listing(address, _root_of(address) + folder, files, {})
    return _configured(listing, wanted or None) if address.scheme == "hf" and not path else listing


def _root_of(address: Address) -> str:
    """Address of the bucket, host or data set, with a slash at its end."""
    if address.scheme in {"http", "https"}:
        parts = urlsplit(address.url)
        return f"{parts.scheme}://{parts.netloc}/"
    return address.url[: len(address.url) - len(address.path)].rstrip("/") + "/"


def _configured(listing: _Listing, wanted: str | None) -> _Listing:
    """Files and splits of the configuration of a data set on a hub."""
    readme = listing.files.get("README.md")
    configs = hub_configs.configs_of(read(readme)) if readme else {}
    where = listing.shown
    config = hub_configs.chosen(configs, wanted, where)
    if config is None:
        return listing
    splits = config.files([*listing.files], where)
    known = {name: split for name, split in splits.items() if split}
    shown = replace(listing.address, shown=f"{where}#{config.name}") if len(configs) > 1 else listing.address
    return replace(listing, address=shown, files={name: listing.files[name] for name in splits}, splits=known)


def _open_tars(listing: _Listing, files: Mapping[str, RemoteObject], options: ReadOptions) -> ImageTable:
    cache = ShardCache()

    def beside(name: str) -> bytes | None:
        remote = listing.files.get(name)
        if remote is None and (listing.address.is_pattern or len(listing.files) == len(files)):
            remote = _beside(listing, name)
        return None if remote is None or remote.size > MOST_BYTES else read(remote)

    with _closed_on_error(cache):
        shards = [RemoteShard(remote, cache) for remote in files.values()]
        table = tars.open_tars(
            shards,
            [*files],
            where=listing.shown,
            name=listing.name,
            options=options,
            beside=beside,
            splits=listing.split_list(files),
            read_ahead=read_ahead,
        )
    assert table.shards is not None
    # Half of the cache is for those that are read ahead.
    return replace(table, shards=_cached(replace(table.shards, open_bytes=cache.budget_bytes // 2), cache))


def _beside(listing: _Listing, name: str) -> RemoteObject | None:
    """File beside those of an address; None where there is none.

    Raises:
        RemoteError: the store failed, or has a file of this name that may not be read.
    """
    query = urlsplit(listing.address.url).query if listing.address.scheme in {"http", "https"} else ""
    signed = f"?{query}" if query else ""
    try:
        return listed(Address.of(f"{listing.base}{name}{signed}"))[0]
    except MissingError:
        return None
    except RefusedError as refused:
        if _is_listed(listing, name, signed, refused):
            raise
    logger.info(f"{listing.shown}: access to {name} beside it was refused, as of files that do not exist.")
    return None


def _is_listed(listing: _Listing, name: str, signed: str, refused: RefusedError) -> bool:
    """True if a file is in the listing of its folder; stores that may not be listed refuse files that do not exist."""
    try:
        found = listed(Address.of(f"{listing.base}{name[:-1]}*{signed}"))
    except MissingError:
        return False
    except RefusedError as error:  # of the file itself, or of the listing
        return error.url == refused.url
    return any(Address.of(remote.url).path.endswith(f"/{name}") for remote in found)


def _open_parquet(
    listing: _Listing, files: Mapping[str, RemoteObject], options: ReadOptions, open_local: LocalOpener
) -> ImageTable:
    cache = ShardCache(budget=_budget_bytes() // 2)  # the unpacked images of open files take as much again
    with _closed_on_error(cache), _skeleton_folder(files) as folder:
        shards = [RemoteShard(remote, cache) for remote in files.values()]
        skeletons = [folder / name for name in files]
        here = ranks.on_machine()
        mine = here.share([*zip(shards, skeletons, strict=True)])
        absent = [(shard, file) for shard, file in mine if not (file.is_file() and places_file(file).is_file())]
        here.together(lambda: _write_skeletons(absent))
        if not any(holds_images(file, options) for file in skeletons):
            if len(files) > 1:
                raise DataError(f"{listing.shown}: these Parquet files have no column of images. Give one list.")
            return _open_list(listing, next(iter(files)), options, open_local)
        with _named(folder, listing.shown):
            table = open_parquet(skeletons, folder, listing.name, options, splits=listing.split_list(files))
            columns = [own.image for own in resolve_files(skeletons, options)[1]]
        places = [read_places(file, column) for file, column in zip(skeletons, columns, strict=True)]
        images = [ParquetImages(shard, column) for shard, column in zip(shards, columns, strict=True)]
        found = Shards(
            tuple(images),
            np.repeat(np.arange(len(files), dtype=np.int32), [len(size_N) for size_N, _ in places]),
            np.concatenate([np.cumsum(size_N) - size_N for size_N, _ in places]),
            np.concatenate([size_N for size_N, _ in places]),
            np.concatenate([digest_N for _, digest_N in places]),
            open_bytes=cache.budget_bytes,
            slow_to_open=True,
        )
    return replace(table, root=None, outside={}, shards=_cached(found, cache))


@contextmanager
def _closed_on_error(cache: ShardCache) -> Iterator[None]:
    try:
        yield
    except BaseException:
        cache.close()
        raise


@contextmanager
def _skeleton_folder(files: Mapping[str, RemoteObject]) -> Iterator[Path]:
    """Folder of skeletons in the cache; that of files without versions, of no use later, is removed after the block."""
    folder = cache_folder() / "indices" / _key(files)
    if all(remote.version is not None for remote in files.values()):
        yield folder
        return
    here = ranks.on_machine()
    try:
        yield folder
        here.wait()
    finally:
        if here.is_main:
            rmtree(folder, ignore_errors=True)


def _write_skeletons(absent: list[tuple[RemoteShard, Path]]) -> None:
    if not absent:
        return
    read_ahead([shard for shard, _ in absent])
    with progress_bar() as progress:
        bar = progress.add_task("reading shards", total=len(absent), note="")
        for shard, file in absent:
            with shard.cache.local(shard.remote) as path:
                write_skeleton(path, file, shard.name)
            progress.advance(bar)


def _cached(shards: Shards, cache: ShardCache) -> Shards:
    """Shards that are read through a cache, which ends with them."""
    found = replace(shards, cache_bytes=cache.budget_bytes, read_ahead=read_ahead)
    weakref.finalize(found.opened, cache.close)
    return found


def _open_list(listing: _Listing, name: str, options: ReadOptions, open_local: LocalOpener) -> ImageTable:
    """Table of a list whose images lie beside it."""
    files = {name: listing.files[name]}
    if options.images is None:
        folder = Address.of(listing.base)
        beside = {_relative(remote, folder.path): remote for remote in listed(folder)}
        files |= {other: remote for other, remote in _images_of(beside).items() if _suffix(other) in image_suffixes()}
    copies = mirrored(files, _budget_bytes(), listing.shown)
    with _named(copies, listing.base.rstrip("/")):
        return open_local(copies / name, options)


def _images_of(files: Mapping[str, RemoteObject]) -> dict[str, RemoteObject]:
    """Images of a folder, and the lists in it that name them."""
    return {
        name: remote
        for name, remote in files.items()
        if _is_safe(name) and (_suffix(name) in image_suffixes() or PurePosixPath(name).name in METADATA)
    }


def _budget_bytes() -> int:
    return default_budget_bytes(cache_folder() / "shards")


def _parquet_shards(listing: _Listing) -> dict[str, RemoteObject]:
    found = listing.of(*PARQUET_SUFFIXES)
    return {name: remote for name, remote in found.items() if PurePosixPath(name).name not in METADATA}


def _single(listing: _Listing) -> str | None:
    """Name of the only file; None for several."""
    return next(iter(listing.files)) if len(listing.files) == 1 else None


def _relative(remote: RemoteObject, folder: str) -> str:
    """Name of a file relative to a folder, as it is on a disk: those of web servers are quoted in their addresses."""
    address = Address.of(remote.url)
    return _plain(address.scheme, address.path.removeprefix(folder))


def _plain(scheme: str, path: str) -> str:
    """Path without quoting, unless what it quotes is no UTF-8."""
    try:
        return unquote(path, errors="strict") if scheme in {"http", "https"} else path
    except UnicodeDecodeError:
        return path


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_safe(name: str) -> bool:
    """True for a relative name that cannot lead out of a folder of this disk."""
    foreign = "\\:\0" if os.name == "nt" else "\0"
    return not any(part in {"", ".", ".."} or any(c in part for c in foreign) for part in name.split("/"))


def _key(files: Mapping[str, RemoteObject]) -> str:
    """Name of the folder of skeletons; a new one each time for files without versions."""
    described = [f"{name}\n{identity(remote.url)}\n{remote.size}\n{remote.version}" for name, remote in files.items()]
    if any(remote.version is None for remote in files.values()):
        described.append(ranks.current().from_main(lambda: uuid.uuid4().hex))
    return sha256("\n".join(described).encode()).hexdigest()[:40]


@contextmanager
def _named(folder: Path, shown: str) -> Iterator[None]:
    """Errors of files on this disk with the address that they were copied from."""
    try:
        yield
    except RemoteError:
        raise
    except DataError as error:
        raise DataError(str(error).replace(str(folder), shown.rstrip("/"))) from None
