"""Backend of a tracker: what starts a tracked run there, sends values and files, and closes it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

Values = Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """Run as a tracker sees it.

    Attributes:
        id: of an earlier part of the run in the tracker; None for a new one.
        rows: epochs that the tracker has from that part.
        config: recipe and environment, as plain data.
        offline: the network is forbidden.
    """

    name: str
    folder: Path
    id: str | None
    rows: int
    config: Mapping[str, Any]
    offline: bool


class Backend(Protocol):
    """Tracker, from one thread. Its package is imported by `start` alone.

    Attributes:
        package: name of the package to import; the extra of Loupe has the name of the tracker.
    """

    package: ClassVar[str]

    def check(self, *, offline: bool) -> None:
        """Check the settings of the tracker before anything is trained.

        Raises:
            ConfigError: they forbid tracking, or would use the network although that is forbidden.
        """

    def start(self, run: TrackedRun) -> str:
        """Begin the run in the tracker, or continue it, and return its identifier there."""

    def epoch(self, values: Values, step: int) -> None:
        """Send the metrics of an epoch, counted from 1."""

    def finish(self, values: Values, files: Sequence[Path], step: int) -> None:
        """Send the results and the files of a finished run, and close it."""

    def stop(self) -> None:
        """Close a run that did not finish, so that it can be continued."""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and sequences under dotted keys, as `--set` takes them; undefined ones are left out."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif value is not None:
            yield name, value
