"""Plan of a prediction in bulk: every image in order, in units that are predicted and written one by one.

A plan is two files in a folder. `plan.arrow` holds the images, one record batch for each unit, so that any unit is read
without the others. `plan.json` says what they are from and how they are predicted; it is written last, so that a plan
is whole or not there.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from loupe import __version__
from loupe.bulk.source import Listed, Source
from loupe.config.base import Positive
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import DataError, RunStateError
from loupe.files import replacing
from loupe.log import progress_bar
from loupe.records import CheckedRecord, Fraction, OsText, Part, RecordError, Whole

PLAN, IMAGES = "plan.json", "plan.arrow"
UNIT_IMAGES = 2048
"""Images of a unit: work that is done again after a kill, and a multiple of every batch."""
SCHEMA = pa.schema([(name, pa.string()) for name in Listed._fields])
COMPRESSION = pa.ipc.IpcWriteOptions(compression="zstd")


class Settings(Part):
    """Model and settings of a prediction, all of which decide its rows.

    Attributes:
        model: hash of the model and of its preprocessing.
        classes: classes of the model.
        temperature: divisor of the logits.
        threshold: probability below which an image stays unclassified; 0 for none.
        top: number of classes listed for each image.
        tta: test-time augmentation.
    """

    model: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    temperature: Positive
    threshold: Fraction
    top: Annotated[int, Field(ge=1)]
    tta: str | None


class Asked(Part):
    """Source of a prediction, the way in which it is read, and the settings."""

    kind: str
    places: tuple[OsText, ...]
    options: dict[str, Any]
    settings: Settings

    def differences(self, other: "Asked") -> list[str]:
        """Names of the values that are not the same in both, as a user knows them."""
        named = {"kind": "source", "places": "source", "options": "--columns, --images or --follow-links"}
        found = [name for key, name in named.items() if getattr(self, key) != getattr(other, key)]
        of_settings = {
            "model": "model",
            "classes": "classes",
            "temperature": "temperature",
            "threshold": "threshold",
            "top": "--top",
            "tta": "--tta",
        }
        ours, theirs = self.settings, other.settings
        found += [name for key, name in of_settings.items() if getattr(ours, key) != getattr(theirs, key)]
        return list(dict.fromkeys(found))


class PlanRecord(CheckedRecord):
    """Content of plan.json.

    Attributes:
        asked: source and settings.
        root: folder that paths of images are relative to; "" where they are addresses.
        id_name: column of the identifiers; None without one.
        images: number of images.
        unit_images: number of images of each unit but the last.
        listing: SHA-256 of all images in order.
        listed: time at which they were listed, in UTC.
        loupe: version that wrote the plan.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Remove its folder, and predict again."

    asked: Asked
    root: OsText
    id_name: str | None
    images: Annotated[int, Field(ge=1, lt=2**63)]
    unit_images: Annotated[int, Field(ge=1)]
    listing: str
    listed: str
    loupe: str

    @property
    def units(self) -> int:
        """Number of units."""
        return -(-self.images // self.unit_images)

    @property
    def identity(self) -> str:
        """Hash of the images and of all that decides their rows."""
        return _sha256([self.asked.to_json(), self.root, self.id_name, self.unit_images, self.listing])

    def unit_size(self, number: Whole) -> int:
        """Number of images of a unit."""
        return min(self.unit_images, self.images - number * self.unit_images)


@dataclass(frozen=True, eq=False)
class Unit:
    """Images of a unit, in order, and the number of the unit."""

    number: int
    rows: tuple[Listed, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images: their names, identifiers, places and problems."""
        return _sha256(self.rows)


class Plan:
    """Plan in a folder; it can be sent to another process that sees the same folder.

    Attributes:
        folder: folder of its files.
        record: content of plan.json.
    """

    def __init__(self, folder: Path, record: PlanRecord) -> None:
        self.folder = folder
        self.record = record

    def __reduce__(self) -> tuple[type["Plan"], tuple[Path, PlanRecord]]:
        return type(self), (self.folder, self.record)

    def close(self) -> None:
        """Close the file of the images, which Windows would not remove; it is opened again when it is needed."""
        if "_file" in self.__dict__:
            self.__dict__.pop("_batches", None)
            self.__dict__.pop("_file").close()

    @cached_property
    def _file(self) -> Any:
        return pa.memory_map(str(self.folder / IMAGES))

    @cached_property
    def _batches(self) -> Any:
        file = self.folder / IMAGES
        try:
            batches = pa.ipc.open_file(self._file)
            found = batches.num_record_batches
        except (OSError, pa.ArrowException) as error:
            raise RecordError(file, f"cannot be read ({error})", PlanRecord.REMEDY) from None
        if found != self.record.units or not batches.schema.equals(SCHEMA):
            raise RecordError(file, "not the images of this plan", PlanRecord.REMEDY)
        return batches

    def unit(self, number: int) -> Unit:
        """Images of a unit.

        Raises:
            RecordError: plan.arrow is damaged.
        """
        try:
            batch = self._batches.get_batch(number)
            columns = [batch.column(name).to_pylist() for name in Listed._fields]
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise RecordError(self.folder / IMAGES, f"cannot be read ({error})", PlanRecord.REMEDY) from None
        unit = Unit(number, tuple(map(Listed, *columns)))
        if len(unit) != self.record.unit_size(number):
            raise RecordError(self.folder / IMAGES, "not the images of this plan", PlanRecord.REMEDY)
        return unit

    def units(self) -> Iterator[Unit]:
        """All units in order.

        Raises:
            RecordError: the images are not those that were listed.
        """
        digests = hashlib.sha256()
        for number in range(self.record.units):
            unit = self.unit(number)
            digests.update(unit.digest.encode())
            yield unit
        if digests.hexdigest() != self.record.listing:
            raise RecordError(self.folder / IMAGES, "not the images of this plan", PlanRecord.REMEDY)


def asked_of(source: Source, options: ReadOptions, settings: Settings) -> Asked:
    """Source and settings of a prediction, before the source is listed."""
    return Asked(kind=source.kind, places=source.places, options=options.to_json(), settings=settings)


def make_plan(folder: Path, source: Source, asked: Asked, *, unit_images: int = UNIT_IMAGES) -> Plan:
    """List a source once, in constant memory, and write the plan.

    Args:
        folder: folder of the plan, which exists.
        source: images.
        asked: source and settings, as recorded.
        unit_images: number of images of a unit.

    Raises:
        DataError: the source cannot be read, or has no images.
        OSError: the files cannot be written.
    """
    digests, images = hashlib.sha256(), 0
    with (
        progress_bar() as progress,
        replacing(folder / IMAGES) as file,
        pa.ipc.new_file(file, SCHEMA, options=COMPRESSION) as writer,
    ):
        bar = progress.add_task("listing images", total=None, note="")
        for unit in _cut(source.rows(folder), unit_images):
            writer.write_batch(
                pa.record_batch(
                    [pa.array(column, pa.string()) for column in zip(*unit.rows, strict=True)], schema=SCHEMA
                )
            )
            digests.update(unit.digest.encode())
            images += len(unit)
            progress.advance(bar, len(unit))
    if not images:
        raise DataError(f"{' '.join(source.places)}: there are no images in it.")
    record = PlanRecord(
        asked=asked,
        root=source.root,
        id_name=source.id_name,
        images=images,
        unit_images=unit_images,
        listing=digests.hexdigest(),
        listed=datetime.now(UTC).isoformat(timespec="seconds"),
        loupe=__version__,
    )
    record.write(folder / PLAN)
    return Plan(folder, record)


def open_plan(folder: Path) -> Plan:
    """Plan in a folder.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    return Plan(folder, PlanRecord.read(folder / PLAN))


def check_same(asked: Asked, found: Asked, where: Path, remedy: str) -> None:
    """Check that a prediction that was begun is the one that is asked for.

    Raises:
        RunStateError: it has another source, model or settings; the message names them.
    """
    if differing := asked.differences(found):
        raise RunStateError(f"{where} was begun with other values of: {', '.join(differing)}. {remedy}")


def _cut(rows: Iterator[Listed], unit_images: int) -> Iterator[Unit]:
    number = 0
    while taken := tuple(islice(rows, unit_images)):
        yield Unit(number, taken)
        number += 1


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
