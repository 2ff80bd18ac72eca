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
from typing import Any

from loupe import __version__
from loupe.data.splits import split as splits
from loupe.data.splits.split import SPLITS, Split
from loupe.data.table import ImageTable
from loupe.rundir import RunDirectory, now

SOURCES = Path(__file__).parent

# What can change a figure when its version changes. openvino computes frozen networks where it is installed.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "openvino")


def hashes(
    table: ImageTable, content: Sequence[str], split: Split, weights: Path | None = None
) -> dict[str, str | None]:
    """SHA-256 of each thing that a run is made of.

    `data`: the sorted contents of all labelled images with the names of their classes. `split`: the same contents with
    the part that each is in. `code`: Loupe's sources. `weights`: the bytes of the file of pretrained weights; None
    without one. Neither the order of the images nor their names and places matter.
    """
    return {
        "data": of_images(table, content),
        "split": splits.digest((content[i], part) for part in SPLITS for i in split.rows(part).tolist()),
        "weights": None if weights is None else of_file(weights),
        "code": of_sources(SOURCES),
    }


def of_images(table: ImageTable, content: Sequence[str]) -> str:
    """SHA-256 of the sorted contents of all labelled images with the names of their classes."""
    labelled = (i for i, label in enumerate(table.labels.tolist()) if label >= 0)
    return splits.digest((content[i], table.classes[table.labels[i]]) for i in labelled)


def made_of(run: RunDirectory, table: ImageTable, content: Sequence[str]) -> bool:
    """Whether a finished run was made of these images, labelled as they are now; also where it recorded no hash.

    Damaged images that it left out are told by their number: they have no content to be known by.
    """
    recorded: str | None = ((run.read_json("environment.json") or {}).get("hashes") or {}).get("data")
    if recorded is None:
        return True
    damaged = (run.read_json("results.json") or {}).get("damaged", 0)
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


def environment(device: str, gpu: str | None, threads: int) -> dict[str, Any]:
    """What the run was made with and on, without the names of the computer and of its user."""
    return {
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
