"""Pixels of a set in one memory-mapped file, built once and found again under the key of all that decides them.

    <cache>/pixels/<key>/pixels.npy      uint8 [N, S, S, 3]
    <cache>/pixels/<key>/damaged.json    in its place, where images of the set are damaged: which, and why
    <cache>/pixels/<key>/whole           empty: all images were decoded, and none is damaged

A build writes beside, syncs, and renames its folder: one that was cut off never bears the name of a whole one, and of
two at once the first to finish is used by both.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from loupe.data import array_file
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.decoding import Damage, DamagedImages, Images, damaged_images
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import logger, size_text
from loupe.records import OsText, Part, Record, RecordError, Whole

SPARE_DISK_BYTES = 256 * 2**20
_ABANDONED_SECONDS = 24 * 3600


class DamagedImage(Part):
    """One image of the set that cannot be decoded: its row, and why."""

    index: Whole
    reason: OsText


class KnownDamage(Record):
    """The content of damaged.json."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "The images are looked at again."

    damaged: tuple[DamagedImage, ...]


def build(images: Images, content: Sequence[str], folder: Path) -> UInt8Array:
    """Builds the file and opens it: uint8 [N, S, S, 3], read-only. Only writing it raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    if shutil.disk_usage(folder).free < images.total_bytes + SPARE_DISK_BYTES:
        raise OSError(f"the disk has less than {size_text(images.total_bytes + SPARE_DISK_BYTES)} free")
    with _beside(folder) as building:
        damaged = _write_pixels(building / "pixels.npy", images)
        bad = {damage.index for damage in damaged}
        rest = [digest for i, digest in enumerate(content) if i not in bad]
        # What is whole bears the key of the images that remain, so that --skip-damaged decodes nothing twice.
        place = folder / images.key(rest)
        if rest:
            _publish(building, place)
    if damaged:
        if all(damage.lasts for damage in damaged):
            _write_damaged(damaged, folder, folder / images.key(content))
        raise damaged_images(damaged)
    pixels = reopen(place, images)
    if pixels is None:
        raise OSError("the file that was written is gone")
    return pixels


def _write_pixels(file: Path, images: Images) -> list[Damage]:
    """Writes every image that can be decoded, in order, and returns the others. Synced to the disk."""
    damaged: list[Damage] = []
    with file.open("wb") as out:
        _write_header(out, len(images.table), images.load_px)
        start = out.tell()
        with closing(images.decode_all()) as parts:
            for part in parts:
                # Not stored through a memory map: there a full disk is a signal that ends the process; here, an
                # error.
                out.write(part.pixels.data)
                damaged += part.damaged
        if damaged:
            out.seek(0)
            _write_header(out, len(images.table) - len(damaged), images.load_px)
            assert out.tell() == start, "NumPy pads headers so that they can grow in place"
        out.flush()
        os.fsync(out.fileno())
    return damaged


def _write_header(out: BinaryIO, images: int, side_px: int) -> None:
    shape = (images, side_px, side_px, 3)
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def verify(images: Images, content: Sequence[str], folder: Path | None) -> None:
    """Decodes every image once, keeping none, and raises DamagedImages for those that cannot be.

    What was found is remembered beside the pixels of other sets, if there is a folder, so that the next time nothing is
    decoded.
    """
    if folder is not None:
        place = folder / images.key(content)
        _raise_known_damage(place / "damaged.json", images.table)
        if any((place / name).exists() for name in ("whole", "pixels.npy")):
            _touch(place)
            return
    damaged: list[Damage] = []
    with closing(images.decode_all()) as parts:
        for part in parts:
            damaged += part.damaged
    if folder is not None and all(damage.lasts for damage in damaged):
        with suppress(OSError):  # neither can what follows then be written, which is no error
            folder.mkdir(parents=True, exist_ok=True)
        if damaged:
            _write_damaged(damaged, folder, folder / images.key(content))
        bad = {damage.index for damage in damaged}
        _write_whole(folder, folder / images.key([digest for i, digest in enumerate(content) if i not in bad]))
    if damaged:
        raise damaged_images(damaged)


def _write_whole(folder: Path, place: Path) -> None:
    with suppress(OSError), _beside(folder) as building:  # failing costs the same look again, nothing else
        (building / "whole").touch()
        _publish(building, place)


def reopen(place: Path, images: Images) -> UInt8Array | None:
    """The pixels built before, or None. Raises DamagedImages where it was found then that some are."""
    _raise_known_damage(place / "damaged.json", images.table)
    file = place / "pixels.npy"
    shape = (len(images.table), images.load_px, images.load_px, 3)
    try:
        pixels: UInt8Array = array_file.mapped(file)
        if pixels.shape == shape and pixels.dtype == np.uint8:
            _touch(place)
            return pixels
        reason = f"it holds {pixels.dtype} {list(pixels.shape)} in place of uint8 {list(shape)}"
    except FileNotFoundError:
        return None
    except ValueError as error:
        reason = str(error)
    logger.info(f"The kept pixels in {file} cannot be used ({reason}): they are made again.")
    shutil.rmtree(place, ignore_errors=True)
    return None


def _raise_known_damage(file: Path, table: ImageTable) -> None:
    try:
        entries = KnownDamage.read(file).damaged
        errors = [ImageError(table.paths[entry.index], entry.reason) for entry in entries]
    except (RecordError, IndexError):  # absent, or not written here: the images are looked at again
        return
    if errors:
        raise DamagedImages(errors, [entry.index for entry in entries])


def _write_damaged(damaged: list[Damage], folder: Path, place: Path) -> None:
    entries = [DamagedImage(index=damage.index, reason=damage.error.reason) for damage in damaged]
    with suppress(OSError), _beside(folder) as building:
        KnownDamage(damaged=tuple(entries)).write(building / "damaged.json")
        _publish(building, place)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which is gone afterwards unless it was renamed."""
    building = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _touch(place: Path) -> None:
    """Notes when it was last used."""
    with suppress(OSError):  # a read-only cache is as good
        os.utime(place)


def _publish(building: Path, place: Path) -> None:
    """Gives what was built its name. A folder that has the name already gets what it lacks.

    Another process was first, with the same pixels; or the images were seen to be whole when there was no room for
    their pixels.
    """
    try:
        building.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        for file in building.iterdir():
            if not (place / file.name).exists():
                file.replace(place / file.name)
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Removes what builds that were killed have left, once nobody can be writing to it any more."""
    for building in folder.glob(".building-*"):
        with suppress(OSError):
            last = max(path.stat().st_mtime for path in (building, *building.iterdir()))
            if time.time() - last > _ABANDONED_SECONDS:
                shutil.rmtree(building, ignore_errors=True)
