"""Way in which images are read, as a user says it and a run records it: columns by role, folder of images, links."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.errors import ConfigError, unknown_name

ColumnNames = Mapping[str, str] | str | Sequence[str]
"""Columns by role, as a mapping or as text: `path=image_id,label=diagnosis`."""
ROLES = ("path", "label", "split", "group", "id")


@dataclass(frozen=True)
class ReadOptions:
    """Way in which images are read: what a user says about it, as a run records it. True if it is about a list.

    Attributes:
        columns: column of each role of `ROLES`. "" for a role that no column has; `fold:0` as the split validates on
            the rows with 0 in the column `fold`; `a+b+c` as the label are one-hot columns.
        images: folder of the images; None for the folder of the list.
        lenient: leave out roles whose columns a list lacks, as those of a run when other data is read.
        follow_links: also read files outside the folder of the data, to which links, `..` and absolute paths lead.
    """

    columns: Mapping[str, str]
    images: Path | None = None
    lenient: bool = False
    follow_links: bool = False

    @classmethod
    def of(
        cls,
        columns: ColumnNames | None = None,
        images: str | Path | None = None,
        follow_links: bool = False,
    ) -> "ReadOptions":
        """Options from the arguments of a user: a mapping, or text such as `path=image_id,label=diagnosis`.

        Raises:
            ConfigError: a role is unknown or repeats.
        """
        chosen = (
            dict(columns)
            if isinstance(columns, Mapping)
            else _parsed([columns] if isinstance(columns, str) else columns or ())
        )
        if "image" in chosen:
            chosen.setdefault("path", chosen.pop("image"))
        for role, name in chosen.items():
            if role not in ROLES:
                raise unknown_name("role of a column", str(role), ROLES)
            if not isinstance(name, str):
                raise ConfigError(f"columns: {role} is the name of a column; got {name!r}.")
        folder = None if images is None else Path(os.path.abspath(os.path.expanduser(images)))  # noqa: PTH100, PTH111
        return cls({role: chosen[role] for role in ROLES if role in chosen}, folder, follow_links=follow_links)

    def check(self) -> None:
        """Check that the folder of the images exists.

        Raises:
            ConfigError: it does not.
        """
        if self.images is not None and not os.path.isdir(self.images):  # noqa: PTH112
            raise ConfigError(
                f"--images {self.images}: no such folder. Give the folder of the images that the list names."
            )

    def __bool__(self) -> bool:
        return bool(self.columns or self.images) and not self.lenient

    def to_json(self) -> dict[str, Any]:
        """Values that a run records; columns and folder only where the user gave some."""
        follow = {"follow_links": self.follow_links}
        if not self:
            return follow
        folder = {"image_folder": str(self.images)} if self.images else {}
        return {"columns": dict(self.columns), **folder, **follow}

    @property
    def words(self) -> list[str]:
        """Options of the command line that say the same."""
        columns = ",".join(f"{role}={name}" for role, name in self.columns.items())
        return [
            *(["--columns", columns] if columns else []),
            *(["--images", str(self.images)] if self.images else []),
            *(["--follow-links"] if self.follow_links else []),
        ]


def _parsed(texts: Iterable[str]) -> dict[str, str]:
    """Columns by role from `role=column` pairs; a comma separates them where a role follows."""
    chosen: dict[str, str] = {}
    for pair in (pair for text in texts for pair in re.split(r",(?=\s*\w+=)", text)):
        role, equals, name = pair.partition("=")
        role = role.strip().casefold()
        if not equals:
            raise ConfigError(
                f"--columns {pair!r}: expected ROLE=COLUMN, for example path=image_id,label=diagnosis. Roles are "
                f"{', '.join(ROLES)}."
            )
        if role in chosen:
            raise ConfigError(f"--columns: the role {role} repeats. Give one column for each role.")
        chosen[role] = name.strip()
    return chosen
