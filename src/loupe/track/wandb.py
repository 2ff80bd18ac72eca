"""Weights & Biases: a run in the project that its own variables name, with nothing but the run's own values."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loupe.errors import ConfigError
from loupe.track.backend import TrackedRun, Values

PROJECT = "loupe"
LOCAL = ("offline", "disabled", "dryrun")  # values of WANDB_MODE that send nothing


class Wandb:
    """Run of Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and WANDB_DIR are heeded."""

    package: ClassVar[str] = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def check(self, *, offline: bool) -> None:
        """Without the network, a run is kept on the disk for `wandb sync`; else it needs a login."""
        if offline or os.environ.get("WANDB_MODE") in LOCAL:
            return
        import wandb

        if not wandb.login(prompt=False):
            raise ConfigError(
                "--track wandb needs a login. Run `wandb login`, or set WANDB_API_KEY, or set WANDB_MODE=offline to "
                "keep the run on this machine."
            )

    def start(self, run: TrackedRun) -> str:
        import wandb

        mode = os.environ.get("WANDB_MODE") or None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=run.id,
            resume="allow" if run.id else None,
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            mode="offline" if run.offline and mode not in LOCAL else mode,
            settings=wandb.Settings(
                silent=True,
                console="off",
                host="unnamed",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
                x_disable_machine_info=True,
            ),
        )
        return str(self._run.id)

    def epoch(self, values: Values, step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, values: Values, files: Sequence[Path], step: int) -> None:
        import wandb

        self._run.summary.update(dict(values))
        artifact = wandb.Artifact(f"run-{self._run.id}", type="run")
        for path in files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)
        self._run.finish(exit_code=0)

    def stop(self) -> None:
        self._run.finish(exit_code=1)
