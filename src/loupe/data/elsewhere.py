"""Address and versions of data that lies elsewhere, as a run records them."""

from collections.abc import Mapping
from dataclasses import dataclass

from loupe.errors import DataError, counted, enumerated


@dataclass(frozen=True)
class Elsewhere:
    """Data elsewhere.

    Attributes:
        address: address without credentials; of a data set on a hub, with its commit.
        versions: version of each file by its name under the address, where the store gives one.
        credentials: whether the address was given with credentials, which `address` lacks.
    """

    address: str
    versions: Mapping[str, str]
    credentials: bool = False

    def check(self, recorded: Mapping[str, str]) -> None:
        """Check that the files are those of a record.

        Raises:
            DataError: files were changed, added or removed.
        """
        changed = [name for name in recorded if name in self.versions and self.versions[name] != recorded[name]]
        removed = [name for name in recorded if name not in self.versions]
        added = [name for name in self.versions if name not in recorded]
        what = [
            f"{counted(len(names), 'file')} {verb} ({enumerated(sorted(names), most=3)})"
            for names, verb in ((changed, "changed"), (removed, "removed"), (added, "added"))
            if names
        ]
        if recorded and what:
            raise DataError(
                f"{self.address}: the data has changed since the run was begun: {'; '.join(what)}. Restore it, give "
                "an older version of it, or train again under another --name."
            )
