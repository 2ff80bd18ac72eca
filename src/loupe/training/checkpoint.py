"""Checkpoints of a run: atomic writing, hashes that are verified on reading, and the choice of the one to resume from.

    checkpoints/last/save-00000012/    weights, averaged weights, optimizer, state of the training; the newest two
    checkpoints/best/epoch-00000007/   weights of the best epoch

A folder gets its name only when it is complete. A run resumes from the newest `last` whose files match their hashes.
`best` is saved before the `last` that refers to it, and an older best is removed only when no `last` refers to it.
Files are safetensors and JSON; nothing is unpickled.
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
from loupe.models.weight_values import defect, non_finite
from loupe.records import Record

Tensors = dict[str, Tensor]
WEIGHTS = frozenset({"weights", "average"})  # other groups of a checkpoint may be zero


@dataclass(frozen=True)
class Snapshot:
    """Content of a checkpoint: named groups of tensors, and plain values."""

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
    """Checkpoint with missing or changed files."""


class Checkpoints:
    """Checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.last = folder / "last"
        self.best = folder / "best"

    @property
    def begun(self) -> bool:
        """True once a checkpoint has been saved."""
        return bool(_newest(self.last))

    def save_last(self, snapshot: Snapshot) -> None:
        """Save a snapshot under the next number, and keep the one before."""
        newest = next(iter(_newest(self.last)), "save-0")
        write(self.last / f"save-{int(newest.partition('-')[2]) + 1:08d}", snapshot)
        _keep(self.last, _newest(self.last)[:2])
        if self.best.is_dir():
            _keep(self.best, _newest(self.best)[:2])

    def save_best(self, epoch: int, weights: Tensors) -> None:
        """Save the weights of the best epoch so far. The best before is kept: the second newest `last` refers to it.

        Undamaged weights of this epoch are not written again: a run interrupted after this save repeats it.
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
        """Remove best weights of epochs that a resumed run has not reached yet."""
        if self.best.is_dir():
            _keep(self.best, [name for name in _newest(self.best) if name <= f"epoch-{epoch:08d}"])

    def load_last(self) -> Snapshot | None:
        """Newest undamaged checkpoint; None if none was saved. A damaged one is skipped with a warning.

        Raises:
            RunStateError: all checkpoints are damaged.
        """
        names = _newest(self.last)
        for number, name in enumerate(names):
            try:
                snapshot = read(self.last / name)
            except DamagedError as damage:
                logger.warning(f"checkpoint {name} is damaged ({damage}); trying the one before.")
                continue
            _keep(self.last, names[number:])
            return snapshot
        if names:
            raise RunStateError(f"{self.last}: every checkpoint is damaged. Train again under another --name.")
        return None

    def load_best(self, epoch: int) -> Tensors:
        """Weights of the best epoch.

        Raises:
            RunStateError: they are damaged.
        """
        path = self.best / f"epoch-{epoch:08d}"
        try:
            return read(path).tensors["weights"]
        except DamagedError as damage:
            raise RunStateError(
                f"{path}: the best weights are damaged ({damage}). Train again under another --name."
            ) from None


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as the folder `path`: to a temporary folder, synced, then renamed.

    Raises:
        OSError: it cannot be written; the temporary folder is removed.
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
    """Write the files of a snapshot, synced, into a new folder."""
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
    """Snapshot in a folder.

    Raises:
        DamagedError: a file is missing or has changed, or its numbers are NaN, infinite or zero.
    """
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
            wrong = defect(tensors[name]) if name in WEIGHTS else non_finite(tensors[name])
            if wrong:
                raise DamagedError(f"{name}.safetensors: {wrong}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return Snapshot(tensors, state.values)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """State of an optimizer by `{parameter number}.{name}`. All entries of the optimizers used here are tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore the state that `optimizer_tensors` returned; rates and settings stay those of the optimizer."""
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
    """Copy of a tensor as safetensors stores it: contiguous, on the CPU."""
    return tensor.detach().to("cpu").contiguous()


def content_digest(data: bytes) -> str:
    """BLAKE2b hash of 16 bytes, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _newest(folder: Path) -> list[str]:
    """Names of complete checkpoints in a folder, newest first. Names of incomplete ones begin with a dot."""
    return sorted((path.name for path in folder.glob("[!.]*") if path.is_dir()), reverse=True)


def _keep(folder: Path, names: list[str]) -> None:
    """Remove all else from a folder, also incomplete checkpoints."""
    for path in list(folder.iterdir()):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
