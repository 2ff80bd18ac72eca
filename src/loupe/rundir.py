"""The run directory: what is written where, and reading it back. It never imports torch.

Files are written beside their place, synced and renamed, so that a reader (or a killed process) never sees half of one.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from loupe import csv_files
from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.errors import ConfigError, DiskError, RunStateError, of_disk, unknown_name
from loupe.files import write_atomic
from loupe.log import command_line

BEFORE_RECIPE = ("split.csv", "environment.json")  # written before recipe.yaml, which makes a folder a run
METRICS = (
    "epoch",
    "stage",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "val_objective",
    "seconds",
    "images_per_second",
)


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. `path.name` is the run's name, `path.parent` the runs folder."""

    path: Path

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def resume_command(self) -> str:
        """What goes on with the run where it was interrupted."""
        return command_line(["loupe", "train", "--resume", str(self.path)])

    def write_recipe(self, value: Recipe) -> None:
        write_atomic(self.file("recipe.yaml"), value.to_yaml())

    def read_recipe(self) -> Recipe:
        return overrides.load(self.file("recipe.yaml"))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_atomic(self.file(name), json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        csv_files.write(self.file("metrics.csv"), METRICS, history)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held while a process writes to the run, so that no second one does.

        Raises:
            LoupeError: another process holds it, or the disk is full or may not be written.
        """
        lock = FileLock(self.file(".lock"))
        try:
            self._acquire(lock)
            yield
        except OSError as error:
            if told := of_disk(error, self.path, self._then()):
                raise told from error
            raise
        finally:
            lock.release()

    def _acquire(self, lock: BaseFileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunStateError(
                f"{self.path} is being written by another process. Wait for it, or stop it first."
            ) from None

    def _then(self) -> str:
        """What a process that could not write does when it can."""
        if not self.file("recipe.yaml").is_file():
            return f"delete {self.path} and train again"
        if self.file("results.json").is_file():
            return "give the same command again"
        return f"go on with: {self.resume_command}"


def check_name(runs: Path, name: str | None) -> None:
    """Check, before any work is done, that a new run can have this name.

    Raises:
        RunStateError: it is taken.
        ConfigError: it cannot be a folder's name.
    """
    if not name:
        return
    _check_plain(name)
    path = runs / name
    if (path / "recipe.yaml").exists():
        raise RunStateError(
            f"{path} exists, and a run is never overwritten. Choose another --name, or go on with it: "
            f"{RunDirectory(path).resume_command}"
        )
    if path.exists() and not _abandoned(path):
        raise RunStateError(
            f"{path} exists and is not a run: it has no recipe.yaml. Delete it, or choose another --name or --output."
        )


def _check_plain(name: str) -> None:
    if Path(name).name != name or name in {".", ".."}:
        raise ConfigError(
            f"--name {name!r} must be a plain folder name. Use --output for the folder that holds the runs."
        )


def _abandoned(path: Path) -> bool:
    """Whether a folder holds no more than what a process that was killed writes before the recipe of a new run."""
    if not path.is_dir():
        return False
    unfinished = tuple(f".{name}." for name in (*BEFORE_RECIPE, "recipe.yaml"))
    names = [file.name for file in path.iterdir()]
    return all(name in (".lock", *BEFORE_RECIPE) or name.startswith(unfinished) for name in names)


def create_run(runs: Path, name: str | None, default: str) -> RunDirectory:
    """A new run directory; an existing run is never used again.

    Raises:
        LoupeError: `name` is taken, or cannot be a folder's name, or the runs folder cannot be written.
    """
    wanted = name or default
    _check_plain(wanted)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 100_000):
            path = runs / (wanted if attempt == 1 else f"{wanted}-{attempt}")
            try:
                path.mkdir()
                return RunDirectory(path)
            except FileExistsError:
                if name:
                    check_name(runs, name)  # another process may have begun it just now
                    return RunDirectory(path)
    except OSError as error:
        raise DiskError(
            f"{runs}: the run directory cannot be made: {error.strerror}. Choose another folder with --output."
        ) from None
    raise ConfigError(f"{runs}: too many runs named {wanted}. Choose a --name.")


def open_run(run: str | Path, runs: Path = Path("runs")) -> RunDirectory:
    """The run at a path, or of a name in the runs folder; LoupeError with the nearest names where there is none."""
    for path in (Path(run), runs / run):
        if (path / "recipe.yaml").is_file():
            return RunDirectory(path if path.name not in ("", "..") else path.resolve())
    if Path(run).is_dir():
        raise RunStateError(f"{run} is not a run: it has no recipe.yaml.")
    names = [found.name for found in list_runs(runs)]
    if not names:
        raise RunStateError(f"no run {str(run)!r}: there are no runs in {runs}. Make one with: loupe train DATA")
    raise unknown_name("run", str(run), names, RunStateError)


def list_runs(runs: Path) -> list[RunDirectory]:
    """The runs in a folder, oldest first."""
    found = []
    for path in runs.glob("*/recipe.yaml") if runs.is_dir() else ():
        with suppress(OSError):  # removed just now, or a link to nothing
            found.append((path.stat().st_mtime_ns, path.parent.name))
    return [RunDirectory(runs / name) for _, name in sorted(found)]


def record_look(runs: Path, split_hash: str, run: str) -> int:
    """Notes one look at a test split; returns how many there have been in this runs folder, this one included.

    Raises:
        LoupeError: it cannot be noted there, so that there must be no look.
    """
    line = json.dumps({"split_hash": split_hash, "run": run, "date": now()})
    try:
        with FileLock(runs / ".looks.lock"), (runs / "test_looks.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        then = "ask again: looks at test images are counted there. Or copy the run into a folder that can be written"
        if told := of_disk(error, runs, then):
            raise told from error
        raise
    return count_looks(runs, split_hash)


def count_looks(runs: Path, split_hash: str) -> int:
    path = runs / "test_looks.jsonl"
    if not path.is_file():
        return 0
    return sum(f'"split_hash": "{split_hash}"' in line for line in path.read_text("utf-8", "replace").splitlines())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
