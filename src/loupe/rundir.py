"""Run directory: names of its files, writing and reading. It never imports torch.

Files are written atomically, so that neither a reader nor a killed process leaves an incomplete file.
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

from loupe import csv_files, ranks
from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.errors import ConfigError, DiskError, RunInUseError, RunStateError, disk_error, unknown_name
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
    "l2_strength",
)


@dataclass(frozen=True)
class RunDirectory:
    """Files of a run; `path.name` is its name, `path.parent` the runs folder."""

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
    def fold_predictions(self) -> Path:
        """Out-of-fold predictions, in the form of predictions.csv; `split` is the split of the image."""
        return self.path / "fold_predictions.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def resume_command(self) -> str:
        """Command that resumes the run, in as many processes as this command has."""
        return command_line(["loupe", "train", "--resume", str(self.path), *ranks.options()])

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
        """Lock of the run, held while a process writes to it; among ranks, which all call this, rank 0 holds it.

        Raises:
            RunInUseError: another process holds it.
            DiskError: the disk is full, or cannot be written.
        """
        lock = FileLock(self.file(".lock"))
        try:
            ranks.current().from_main(lambda: self._acquire(lock))
            yield
        except OSError as error:
            if told := disk_error(error, self.path, self._then()):
                raise told from error
            raise
        finally:
            lock.release()

    def _acquire(self, lock: BaseFileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunInUseError(f"{self.path} is in use by another process. Wait for it, or stop it first.") from None

    def _then(self) -> str:
        """Remedy after a failed write, once the disk can be written."""
        if not self.file("recipe.yaml").is_file():
            return f"delete {self.path} and train again"
        if self.file("results.json").is_file() and self.report.is_file():
            return "give the same command again"
        return f"resume with: {self.resume_command}"


def check_name(runs: Path, name: str | None) -> None:
    """Check that a new run can have this name.

    Raises:
        RunStateError: the name is taken.
        ConfigError: the name is not a plain folder name.
    """
    if not name:
        return
    _check_plain(name)
    path = runs / name
    if (path / "recipe.yaml").exists():
        raise RunStateError(
            f"{path} exists, and a run is never overwritten. Choose another --name, or resume the run: "
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
    """True if a folder has only files that a new run writes before its recipe, as after a killed process."""
    if not path.is_dir():
        return False
    unfinished = tuple(f".{name}." for name in (*BEFORE_RECIPE, "recipe.yaml"))
    names = [file.name for file in path.iterdir()]
    return all(name in (".lock", *BEFORE_RECIPE) or name.startswith(unfinished) for name in names)


def create_run(runs: Path, name: str | None, default: str) -> RunDirectory:
    """Create the directory of a new run; an existing run is never overwritten.

    Args:
        runs: runs folder.
        name: requested name, which must be free; None for `default`.
        default: default name; a number is appended if it is taken.

    Raises:
        RunStateError: `name` is taken.
        ConfigError: `name` is not a plain folder name.
        DiskError: the runs folder cannot be written.
    """
    base = name or default
    _check_plain(base)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 100_000):
            path = runs / (base if attempt == 1 else f"{base}-{attempt}")
            try:
                path.mkdir()
                return RunDirectory(path)
            except FileExistsError:
                if name:
                    check_name(runs, name)  # another process may have created it meanwhile
                    return RunDirectory(path)
    except OSError as error:
        raise DiskError(
            f"{runs}: the run directory cannot be created: {error.strerror}. Choose another folder with --output."
        ) from None
    raise ConfigError(f"{runs}: too many runs named {base}. Choose a --name.")


def open_run(run: str | Path, runs: Path = Path("runs")) -> RunDirectory:
    """Run at a path, or of a name in the runs folder.

    Raises:
        RunStateError: there is no such run.
    """
    for path in (Path(run), runs / run):
        if (path / "recipe.yaml").is_file():
            return RunDirectory(path if path.name not in ("", "..") else path.resolve())
    if Path(run).is_dir():
        raise RunStateError(f"{run} is not a run: it has no recipe.yaml.")
    names = [found.name for found in list_runs(runs)]
    if not names:
        raise RunStateError(f"no run {str(run)!r}: there are no runs in {runs}. Train one with: loupe train DATA")
    raise unknown_name("run", str(run), names, RunStateError)


def list_runs(runs: Path) -> list[RunDirectory]:
    """Runs in a folder, oldest first."""
    found = []
    for path in runs.glob("*/recipe.yaml") if runs.is_dir() else ():
        with suppress(OSError):  # removed just now, or a link to nothing
            found.append((path.stat().st_mtime_ns, path.parent.name))
    return [RunDirectory(runs / name) for _, name in sorted(found)]


def record_look(runs: Path, split_hash: str, run: str) -> int:
    """Record a test-set evaluation, and return the number recorded in this runs folder, including this one.

    Raises:
        DiskError: it cannot be recorded; the evaluation must not take place.
    """
    line = json.dumps({"split_hash": split_hash, "run": run, "date": now()})
    try:
        with FileLock(runs / ".looks.lock"), (runs / "test_looks.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        then = "try again: test-set evaluations are recorded there. Or copy the run to a folder that can be written"
        if told := disk_error(error, runs, then):
            raise told from error
        raise
    return count_looks(runs, split_hash)


def count_looks(runs: Path, split_hash: str) -> int:
    """Number of evaluations of a test split recorded in a runs folder."""
    path = runs / "test_looks.jsonl"
    if not path.is_file():
        return 0
    return sum(f'"split_hash": "{split_hash}"' in line for line in path.read_text("utf-8", "replace").splitlines())


def now() -> str:
    """Current time in UTC, in ISO format to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
