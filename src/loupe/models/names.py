"""Names of all models: the small networks, and those of timm.

Importing timm takes seconds, so its names are kept in the cache folder, for the version that is installed.
"""

from contextlib import suppress
from importlib.metadata import version
from typing import ClassVar

from loupe.cache import cache_folder
from loupe.config.network import BETWEEN_MEMBERS
from loupe.errors import LoupeError, unknown_name
from loupe.models.catalog import NETWORKS
from loupe.records import CheckedRecord, Part


class ModelName(Part):
    """Name of a model; `pretrained` is true if timm's hub has weights of any tag."""

    name: str
    pretrained: bool


class TimmNames(CheckedRecord):
    """Names of the networks of one version of timm."""

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Delete the file: it is made again."

    models: tuple[ModelName, ...]


def exists(name: str) -> bool:
    """True if a model has exactly this name, or all members of a blend have theirs."""
    if BETWEEN_MEMBERS in name:
        return all(exists(member) for member in name.split(BETWEEN_MEMBERS))
    return name in NETWORKS or any(model.name == name for model in _of_timm())


def matching(text: str) -> list[ModelName]:
    """Models whose names contain the text: the small networks first, then those of timm.

    Raises:
        ConfigError: there are none; the error has the nearest names.
    """
    known = [*(ModelName(name=name, pretrained=False) for name in NETWORKS), *_of_timm()]
    found = [model for model in known if text in model.name]
    if not found:
        raise unknown_name("model", text, [model.name for model in known])
    return found


def _of_timm() -> tuple[ModelName, ...]:
    path = cache_folder() / "models" / f"timm-{version('timm')}.json"
    with suppress(LoupeError):  # missing or damaged: made again
        return TimmNames.read(path).models
    from loupe.models.timm import networks

    names = TimmNames(models=tuple(ModelName(name=name, pretrained=known) for name, known in networks.names()))
    with suppress(OSError, LoupeError):  # a folder that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        names.write(path)
    return names.models
