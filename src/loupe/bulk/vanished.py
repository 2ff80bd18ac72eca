"""Sources that vanish during a prediction: their images are not damaged, and make no rows."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from loupe.bulk.output import AGAIN
from loupe.bulk.plan import Plan, Unit
from loupe.bulk.reading import FILES
from loupe.data.find_file import existing
from loupe.data.table import os_name
from loupe.errors import DataError, DiskError


def check_there(plan: Plan, unit: Unit, unread: Mapping[int, bool]) -> None:
    """Check that files which cannot be read are missing one by one, and not with their folder or disk.

    A mount point stays when its disk goes. So a folder counts as there if one of its images is, of those listed in
    this unit and in the units beside it. A folder with a single image is judged by the folder that it lies in.

    Args:
        plan: plan of the prediction.
        unit: unit that was read.
        unread: rows of files that were listed and could not be read; True for those that were not there.

    Raises:
        DataError: a folder is gone, or all of its images are.
        DiskError: a file that was not there is there again.
    """
    if not unread or plan.record.asked.kind != FILES:
        return
    source = _Source(plan, unit)
    for row, was_gone in unread.items():
        name = unit.rows[row].path
        if was_gone and source.has(name):
            raise DiskError(f"{name}: it was not there, and is there again. Check its disk. {AGAIN}")
        if (folder := source.vanished(os.path.dirname(name))) is not None:  # noqa: PTH120
            raise DataError(
                f"{_told(source.root, folder)} Bring it back, as a disk that is not mounted. {AGAIN} If the images "
                "were removed on purpose: choose another --to, for those that are left."
            )


class _Source:
    """Images of a source that were listed near a unit, and whether they are there now."""

    def __init__(self, plan: Plan, unit: Unit) -> None:
        self.root = Path(plan.record.root)
        self._plan = plan
        self._unit = unit
        self._there: dict[str, bool] = {}
        self._vanished: dict[str, str | None] = {}

    def has(self, name: str) -> bool:
        """True if an image is there now."""
        if name not in self._there:
            file = self.root / existing(self.root, os_name(name))
            self._there[name] = os.path.exists(file)  # noqa: PTH110 - pathlib's raises for some errors
        return self._there[name]

    def vanished(self, folder: str) -> str | None:
        """Folder of which no image is left: this one, or one around it; None where its images are there."""
        if folder not in self._vanished:
            self._vanished[folder] = self._find(folder)
        return self._vanished[folder]

    def _find(self, folder: str) -> str | None:
        head = f"{folder.rstrip('/')}/" if folder else ""
        listed = {name for name in self._near if name.startswith(head)}
        if any(map(self.has, listed)):
            return None
        if len(listed) > 1:
            return folder
        around = os.path.dirname(folder)  # noqa: PTH120
        return None if around == folder else self.vanished(around)

    @cached_property
    def _near(self) -> list[str]:
        return [row.path for unit in self._units() for row in unit.rows if row.problem is None]

    def _units(self) -> Iterator[Unit]:
        yield self._unit
        plan = Plan(self._plan.folder, self._plan.record)  # other threads use the file of the first
        try:
            for number in (self._unit.number - 1, self._unit.number + 1):
                if 0 <= number < plan.record.units:
                    yield plan.unit(number)
        finally:
            plan.close()


def _told(root: Path, folder: str) -> str:
    """Sentence about a folder without its images: the outermost one that is gone, else that which is empty."""
    place = root / os_name(folder)
    if gone := [each for each in (place, *place.parents) if not os.path.lexists(each)]:
        return f"{gone[-1]} is gone."
    return f"{place}: of its images that were listed, none is there."
