"""What a run was made of, as hashes: images with their labels, split, pretrained weights, and Loupe's own sources.

Two runs whose hashes agree were made of the same things, wherever these lay. They stand in environment.json under
`hashes` and never change once a run has begun to learn.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from loupe import __version__
from loupe.data.splits import split as splits
from loupe.data.splits.split import SPLITS, Split
from loupe.data.table import ImageTable
from loupe.records import OsText, Part, Record, Whole
from loupe.rundir import RunDirectory, now

SOURCES = Path(__file__).parent

# What can change a figure when its version changes. openvino computes frozen networks where it is installed.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "openvino")


class Environment(Part):
    """Software and machine, without the names of the computer and of its user. None: not installed, or not known."""

    loupe: str | None = None
    python: str | None = None
    torch: str | None = None
    torchvision: str | None = None
    timm: str | None = None
    numpy: str | None = None
    scipy: str | None = None
    scikit_learn: str | None = Field(None, alias="scikit-learn")
    pillow: str | None = None
    openvino: str | None = None
    platform: str | None = None
    processor: str | None = None
    cores: Whole | None = None
    threads: Whole | None = None
    device: str | None = None
    gpu: str | None = None
    command: tuple[OsText, ...] = ()
    date: str | None = None


class Hashes(Part):
    """SHA-256 of each thing that a run is made of.

    Attributes:
        data: the sorted contents of all labelled images with the names of their classes.
        split: the same contents with the split of each.
        weights: the file of pretrained weights; None without one.
        code: Loupe's sources.
    """

    data: str | None = None
    split: str | None = None
    weights: str | None = None
    code: str | None = None


class RunEnvironment(Environment, Record):
    """The content of environment.json.

    Attributes:
        data: names the images that the run was trained on; None for arrays, which are not stored.
        open_test: whether the run was begun to evaluate its test images.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or train again."

    data: OsText | None = None
    skip_damaged: bool = False
    open_test: bool = True
    hashes: Hashes = Hashes()


def environment_file(run: RunDirectory) -> Path:
    return run.file("environment.json")


def environment_of(run: RunDirectory) -> RunEnvironment:
    """What a run was made with and of; one without a file of it has recorded nothing.

    Raises:
        RecordError: it cannot be read.
    """
    return RunEnvironment.read_if_there(environment_file(run)) or RunEnvironment()


def hashes(table: ImageTable, content: Sequence[str], split: Split, weights: Path | None = None) -> Hashes:
    """SHA-256 of each thing that a run is made of; neither the order of the images nor their names matter."""
    return Hashes(
        data=of_images(table, content),
        split=splits.digest((content[i], part) for part in SPLITS for i in split.rows(part).tolist()),
        weights=None if weights is None else of_file(weights),
        code=of_sources(SOURCES),
    )


def of_images(table: ImageTable, content: Sequence[str]) -> str:
    """SHA-256 of the sorted contents of all labelled images with the names of their classes."""
    labelled = (i for i, label in enumerate(table.labels.tolist()) if label >= 0)
    return splits.digest((content[i], table.classes[table.labels[i]]) for i in labelled)


def made_of(run: RunDirectory, table: ImageTable, content: Sequence[str], damaged: int) -> bool:
    """Whether a finished run was made of these images, labelled as they are now; also where it recorded no hash.

    `damaged` is the number of images that it left out: they have no content to be known by.
    """
    recorded = environment_of(run).hashes.data
    if recorded is None:
        return True
    if damaged:
        part_of = {digest for _, _, digest in splits.stored(run.file("split.csv")).values()}
        kept = [row for row, digest in enumerate(content) if digest in part_of]
        if len(content) - len(kept) != damaged:
            return False
        table, content = table.select(kept), [content[row] for row in kept]
    return bool(of_images(table, content) == recorded)


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, which takes less than loading them as weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_sources(folder: Path) -> str:
    """SHA-256 over the names and contents of the Python files in a folder, whichever way their lines end."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        found.update(f"{path.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return found.hexdigest()


def environment(device: str, gpu: str | None, threads: int) -> Environment:
    """Software and machine here and now."""
    values = {
        "loupe": __version__,
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
        "gpu": gpu,
        "command": [*_program(Path(sys.argv[0]).name), *sys.argv[1:]],
        "date": now(),
    }
    return Environment.model_validate(values)


def _program(name: str) -> list[str]:
    """What is typed to start it: Python calls a package that is run with -m after its __main__.py."""
    return ["python", "-m", "loupe"] if name == "__main__.py" else [name]


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's model where Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
