"""MLflow: a run in the experiment and at the address that MLflow's own variables name."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loupe.errors import ConfigError
from loupe.track.backend import TrackedRun, Values, flat

EXPERIMENT = "loupe"
MOST_PARAMS = 100  # in one request
MOST_CHARACTERS = 6000  # in the value of a parameter
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(?=:)", re.IGNORECASE)  # two characters at least: a drive of Windows has one
LOCAL_SCHEMES = ("file", "sqlite")
SERVICES = ("databricks", "databricks-uc", "uc")  # names that MLflow takes for an address, not for a folder


class Mlflow:
    """Run of MLflow, by its client, which keeps no state of the process.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are heeded; the experiment is `loupe` by default.
    """

    package: ClassVar[str] = "mlflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    def check(self, *, offline: bool) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if offline and not _is_local(uri.strip()):
            raise ConfigError(
                f"--track mlflow would send to {uri}, and the network is forbidden. Allowed offline: a folder, file: "
                "and sqlite:. Unset MLFLOW_TRACKING_URI to keep the run on this machine."
            )

    def start(self, run: TrackedRun) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        if run.id:
            client.update_run(run.id, status="RUNNING")
            self._id = run.id
            return self._id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        self._id = str(client.create_run(experiment, run_name=run.name).info.run_id)
        params = [Param(key, str(value)[:MOST_CHARACTERS]) for key, value in flat(run.config)]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(self._id, params=params[first : first + MOST_PARAMS])
        return self._id

    def epoch(self, values: Values, step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def finish(self, values: Values, files: Sequence[Path], step: int) -> None:
        self.epoch(values, step)
        for path in files:
            self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, "FINISHED")

    def stop(self) -> None:
        self._client.set_terminated(self._id, "KILLED")


def _is_local(uri: str) -> bool:
    """True for a path and for an address of a file on this machine."""
    scheme = SCHEME.match(uri)
    return scheme.group().lower() in LOCAL_SCHEMES if scheme else uri not in SERVICES
