"""Configurations of a data set on a hub: the files of each split, as the front matter of its README.md says it.

https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from loupe.data.remote.patterns import matches
from loupe.data.splits.words import split_of
from loupe.errors import DataError, enumerated

DEFAULT = "default"


@dataclass(frozen=True)
class HubConfig:
    """Configuration of a data set: patterns of its files by split ("" where the files tell), or its folder."""

    name: str
    patterns: tuple[tuple[str, str], ...]
    folder: str = ""

    def files(self, names: Sequence[str], where: str) -> dict[str, str | None]:
        """Split of each file of the configuration, in the order of `names`; None where its name tells.

        Raises:
            DataError: no file matches, or the name of a split is not known.
        """
        if not self.patterns:
            inside = f"{self.folder.strip('/')}/" if self.folder.strip("./") else ""
            return {name: None for name in names if name.startswith(inside)}
        found: dict[str, str | None] = {}
        for split, pattern in self.patterns:
            known = split_of(split) if split else None
            if split and known is None:
                raise DataError(
                    f"{where}: the configuration {self.name} has the split {split!r}, which is neither train nor "
                    "validation nor test. Give its files by a pattern: hf://datasets/OWNER/NAME/FOLDER/*.parquet"
                )
            for name in names:
                if matches(pattern, name) or name == pattern or name.startswith(f"{pattern.rstrip('/')}/"):
                    found.setdefault(name, known)
        if not found:
            raise DataError(f"{where}: no file matches the configuration {self.name}.")
        return {name: found[name] for name in names if name in found}


def configs_of(readme: bytes) -> dict[str, HubConfig]:
    """Configurations in the front matter of a README.md by name; none where it has none that can be read."""
    text = readme.decode("utf-8", "replace")
    if not text.startswith("---"):
        return {}
    try:
        front = yaml.safe_load(text.split("---", 2)[1])
    except (yaml.YAMLError, RecursionError):
        return {}
    entries = front.get("configs") if isinstance(front, dict) else None
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            config = _config(entry)
            found[config.name] = config
    return found


def chosen(configs: Mapping[str, HubConfig], wanted: str | None, where: str) -> HubConfig | None:
    """Configuration that the user named, else the only one or the default one; None where there are none.

    Raises:
        DataError: there is none of that name, or several of which none is the default.
    """
    listed = enumerated(sorted(configs), most=20)
    if wanted is not None:
        if wanted not in configs:
            raise DataError(f"{where}: no configuration {wanted!r}. It has {listed or 'none'}.")
        return configs[wanted]
    if len(configs) <= 1:
        return next(iter(configs.values()), None)
    if DEFAULT in configs:
        return configs[DEFAULT]
    raise DataError(
        f"{where}: it has the configurations {listed}. Name one of them after a #: {where}#{next(iter(configs))}"
    )


def _config(entry: Mapping[str, Any]) -> HubConfig:
    files, patterns = entry.get("data_files"), []
    for part in files if isinstance(files, list) else [files]:
        if isinstance(part, str):
            patterns.append(("", part))
        elif isinstance(part, dict):
            split, paths = part.get("split", ""), part.get("path", [])
            patterns += [(str(split), str(path)) for path in (paths if isinstance(paths, list) else [paths])]
    folder = entry.get("data_dir", "")
    return HubConfig(str(entry.get("config_name", DEFAULT)), tuple(patterns), str(folder or ""))
