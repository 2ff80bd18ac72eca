"""Files of a search: their name, the identity of what is searched, the lock, and writing the results."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from loupe import __version__
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.errors import ConfigError, DiskError, RunInUseError
from loupe.evaluate.tune_results import TuneResults
from loupe.files import write_atomic
from loupe.log import command_line, logger
from loupe.records import Record
from loupe.report import tune_page

IDENTITY = "search.json"
KINDS = (".json", ".html", ".yaml")


class SearchIdentity(Record):
    """Identity of a search: images and settings that decide its trials. The number of trials is not among them.

    Attributes:
        content: hash of the images and their labels.
        version, optuna: versions that began it.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Move the folder away, or choose another --name."

    dataset: str
    content: str
    command: str
    version: str
    optuna: str

    @classmethod
    def asked(cls, dataset: Dataset, words: Sequence[str], *, optuna: str) -> "SearchIdentity":
        """Identity of the search that a command asks for."""
        images = zip(dataset.hashes, dataset.table.labels, strict=True)
        lines = [*dataset.table.classes, *(f"{content} {label}" for content, label in images)]
        content = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return cls(
            dataset=dataset.name,
            content=content,
            command=command_line(words),
            version=__version__,
            optuna=optuna,
        )

    def is_same(self, other: "SearchIdentity") -> bool:
        """True for the same search, whatever versions began it."""
        return (self.dataset, self.content, self.command) == (other.dataset, other.content, other.command)


def check_name(name: str | None) -> None:
    """Check the name of the files.

    Raises:
        ConfigError: the name is a path.
    """
    if name is not None and (Path(name).name != name or name in {"", ".", ".."}):
        raise ConfigError(f"--name {name!r} is not a plain file name. Give the folder with --output.")


def open_folder(output: Path, wanted: str, identity: SearchIdentity, *, is_named: bool) -> Path:
    """Folder of a search: that of the same search before, or a new one.

    Files of another search are never replaced: without a given name, a numeric suffix is added.

    Raises:
        ConfigError: the given name is taken.
        DiskError: the folder cannot be written.
    """
    for number in count(1):
        folder = output / (wanted if number == 1 else f"{wanted}-{number}")
        before = SearchIdentity.read_if_there(folder / IDENTITY)
        if before and before.is_same(identity):
            if (before.version, before.optuna) != (identity.version, identity.optuna):
                logger.warning(
                    f"{folder} was begun with Loupe {before.version} and Optuna {before.optuna}; these are "
                    f"{identity.version} and {identity.optuna}, which may draw other trials. Figures are kept."
                )
            return folder
        if not before and not folder.exists() and not any(_beside(folder, kind).exists() for kind in KINDS):
            break
        if is_named:
            owner = f", from another search or other images ({before.command})" if before else ""
            raise ConfigError(
                f"--name {wanted}: files of that name exist in {output}{owner}. Choose another name, or delete them."
            )
    try:
        folder.mkdir(parents=True)
        identity.write(folder / IDENTITY)
    except OSError as error:
        raise DiskError(f"{folder} cannot be written: {error.strerror or error}. Choose another --output.") from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock of a search, held while a process writes to it.

    Raises:
        RunInUseError: another process holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunInUseError(f"{folder} is in use by another process. Wait for it, or stop it first.") from None
    try:
        yield
    finally:
        lock.release()


def recipe_file(folder: Path) -> Path:
    """File of the best settings as a recipe."""
    return _beside(folder, ".yaml")


def write(folder: Path, results: TuneResults, recipe: ResolvedRecipe) -> None:
    """Write the results, their page and the best recipe beside the folder; each file is replaced atomically.

    Raises:
        DiskError: a file cannot be written.
    """
    try:
        results.write(_beside(folder, ".json"))
        write_atomic(recipe_file(folder), recipe.to_yaml())
        tune_page.write_page(_beside(folder, ".html"), results)
    except OSError as error:
        raise DiskError(
            f"{folder}: the results cannot be written: {error.strerror or error}. The figures are saved. Free space "
            "or give write permission, then give the same command again."
        ) from None


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f"{folder.name}{kind}")
