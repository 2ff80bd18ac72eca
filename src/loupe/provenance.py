"""Provenance of a run: hashes of labelled images, split, pretrained weights and Loupe's sources, and its environment.

Runs with equal hashes have equal inputs, wherever these were stored. The hashes are in environment.json under `hashes`
and do not change after the start of training.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from loupe import __version__
from loupe.config.recipe import Recipe
from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.read_options import ReadOptions
from loupe.errors import DataError, RunStateError
from loupe.records import OsText, Part, Record, Whole
from loupe.rundir import RunDirectory, now

if TYPE_CHECKING:
    from loupe.data.splits.split import Split
    from loupe.data.table import ImageTable

# What needs NumPy and PyArrow is imported inside the functions: results.json is read without them.

SOURCES = Path(__file__).parent

# Packages whose version can change a figure. openvino computes frozen networks if it is installed.
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "openvino")


class Environment(Part):
    """Software and machine, without the names of the computer and of its user. None: not installed or unknown."""

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
    """SHA-256 of the inputs of a run.

    Attributes:
        data: sorted contents of all labelled images with their class names.
        split: the same contents with their splits.
        weights: file of pretrained weights; None without one.
        code: Loupe's sources.
        recipe: recipe.yaml.
    """

    data: str | None = None
    split: str | None = None
    weights: str | None = None
    code: str | None = None
    recipe: str | None = None


class ParentRun(Part):
    """Trained classifier from whose weights a run started.

    Attributes:
        name: name of its run, or of a folder that does not say which run it is of.
        path: its run, or its folder, when the training began.
        weights: SHA-256 of the file of its weights.
        network: network that was taken over.
        head: `same` or `reordered` where its head was taken over too, `new` where the run has a head of its own.
        licence: licence of the published weights that its weights go back to; None where it is not known.
        seen_validation, seen_test: images of the run's splits on which it, or a run before it, was trained. Where not
            all of its training images are known: those that were found, or None if none were.
    """

    name: OsText
    path: OsText
    weights: str
    network: str
    head: Literal["same", "reordered", "new"]
    licence: str | None = None
    seen_validation: Whole | None = None
    seen_test: Whole | None = None


class TeacherRun(Part):
    """Trained run whose probabilities a run learned beside the labels.

    Attributes:
        name, path: of the run.
        weights: SHA-256 of the file of its weights.
        network: its network.
        share: of its probabilities in the targets.
        seen_validation, seen_test: images of the new run's splits on which it was trained, as of a `ParentRun`.
    """

    name: OsText
    path: OsText
    weights: str
    network: str
    share: float
    seen_validation: Whole | None = None
    seen_test: Whole | None = None


class MadeOf(Part):
    """Trained run that a run was made of without training: a member of a blend or of a soup.

    Attributes:
        name, path: of the run.
        weights: SHA-256 of the file of its weights.
        network: its network.
        share: its share in the mean of probabilities; None in a mean of weights.
        licence: licence of the published weights that its weights go back to; None where it is not known.
    """

    name: OsText
    path: OsText
    weights: str
    network: str
    share: float | None
    licence: str | None = None


class RunEnvironment(Environment, Record):
    """The content of environment.json.

    Attributes:
        parent: trained classifier from whose weights the run started, if any.
        teacher: trained run whose probabilities the run learned, if any.
        data: names the images that the run was trained on; None for arrays, which are not stored.
        credentials: whether the address of the data held credentials, which are not recorded.
        versions: version of each file of data elsewhere, by its name under the address.
        columns, image_folder: with which a list of images was read, where the user gave them.
        follow_links: whether files outside the folder of the data were read; None in runs of before this was recorded,
            which read them.
        classes: in the order of the network's outputs; empty in runs of before this was recorded.
        open_test: whether the run was begun to evaluate its test images.
        processes: number of processes that began the training; None in runs of before there could be several.
        choices: precision, threads and engine, each with the reason for it; empty in runs of before this was recorded.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or train again."

    data: OsText | None = None
    credentials: bool = False
    versions: dict[str, str] = Field({})
    columns: dict[str, OsText] = Field({})
    image_folder: OsText | None = None
    follow_links: bool | None = None
    classes: tuple[OsText, ...] = ()
    skip_damaged: bool = False
    open_test: bool = True
    processes: Whole | None = None
    choices: dict[str, str] = Field({})
    hashes: Hashes = Hashes()
    parent: ParentRun | None = None
    teacher: TeacherRun | None = None
    made_of: tuple[MadeOf, ...] = ()

    def read_options(self, images: str | Path | None = None, *, follow_links: bool = False) -> ReadOptions:
        """Columns, folder of images and links with which the run read its own data.

        Args:
            images: another folder, where the images have moved.
            follow_links: read files outside the folder of the data, even if the run did not.
        """
        follow_links = follow_links or self.follow_links is not False
        return ReadOptions.of(self.columns, images or self.image_folder, follow_links)

    @property
    def read_words(self) -> list[str]:
        """Options of the command line with which the run read its own data, as far as they were recorded."""
        return ReadOptions.of(self.columns, self.image_folder, self.follow_links is True).words

    @property
    def data_word(self) -> str:
        """Images of the run in a command; DATA where they were arrays, or where their address lacks its credentials."""
        return "DATA" if self.data is None or self.lacks_credentials else self.data

    @property
    def made_command(self) -> list[str]:
        """Command that makes the run again of the runs that it was made of."""
        shares = [f"{one.share:.6g}" for one in self.made_of if one.share is not None]
        chosen = ["--shares", ",".join(shares)] if shares else ["--soup"]
        return ["loupe", "blend", *(one.path for one in self.made_of), *chosen]

    @property
    def lacks_credentials(self) -> bool:
        """True if the address of the data is recorded without the credentials that it was given with."""
        return self.credentials or (self.data is not None and "://" in self.data and "=…" in self.data)

    def read_options_of_others(self, images: str | Path | None = None, *, follow_links: bool = False) -> ReadOptions:
        """Options for other data, which may lack columns of the run's own, and is not trusted because those were."""
        return replace(ReadOptions.of(self.columns, images, follow_links), lenient=True)


def environment_file(run: RunDirectory) -> Path:
    return run.file("environment.json")


def environment_of(run: RunDirectory) -> RunEnvironment:
    """Recorded environment and hashes of a run; empty if it has no such file.

    Raises:
        RecordError: the file cannot be read.
    """
    return RunEnvironment.read_if_there(environment_file(run)) or RunEnvironment()


def recorded_licence(run: RunDirectory) -> str | None:
    """Licence of published weights, as it was recorded when a run began from those of another; None without one.

    Raises:
        RecordError: the record cannot be read.
    """
    environment = environment_of(run)
    licences = {one.licence for one in environment.made_of}
    if len(licences) == 1:
        return licences.pop()
    return environment.parent.licence if environment.parent else None


def hashes(
    table: "ImageTable",
    content: Sequence[str],
    split: "Split",
    weights: Sequence[Path] = (),
    recipe: Recipe | None = None,
) -> Hashes:
    """SHA-256 of the inputs of a run, independent of the order and the names of the images.

    Args:
        weights: files of pretrained weights; the hash of several is that of their hashes, in their order.
    """
    from loupe.data.splits.split import SPLITS, digest

    return Hashes(
        data=of_images(table, content),
        split=digest((content[i], name) for name in SPLITS for i in split.rows(name).tolist()),
        weights=_of_files(weights),
        code=of_sources(SOURCES),
        recipe=None if recipe is None else of_text(recipe.to_yaml().encode()),
    )


def _of_files(files: Sequence[Path]) -> str | None:
    digests = [of_file(file) for file in files]
    return of_text("\n".join(digests).encode()) if len(digests) > 1 else next(iter(digests), None)


def check_split(run: RunDirectory) -> None:
    """Check that split.csv has the split that was recorded when the run was begun.

    Raises:
        RunStateError: it has another.
    """
    from loupe.data.splits import split_file
    from loupe.data.splits.split import digest

    recorded, file = environment_of(run).hashes.split, run.file("split.csv")
    if recorded is None:  # an earlier version recorded none
        return
    rows = split_file.stored(file).values()
    if digest((content, name) for _, name, content in rows if name) != recorded:
        raise _changed(file)


def check_recipe(run: RunDirectory) -> None:
    """Check that recipe.yaml is the file that was recorded when the run was begun.

    Raises:
        RunStateError: it is another.
    """
    recorded, file = environment_of(run).hashes.recipe, run.file("recipe.yaml")
    if recorded is not None and of_text(file.read_bytes()) != recorded:
        raise _changed(file)


def check_credentials(recorded: RunEnvironment, run: RunDirectory, remedy: str) -> None:
    """Check that the images of a run can be opened from what is recorded: credentials in an address are not.

    Raises:
        DataError: they cannot.
    """
    if recorded.lacks_credentials:
        raise DataError(
            f"the images of {run.path} are at {recorded.data}, which was given with credentials (a password, or a "
            f"signed address), and those are never stored. {remedy}"
        )


def check_versions(recorded: RunEnvironment, table: "ImageTable") -> None:
    """Check that data elsewhere has the files that were recorded when the run was begun; other data is not checked.

    Raises:
        DataError: files were changed, added or removed.
    """
    if table.elsewhere is not None and table.elsewhere.address == recorded.data:
        table.elsewhere.check(recorded.versions)


def _changed(file: Path) -> RunStateError:
    return RunStateError(f"{file} has changed since the run was begun. Restore it, or train again with another --name.")


def of_images(table: "ImageTable", content: Sequence[str]) -> str:
    """SHA-256 of the sorted contents of all labelled images with their class names."""
    from loupe.data.splits.split import digest

    labelled = (i for i, label in enumerate(table.labels.tolist()) if label >= 0)
    return digest((content[i], table.classes[table.labels[i]]) for i in labelled)


def made_of(run: RunDirectory, table: "ImageTable", content: Sequence[str], damaged: int) -> bool:
    """True if a finished run used these images with these labels, or if it recorded no hash.

    `damaged` is the number of images that it left out, which have no content hash.
    """
    from loupe.data.splits import split_file

    recorded = environment_of(run).hashes.data
    if recorded is None:
        return True
    if damaged:
        used = {found for _, _, found in split_file.stored(run.file("split.csv")).values()}
        kept = [row for row, found in enumerate(content) if found in used]
        if len(content) - len(kept) != damaged:
            return False
        table, content = table.select(kept), [content[row] for row in kept]
    return bool(of_images(table, content) == recorded)


def of_file(path: Path) -> str:
    """SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_text(text: bytes) -> str:
    """SHA-256 of a text, independent of line endings."""
    return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()


def of_sources(folder: Path) -> str:
    """SHA-256 of the names and contents of the Python files in a folder, independent of line endings."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


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
        "command": [*_program(Path(sys.argv[0]).name), *map(redacted_word, sys.argv[1:])],
        "date": now(),
    }
    return Environment.model_validate(values)


def _program(name: str) -> list[str]:
    """Program as typed; Python names a package that is run with -m after its __main__.py."""
    return ["python", "-m", "loupe"] if name == "__main__.py" else [name]


def installed(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Model of the processor on Linux, else Python's `platform.processor()`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
