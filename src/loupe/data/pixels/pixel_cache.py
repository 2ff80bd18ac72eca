"""Pixel cache: the decoded pixels of a data set in one memory-mapped file, under a key of content and settings.

    <cache>/pixels/<key>/pixels.npy      uint8 [N, H, W, channels]
    <cache>/pixels/<key>/array.json      checksums of its blocks, which are verified whenever it is opened
    <cache>/pixels/<key>/damaged.json    instead, if images are damaged: their rows and the reasons
    <cache>/pixels/<key>/whole           empty file: all images were decoded without damage

A build writes to a temporary folder, syncs it and renames it. So an interrupted build is never taken for a complete
one, and of two concurrent builds the first to finish is used by both. The ranks of a machine build together.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np

from loupe import ranks
from loupe.data import array_file
from loupe.data.array_file import NoChecksumsError
from loupe.data.pixels import pixel_file
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.decoding import Damage, EncodedImages, damaged_images
from loupe.data.table import ImageTable
from loupe.errors import ImageError
from loupe.log import logger, size_text
from loupe.records import CheckedRecord, OsText, Part, RecordError, Whole

SPARE_DISK_BYTES = 256 * 2**20
_ABANDONED_SECONDS = 24 * 3600


class DamagedImage(Part):
    """Damaged image: its row and the reason."""

    index: Whole
    reason: OsText


class KnownDamage(CheckedRecord):
    """Content of damaged.json."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "The images are decoded again."

    damaged: tuple[DamagedImage, ...]


def build(images: EncodedImages, content: Sequence[str], folder: Path) -> UInt8Array:
    """Build the pixel file and map it, uint8 [N, H, W, channels], read-only.

    Raises:
        DamagedImages: images are damaged.
        OSError: the file cannot be written.
    """
    machine = ranks.on_machine()
    building = machine.from_main(lambda: _begin(images, folder))
    try:
        damaged = pixel_file.write(building / "pixels.npy", images)
        bad = {damage.index for damage in damaged}
        rest = [digest for i, digest in enumerate(content) if i not in bad]
        # The key of the intact images, so that --skip-damaged decodes nothing twice.
        target = folder / images.key(rest)
        if rest:
            machine.from_main(lambda: _publish(building, target))
    finally:
        if machine.is_main:
            shutil.rmtree(building, ignore_errors=True)
    if damaged:
        if all(damage.permanent for damage in damaged):
            machine.from_main(lambda: _write_damaged(damaged, folder, folder / images.key(content)))
        raise damaged_images(images.table, damaged)
    pixels = reopen(target, images)
    if pixels is None:
        raise OSError("the file was removed after it was written")
    return pixels


def _begin(images: EncodedImages, folder: Path) -> Path:
    """Temporary folder to build in.

    Raises:
        OSError: it cannot be made, or the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    if shutil.disk_usage(folder).free < images.total_bytes + SPARE_DISK_BYTES:
        raise OSError(f"the disk has less than {size_text(images.total_bytes + SPARE_DISK_BYTES)} free")
    return Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))


def verify(images: EncodedImages, content: Sequence[str], folder: Path | None) -> None:
    """Decode every image once to find damage, without keeping pixels.

    With a cache folder the outcome is recorded there, and the next call decodes nothing.

    Raises:
        DamagedImages: images are damaged.
    """
    machine = ranks.on_machine()
    if folder is not None and machine.from_main(lambda: _is_known_whole(folder / images.key(content), images.table)):
        return
    damaged = pixel_file.damaged_of(images)
    if folder is not None and all(damage.permanent for damage in damaged):
        machine.from_main(lambda: _write_outcome(damaged, images, content, folder))
    if damaged:
        raise damaged_images(images.table, damaged)


def _is_known_whole(entry: Path, table: ImageTable) -> bool:
    """True if all images were decoded before without damage; known damage is raised."""
    _raise_known_damage(entry / "damaged.json", table)
    if not any((entry / name).exists() for name in ("whole", "pixels.npy")):
        return False
    _touch(entry)
    return True


def _write_outcome(damaged: list[Damage], images: EncodedImages, content: Sequence[str], folder: Path) -> None:
    """Record which images are damaged, and that the others are not."""
    with suppress(OSError):  # a cache that cannot be written is no error
        folder.mkdir(parents=True, exist_ok=True)
    if damaged:
        _write_damaged(damaged, folder, folder / images.key(content))
    bad = {damage.index for damage in damaged}
    _write_whole(folder, folder / images.key([digest for i, digest in enumerate(content) if i not in bad]))


def _write_whole(folder: Path, target: Path) -> None:
    with suppress(OSError), _temporary(folder) as building:  # on failure the images are only verified again
        (building / "whole").touch()
        _publish(building, target)


def reopen(entry: Path, images: EncodedImages) -> UInt8Array | None:
    """Map pixels that were built before; None if there are none or they are unusable.

    Raises:
        DamagedImages: damage was recorded.
    """
    return array_file.for_machine(lambda: _verified(entry, images), entry / "pixels.npy")


def _verified(entry: Path, images: EncodedImages) -> UInt8Array | None:
    _raise_known_damage(entry / "damaged.json", images.table)
    file, shape = entry / "pixels.npy", pixel_file.shape_of(images)
    try:
        pixels, _ = array_file.verified(file)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(f"it holds {pixels.dtype} {list(pixels.shape)} instead of uint8 {list(shape)}")
    except FileNotFoundError:
        return None
    except NoChecksumsError:
        logger.info(
            f"The cached pixels in {file} have no valid checksums (as of an earlier version). They are built again."
        )
    except (OSError, ValueError) as error:
        logger.warning(f"The cached pixels in {file} are damaged ({error}). They are built again.")
    else:
        _touch(entry)
        return pixels
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _raise_known_damage(file: Path, table: ImageTable) -> None:
    if not file.exists():
        return
    try:
        entries = KnownDamage.read(file).damaged
        known = [
            Damage(entry.index, ImageError(table.paths[entry.index], entry.reason), permanent=True) for entry in entries
        ]
    except (RecordError, IndexError) as error:
        reason = error.reason if isinstance(error, RecordError) else "it is of other images"
        logger.warning(f"The list of damaged images in {file} is not used ({reason}). The images are decoded again.")
        with suppress(OSError):  # the cache may be read-only
            file.unlink()
        return
    if known:
        raise damaged_images(table, known)


def _write_damaged(damaged: list[Damage], folder: Path, target: Path) -> None:
    entries = [DamagedImage(index=damage.index, reason=damage.error.reason) for damage in damaged]
    with suppress(OSError), _temporary(folder) as building:
        KnownDamage(damaged=tuple(entries)).write(building / "damaged.json")
        _publish(building, target)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Temporary folder to build in, removed afterwards unless it was renamed."""
    building = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _touch(entry: Path) -> None:
    """Record the time of the last use."""
    with suppress(OSError):  # the cache may be read-only
        os.utime(entry)


def _publish(building: Path, target: Path) -> None:
    """Rename a finished folder to its final name, or move its missing files into an existing folder of that name.

    The folder exists if another process finished first, or if the images were verified before without room for their
    pixels.
    """
    try:
        building.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        for file in sorted(building.iterdir()):  # checksums before the array that is verified against them
            if not (target / file.name).exists():
                file.replace(target / file.name)
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of killed builds that are too old to be in use."""
    for building in folder.glob(".building-*"):
        with suppress(OSError):
            last = max(path.stat().st_mtime for path in (building, *building.iterdir()))
            if time.time() - last > _ABANDONED_SECONDS:
                shutil.rmtree(building, ignore_errors=True)
