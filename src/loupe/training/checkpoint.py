"""Checkpoints: written beside, synced, renamed; verified when read; the order of resuming stated in one place.

    checkpoints/last/save-00000012/    weights, averaged weights, optimizer, where training stood; the newest two
    checkpoints/best/epoch-00000007/   the weights of the best epoch

A folder appears under its name only when it is whole. Resuming takes the newest `last` whose files have the hashes that
were written with them, else the one before. `best` is saved before the `last` that speaks of it, and a former best is
removed only when no kept `last` speaks of it. Only safetensors and JSON; nothing is unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from loupe import records
from loupe.errors import RunStateError
from loupe.files import sync_folder, write_synced
from loupe.log import logger
from loupe.records import Record

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """Everything that changes while training: named groups of tensors, and plain values."""

    tensors: Mapping[str, Tensors]
    values: Mapping[str, Any] = field(default_factory=dict)


class CheckpointState(Record):
    """The content of state.json, beside its own hash.

    Attributes:
        values: the plain values of the snapshot.
        files: the hash of each file of tensors, by its name without the suffix.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Train again under another --name."

    values: dict[str, Any]
    files: dict[Annotated[str, Field(pattern=r"^\w+$")], str]


class DamagedError(Exception):
    """A checkpoint whose files are missing, or are not those that were written."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.last = folder / "last"
        self.best = folder / "best"

    @property
    def begun(self) -> bool:
        """Whether anything was saved."""
        return bool(_newest(self.last))

    def save_last(self, snapshot: Snapshot) -> None:
        """Saves where training stands, under a number of its own, and keeps the save before."""
        newest = next(iter(_newest(self.last)), "save-0")
        write(self.last / f"save-{int(newest.partition('-')[2]) + 1:08d}", snapshot)
        _keep(self.last, _newest(self.last)[:2])
        if self.best.is_dir():
            _keep(self.best, _newest(self.best)[:2])

    def save_best(self, epoch: int, weights: Tensors) -> None:
        """Saves the weights of the best epoch so far. The one before stays: the second newest `last` speaks of it.

        Those that are there, and whole, are the same: a stage that was cut off after this save comes to it again.
        """
        path = self.best / f"epoch-{epoch:08d}"
        if path.exists():
            try:
                read(path)
                return
            except DamagedError:
                shutil.rmtree(path)
        write(path, Snapshot({"weights": weights}))

    def forget_bests_after(self, epoch: int) -> None:
        """Removes best weights from epochs that a resumed run has not come to yet."""
        if self.best.is_dir():
            _keep(self.best, [name for name in _newest(self.best) if name <= f"epoch-{epoch:08d}"])

    def load_last(self) -> Snapshot | None:
        """The newest whole checkpoint, None where none was ever saved; a damaged one is passed over with a warning.

        Raises:
            LoupeError: there are checkpoints, and all are damaged.
        """
        found = _newest(self.last)
        for place, name in enumerate(found):
            try:
                snapshot = read(self.last / name)
            except DamagedError as damage:
                logger.warning(f"checkpoint {name} is damaged ({damage}); going back to the one before it.")
                continue
            _keep(self.last, found[place:])
            return snapshot
        if found:
            raise RunStateError(f"{self.last}: every checkpoint is damaged. Train again under another --name.")
        return None

    def load_best(self, epoch: int) -> Tensors:
        """The weights of the best epoch; LoupeError where they are damaged."""
        path = self.best / f"epoch-{epoch:08d}"
        try:
            return read(path).tensors["weights"]
        except DamagedError as damage:
            raise RunStateError(
                f"{path}: the best weights are damaged ({damage}). Train again under another --name."
            ) from None


def write(path: Path, snapshot: Snapshot) -> None:
    """Makes the folder `path` hold the snapshot: beside it first, synced, then renamed into its place.

    OSError where that cannot be; of what was half written, nothing then takes the disk's space.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        _fill(beside, snapshot)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    beside.rename(path)
    sync_folder(path.parent)


def _fill(folder: Path, snapshot: Snapshot) -> None:
    """Writes the snapshot's files, synced, into a new folder."""
    folder.mkdir(parents=True)
    hashes = {}
    for name, tensors in snapshot.tensors.items():
        data = safetensors.torch.save({key: _plain(tensor) for key, tensor in tensors.items()})
        write_synced(folder / f"{name}.safetensors", data)
        hashes[name] = content_digest(data)
    body = json.dumps(CheckpointState(values=dict(snapshot.values), files=hashes).to_json(), allow_nan=False)
    write_synced(folder / "state.json", json.dumps({"digest": content_digest(body.encode()), "body": body}).encode())
    sync_folder(folder)


def read(path: Path) -> Snapshot:
    """The snapshot in a folder; DamagedError where anything is not as it was written."""
    try:
        outer = records.parse((path / "state.json").read_bytes())
        if content_digest(outer["body"].encode()) != outer["digest"]:
            raise DamagedError("state.json has changed")
        state = CheckpointState.of(records.parse(outer["body"]), path / "state.json")
        tensors = {}
        for name, digest in state.files.items():
            data = (path / f"{name}.safetensors").read_bytes()
            if content_digest(data) != digest:
                raise DamagedError(f"{name}.safetensors has changed")
            tensors[name] = safetensors.torch.load(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return Snapshot(tensors, state.values)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimizer's state, flat: `{parameter number}.{name}`. Every entry of the optimizers used here is a tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Puts back what `optimizer_tensors` gave; rates and settings stay those of the optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        # Fused optimizers walk a parameter and its state as flat memory, so both must have the same strides.
        placed = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        state.setdefault(int(number), {})[name] = placed.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous and on the CPU, as safetensors stores it."""
    return tensor.detach().to("cpu").contiguous()


def content_digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _newest(folder: Path) -> list[str]:
    """Names of the whole checkpoints in a folder, newest first. A cut-off write's name begins with a dot."""
    return sorted((path.name for path in folder.glob("[!.]*") if path.is_dir()), reverse=True)


def _keep(folder: Path, names: list[str]) -> None:
    """Removes everything else from a folder, what cut-off writes left behind included."""
    for path in list(folder.iterdir()):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
