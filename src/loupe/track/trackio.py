"""Trackio: a run in its local store, or on the Space that its own variable names."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

from loupe.errors import ConfigError
from loupe.track.backend import TrackedRun, Values, flat

PROJECT = "loupe"
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


class Trackio:
    """Run of Trackio. TRACKIO_PROJECT, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL are heeded."""

    package: ClassVar[str] = "trackio"

    def __init__(self) -> None:
        self._run: Any = None

    def check(self, *, offline: bool) -> None:
        for name in ELSEWHERE if offline else ():
            if place := os.environ.get(name):
                raise ConfigError(
                    f"--track trackio would send to {place}, and the network is forbidden. Unset {name} to keep the "
                    "run on this machine."
                )

    def start(self, run: TrackedRun) -> str:
        import trackio

        with redirect_stdout(io.StringIO()):  # Loupe waits for this
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
                name=run.id or run.name,
                config=dict(flat(run.config)),
                resume="allow" if run.id else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return str(self._run.name)

    def epoch(self, values: Values, step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, values: Values, files: Sequence[Path], step: int) -> None:
        import trackio

        self._run.log(dict(values), step=step)
        artifact = trackio.Artifact(self._run.name, type="run")
        for path in files:
            artifact.add_file(path)
        with redirect_stdout(io.StringIO()):
            trackio.log_artifact(artifact)
        self.stop()

    def stop(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()
