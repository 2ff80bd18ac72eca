"""Files of pretrained weights in the folders that the environment variable LOUPE_WEIGHTS names.

A file NAME.safetensors or NAME.TAG.safetensors has the weights of the network NAME, in timm's names; so has a folder
with a config.json, as timm writes it, beside model.safetensors or pytorch_model.bin. Nothing here needs timm.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LOUPE_WEIGHTS"
SUFFIX = ".safetensors"
CONFIG = "config.json"
OF_FOLDER = ("model.safetensors", "pytorch_model.bin")  # names of the weights in a folder, in order of preference


@dataclass(frozen=True)
class WeightsEntry:
    """Weights in one of the folders.

    Attributes:
        path: the file; for a folder with a config, that folder.
        file: file of the weights.
        network: name of the network; empty if it is not known.
        tag: of the weights, as in timm's names; empty without one.
        problem: reason why they cannot be used, as a clause; empty without one.
    """

    path: Path
    file: Path
    network: str
    tag: str = ""
    problem: str = ""

    @property
    def is_folder(self) -> bool:
        return self.path != self.file


def folders() -> tuple[Path, ...]:
    """Folders that LOUPE_WEIGHTS names, in their order."""
    return tuple(Path(word).expanduser().absolute() for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word)


def missing_folders() -> tuple[Path, ...]:
    """Folders that LOUPE_WEIGHTS names and that are not there."""
    return tuple(folder for folder in folders() if not folder.is_dir())


def entries() -> Iterator[WeightsEntry]:
    """Weights in the folders, in the order of the folders and of the names in them."""
    for folder in folders():
        if (folder / CONFIG).is_file():
            yield _of_folder(folder)
            continue
        try:
            names = sorted(folder.iterdir())
        except OSError:  # missing, or without permission: `missing_folders`, or nothing to use
            continue
        for path in names:
            if path.suffix == SUFFIX and path.is_file():
                network, _, tag = path.name.removesuffix(SUFFIX).partition(".")
                yield WeightsEntry(path, path, network, tag)
            elif (path / CONFIG).is_file():
                yield _of_folder(path)


def file_in(folder: Path) -> Path:
    """File of the weights in a folder; the preferred name if there is none."""
    return next((folder / name for name in OF_FOLDER if (folder / name).is_file()), folder / OF_FOLDER[0])


def _of_folder(folder: Path) -> WeightsEntry:
    """Weights of a folder with a config.json."""
    file = file_in(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "loupe" in config or "weights_blake2b" in config:
            return WeightsEntry(folder, file, "", problem="a classifier that Loupe trained: name it with --weights")
        network = str(config.get("architecture", ""))
        tag = str((config.get("pretrained_cfg") or {}).get("tag") or config.get("tag") or "")
    except (OSError, ValueError, AttributeError, TypeError):
        return WeightsEntry(folder, file, "", problem=f"its {CONFIG} cannot be read")
    if not file.is_file():
        return WeightsEntry(folder, file, network, tag, f"it has neither {' nor '.join(OF_FOLDER)}")
    return WeightsEntry(folder, file, network, tag, "" if network else f"its {CONFIG} names no architecture")
