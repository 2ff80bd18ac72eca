"""MLflow: a run in the experiment and at the address that MLflow's own variables name."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loupe.errors import ConfigError
from loupe.track.backend import TrackedRun, Values, flat

EXPERIMENT = "loupe"
MOST_PARAMS = 100  # in one request
MOST_CHARACTERS = 6000  # in the value of a parameter


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
        if offline and uri.partition(":")[0] in ("http", "https", "databricks"):
            raise ConfigError(
                f"--track mlflow would send to {uri}, and the network is forbidden. Unset MLFLOW_TRACKING_URI to keep "
                "the run on this machine."
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
