"""Choices that a measurement makes: made once for a machine and a kind of work, kept in the cache, taken from there.

    <cache>/settled/<key>.json        the choice, the times that decided it, and a checksum

The key is a hash of the machine (processor, its instruction sets, cores, threads, GPU, version of PyTorch) and of the
work. So the same command gives the same bits on a machine, however busy it is, until its cache is cleared.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import torch
from filelock import FileLock

from loupe import ranks
from loupe.cache import cache_folder
from loupe.devices import gpu_name, processor_flags
from loupe.log import logger
from loupe.openmp import cores
from loupe.provenance import processor
from loupe.records import Record, RecordError
from loupe.rundir import now

KIND = "settled"
AGAIN = f"loupe cache --clear {KIND}"


class SettledChoice(Record):
    """Content of a file of the cache.

    Attributes:
        machine, work: of which the file's name is the key.
        chosen: value that was chosen.
        reason: in words, with the times.
        date: time of the measurement.
        checksum: of all of these.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "It is measured again."

    machine: dict[str, str]
    work: dict[str, str]
    chosen: str
    reason: str
    date: str
    checksum: str

    @property
    def sum(self) -> str:
        """Checksum of the other values."""
        return _digest({name: value for name, value in self.to_json().items() if name != "checksum"})


def settled(
    work: Mapping[str, str],
    measure: Callable[[], tuple[str, str]],
    device: torch.device,
    folder: Path | None = None,
    place: dict[str, str] | None = None,
) -> tuple[str, str]:
    """Choice for this kind of work on this machine, and the reason: that of the cache, or measured now and kept.

    Of several ranks, the first one chooses for all.

    Args:
        work: names and settings of the work; equal ones share the choice.
        measure: function that returns the choice and the reason.
        folder: folder of the cache; None for that of the user.
        place: facts of the machine on which the choice depends; None for all of `machine`.
    """
    place = machine(device) if place is None else place
    return ranks.current().from_main(lambda: _settled(work, measure, folder, place))


def _settled(
    work: Mapping[str, str], measure: Callable[[], tuple[str, str]], folder: Path | None, place: dict[str, str]
) -> tuple[str, str]:
    path = (folder or cache_folder()) / KIND / f"{_digest({'machine': place, 'work': dict(work)})[:32]}.json"
    with ExitStack() as held:
        with suppress(OSError):  # a cache that is read-only may hold the choice all the same
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))
        known = _read(path)
        if known is not None and (known.machine, known.work) == (place, dict(work)):
            with suppress(OSError):
                os.utime(path)  # time of the last use
            return known.chosen, f"{known.reason}, settled for this machine on {known.date[:10]}"
        chosen, reason = measure()
        values = {"machine": place, "work": dict(work), "chosen": chosen, "reason": reason, "date": now()}
        _write(path, SettledChoice(**values, checksum=""))
    return chosen, reason


def machine(device: torch.device) -> dict[str, str]:
    """Facts of the machine on which the speed of a work depends."""
    return {
        "processor": processor(),
        "flags": hashlib.sha256(" ".join(sorted(processor_flags())).encode()).hexdigest()[:16],
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "device": (gpu_name(device) if torch.cuda.is_available() else None) or device.type,
        "torch": torch.__version__,
    }


def choices(device: torch.device, folder: Path | None = None) -> Iterator[SettledChoice]:
    """Choices that are settled for this machine, by date; damaged files are left out."""
    files = sorted(((folder or cache_folder()) / KIND).glob("*.json"))
    found = [choice for choice in map(_read, files) if choice is not None]
    yield from sorted((one for one in found if one.machine == machine(device)), key=lambda one: one.date)


def _read(path: Path) -> SettledChoice | None:
    """Choice in a file; None if there is none, or if it is damaged, which is said."""
    try:
        choice = SettledChoice.read_if_there(path)
        if choice is None or choice.sum == choice.checksum:
            return choice
        raise RecordError(path, "damaged (its checksum is another)", SettledChoice.REMEDY)
    except RecordError as error:
        logger.warning(str(error))
        return None


def _write(path: Path, choice: SettledChoice) -> None:
    try:
        choice.model_copy(update={"checksum": choice.sum}).write(path)
    except OSError as error:
        logger.info(
            f"the choice cannot be kept in {path.parent} ({error.strerror or error}): each run measures it, and may "
            "choose another. Set LOUPE_CACHE to a folder that can be written to."
        )


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
