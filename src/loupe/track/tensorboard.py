"""TensorBoard: event files in the folder of the run, written by PyTorch's own writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from loupe.track.backend import TrackedRun, Values

FOLDER = "tensorboard"


class TensorBoard:
    """Event files below `tensorboard/` in the run. Nothing leaves the machine."""

    package: ClassVar[str] = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def check(self, *, offline: bool) -> None:
        """Nothing to check: event files need no settings and no network."""

    def start(self, run: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / FOLDER))
        for name, values in run.config.items():
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))
        return FOLDER

    def epoch(self, values: Values, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, values: Values, files: Sequence[Path], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self.stop()

    def stop(self) -> None:
        self._writer.close()
