"""Tracking of a run: what its folder holds is sent to a tracker, from a thread of its own, on request alone.

A tracker that fails or hangs is one warning. It neither ends the training nor changes a figure, and is waited for only
at the start and at the end of a run, for a minute at most.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

from loupe.errors import ConfigError, RunStateError, sentences, unknown_name
from loupe.evaluate.history import read_history
from loupe.evaluate.results import results_of
from loupe.log import logger
from loupe.offline import offline_variable
from loupe.provenance import environment_of
from loupe.records import Record, Whole
from loupe.rundir import METRICS, RunDirectory
from loupe.track.backend import Backend, TrackedRun
from loupe.track.mlflow import Mlflow
from loupe.track.summary import summary
from loupe.track.tensorboard import TensorBoard
from loupe.track.trackio import Trackio
from loupe.track.wandb import Wandb

TRACKERS: dict[str, Callable[[], Backend]] = {
    "mlflow": Mlflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
}
NONE = "none"
FILE = "track.json"
ARTIFACTS = ("recipe.yaml", "environment.json", "metrics.csv", "results.json", "report.html")
START_SECONDS = 60.0
FINISH_SECONDS = 60.0
STOP_SECONDS = 2.0  # after Ctrl-C, or an error
COLUMNS = tuple(name for name in METRICS if name != "epoch")

History = Sequence[Mapping[str, Any]]


class TrackRecord(Record):
    """The content of track.json.

    Attributes:
        tracker: name in TRACKERS.
        id: of the run there.
        rows: rows of metrics.csv that were sent.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Delete it, and the run goes on without its tracker."

    tracker: str
    id: str
    rows: Whole = 0


def check_tracker(name: str | None) -> None:
    """Check that a tracker can be used, before anything is read or trained. Its package is not imported.

    Raises:
        ConfigError: it is unknown or not installed, or its settings do not allow it.
    """
    if name is None or name == NONE:
        return
    if name not in TRACKERS:
        raise unknown_name("tracker", name, [*TRACKERS, NONE])
    backend = TRACKERS[name]()
    if not _is_installed(backend.package):
        raise ConfigError(
            f"--track {name} needs a package that is missing. Install it: pip install 'loupe-vision[{name}]'. Or give "
            f"--track {NONE}."
        )
    backend.check(offline=offline_variable() is not None)


def _is_installed(package: str) -> bool:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # of a module that was set to None, or that has no spec
        return False
    return spec is not None and spec.origin is not None  # a folder of that name has no origin


def recorded_tracker(directory: RunDirectory) -> str | None:
    """Tracker that a run was begun with.

    Raises:
        RecordError: its record cannot be read.
    """
    record = TrackRecord.read_if_there(directory.file(FILE))
    return record.tracker if record else None


@contextmanager
def tracked(directory: RunDirectory, name: str | None) -> Iterator[Callable[[History], None]]:
    """Track a run while the block trains it; the block calls the function with the history after each epoch.

    Args:
        name: tracker, checked before; None or `none` for none.

    Raises:
        RunStateError: the tracker cannot be started.
    """
    if name is None or name == NONE:
        yield lambda history: None
        return
    tracking = Tracking(directory, name)
    tracking.start()
    try:
        yield tracking.epochs
    except BaseException:
        tracking.close(finished=False, seconds=STOP_SECONDS)
        raise
    tracking.close(finished=True, seconds=FINISH_SECONDS)


class Tracking:
    """One run in a tracker. The tracker is called in one thread, in order; a failure ends its use."""

    def __init__(self, directory: RunDirectory, name: str) -> None:
        self._directory, self._name = directory, name
        self._backend = TRACKERS[name]()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._warned = False
        self._rows = 0  # that were handed over
        self._sent = TrackRecord(tracker=name, id="")
        self._thread = threading.Thread(target=self._work, name="loupe-track", daemon=True)

    def start(self) -> None:
        """Begin the run in the tracker, or continue it.

        Raises:
            RunStateError: it fails, or does not answer within a minute.
        """
        earlier = TrackRecord.read_if_there(self._directory.file(FILE))
        if earlier and earlier.tracker == self._name:
            self._sent = earlier
        self._rows = self._sent.rows
        self._thread.start()
        began = threading.Event()
        self._calls.put(lambda: self._begin(began))
        started = began.wait(START_SECONDS)
        if not started or self._failure:
            reason = str(self._failure) if started else f"no answer within {START_SECONDS:g} s"
            raise RunStateError(
                sentences(
                    f"{self._name} cannot be started: {' '.join(reason.split())}",
                    f"{self._standing()} Resume with: {self._directory.resume_command}",
                    f"To train without a tracker, add --track {NONE}",
                )
            )

    def _standing(self) -> str:
        if self._directory.checkpoints.is_dir():
            return "The run is unchanged since its last checkpoint."
        return "Nothing was trained yet."

    def _begin(self, began: threading.Event) -> None:
        directory = self._directory
        try:
            environment = environment_of(directory).to_json()
            config = {"recipe": directory.read_recipe().model_dump(mode="json"), "environment": environment}
            run = TrackedRun(
                name=directory.name,
                folder=directory.path,
                id=self._sent.id or None,
                rows=self._sent.rows,
                config=config,
                offline=offline_variable() is not None,
            )
            self._record(id=self._backend.start(run))
        except Exception as error:
            self._failure = error
        finally:
            began.set()

    def epochs(self, history: History) -> None:
        """Send the rows of the history that were not sent before."""
        for row in history[self._rows :]:
            values = {name: float(row[name]) for name in COLUMNS if row.get(name) is not None}
            self._calls.put(partial(self._send, values, int(row["epoch"])))
        self._rows = max(self._rows, len(history))
        self._warn()

    def _send(self, values: Mapping[str, float], step: int) -> None:
        self._backend.epoch(values, step)
        self._record(rows=step)

    def _record(self, **changes: Any) -> None:
        self._sent = TrackRecord(**{**self._sent.to_json(), **changes})
        self._sent.write(self._directory.file(FILE))

    def close(self, *, finished: bool, seconds: float) -> None:
        """Send the rest of a finished run, close it in the tracker, and wait for that, but not for long."""
        results = results_of(self._directory) if finished else None
        if results:
            self.epochs(read_history(self._directory))  # a run resumed after its last epoch has reported none
            values = summary(results)
            files = [path for name in ARTIFACTS if (path := self._directory.file(name)).is_file()]
            self._calls.put(lambda: self._backend.finish(values, files, self._rows))
        else:
            self._calls.put(self._backend.stop)
        self._calls.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive() and not self._failure:
            self._failure = TimeoutError(f"no answer within {seconds:g} s")
        self._warn()

    def _warn(self) -> None:
        if self._failure and not self._warned:
            self._warned = True
            reason = " ".join(str(self._failure).split()) or type(self._failure).__name__
            logger.warning(f"{self._name} failed and has no more of this run: {reason}. The run itself is whole.")

    def _work(self) -> None:
        """Make the calls in order; after a failure, none."""
        while (call := self._calls.get()) is not None:
            if self._failure is None:
                try:
                    call()
                except Exception as error:
                    self._failure = error
