"""Predictions in bulk by actors of Ray, each with the model and the decoder, that write the parts themselves.

An actor writes the part of a unit into the folder that all nodes share, to a temporary file that is renamed, and sends
only its counts. So whatever is killed (a worker, a node, the command), a part is whole or not there, and a unit with a
part is not decoded again: an actor looks for the part before it begins, and so does the same command later. Rows that
were sent to the command through Ray would be lost with it, and would pass through two memories more.

The actors are plain ones. A pool of Ray Data that takes all cores leaves none for the tasks that read its input, so
that nothing ever begins on a small cluster; and it sends tasks to an actor that then wait for its restart, which needs
a node that may never come back.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe.bulk.models import BulkModel, bulk_model
from loupe.bulk.output import AGAIN, Output
from loupe.bulk.parts import whole_part, write_part
from loupe.bulk.plan import IMAGES, PLAN, Plan
from loupe.bulk.predict import Written
from loupe.bulk.predict_units import predict_units
from loupe.bulk.reading import read_here
from loupe.cluster.nodes import Cluster, Resources, Waiting
from loupe.cluster.worker import CommandPlace, lost_error, sendable
from loupe.errors import DiskError, LoupeError, RunStateError, counted, disk_error
from loupe.export.predictor import ExportedModel
from loupe.log import logger, progress_bar, terminal
from loupe.rundir import RunDirectory
from loupe.runs.run import Run

RETRIES = 3  # of units whose worker or node is lost
AHEAD = 2  # tasks of an actor: the one that it works on, and the next
MOST_UNITS = 8  # of a task
TASKS_EACH = 8  # for each actor, so that they end at about the same time
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ModelPlace:
    """Folder of a run or an export, from which each actor opens the model.

    Attributes:
        folder: absolute path.
        is_export: True for an export.
        device, tta: as for `loupe.runs.run.Run`.
    """

    folder: Path
    is_export: bool
    device: str
    tta: str | None

    def open(self) -> BulkModel:
        """Model that is read from the folder.

        Raises:
            LoupeError: it cannot be read, or not be used on this machine.
        """
        if self.is_export:
            return bulk_model(ExportedModel(self.folder))
        return bulk_model(Run(RunDirectory(self.folder), device=self.device, tta=self.tta))


@dataclass(frozen=True)
class ClusterPredictions:
    """Place of predictions on a cluster; a `loupe.bulk.predict.PartsRunner`."""

    cluster: Cluster
    model: ModelPlace

    def __call__(self, output: Output, plan: Plan, parts: Written) -> float:
        """Predict the pending units, and write their parts; time in seconds.

        Raises:
            ConfigError: a node does not see the output, the model or the images, or none has enough cores.
            RunStateError: workers were lost too often.
            LoupeError: as for `loupe.bulk.predict_units.predict_units`.
        """
        each = Resources.of("cpu" if self.model.is_export else self.model.device, self.cluster)
        self.cluster.check_slots(each.cpus, each.gpus)
        actors = min(self.cluster.slots(each.cpus, each.gpus), len(parts.pending))
        plan, folder = Plan(plan.folder.absolute(), plan.record), output.parts_folder.absolute()
        images = read_here(plan, parts.pending)
        self.cluster.check_folders(folder, [plan.folder / PLAN, plan.folder / IMAGES, self.model.folder, *images])
        logger.info(
            f"Ray: {counted(len(self.cluster.nodes), 'node')}, {self.cluster}. {counted(actors, 'worker')}, each with "
            f"the model, on {each}; {counted(len(parts.pending), 'unit')} of up to {plan.record.unit_images:,} images."
        )
        if parts.images:
            logger.info(f"{counted(parts.images, 'image')} of {plan.record.images:,} are written already.")
        place = CommandPlace.here(each.cpus)
        device = "cuda" if each.gpus else "cpu" if self.model.device == "auto" else self.model.device
        model = ModelPlace(self.model.folder, self.model.is_export, device, self.model.tta)
        began, done = time.perf_counter(), 0
        with progress_bar() as progress:
            bar = progress.add_task("predicting", total=plan.record.images, completed=parts.images, note="")
            pool = _Pool(UnitWriter(place, model, plan, folder, parts.pending), actors, each)
            try:
                for predicted in pool.results():
                    done += predicted
                    note = f"{done / (time.perf_counter() - began):,.0f} images/s"
                    progress.update(bar, advance=predicted, note=note)
            except KeyboardInterrupt:
                logger.warning(f"stopped. What is written stays in {output.parts_folder}. {AGAIN}")
                raise
        return time.perf_counter() - began


@dataclass
class UnitWriter:
    """Predicts units and writes their parts, in the process of an actor.

    Attributes:
        place: state of the command.
        model: folder of the model.
        plan, folder: plan of the prediction, and folder of its parts.
        pending: numbers of the units without a part; a task names places in this list.
    """

    place: CommandPlace
    model: ModelPlace
    plan: Plan
    folder: Path
    pending: list[int]
    _opened: list[BulkModel] = field(default_factory=list)

    def write(self, places: list[int]) -> int:
        """Write the parts of units that have none; number of images of all of them.

        Raises:
            LoupeError: the model cannot be read or used, the images are gone, or the disk is full.
        """
        units = [self.plan.unit(self.pending[place]) for place in places]
        left = [unit.number for unit in units if whole_part(self.folder, self.plan, unit) is None]
        if left:
            with closing(predict_units(self.plan, left, self._model())) as tables:
                for unit, table in tables:
                    write_part(self.folder, self.plan, unit, table)
        return sum(map(len, units))

    def _model(self) -> BulkModel:
        if not self._opened:
            model = self.model.open()
            if model.hash != self.plan.record.asked.settings.model:
                raise RunStateError(
                    f"node {CommandPlace.node()} has another model at {self.model.folder} than this machine. Put the "
                    "run on storage that all nodes share."
                )
            model.load()
            self._opened.append(model)
        return self._opened[0]


class UnitActor:
    """Actor of Ray: a worker that keeps the model, and writes the parts of the units that it is sent."""

    def __init__(self, writer: UnitWriter) -> None:
        self._writer = writer

    def ready(self) -> bool:
        """True, once the worker has started."""
        return True

    def write(self, places: list[int]) -> tuple[int, LoupeError | None]:
        """Number of images of these units, or the error with which they ended."""
        folder = self._writer.folder
        with self._writer.place.taken(), terminal(quiet=True):
            try:
                return self._writer.write(places), None
            except LoupeError as error:
                return 0, sendable(error)
            except OSError as error:
                told = disk_error(error, folder, "give the same command again: it goes on from here")
                reason = f"{error.filename or folder}: {error.strerror or error}. {AGAIN}"
                return 0, told or DiskError(reason)


class _Pool:
    """Actors, each with at most `AHEAD` tasks, so that tasks wait here and not in a worker that may be lost.

    A lost actor is replaced, as soon as a node has room for another, and its tasks go to those that are there.
    """

    def __init__(self, writer: UnitWriter, actors: int, each: Resources) -> None:
        import ray

        self._sent = ray.put(writer)
        self._actor: Any = ray.remote(UnitActor).options(num_cpus=each.cpus, num_gpus=each.gpus, max_restarts=0)
        self._each = each
        self._waiting = deque(_tasks(len(writer.pending), actors))
        self._lost: Counter[int | None] = Counter()  # by the first unit of a task; None for starts, one after the other
        self._actors: list[Any] = []
        self._ready: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._working: dict[Any, tuple[Any, list[int]]] = {}
        for _ in range(actors):
            self._start()

    def _start(self) -> None:
        actor = self._actor.remote(self._sent)
        self._actors.append(actor)
        self._starting[actor.ready.remote()] = actor

    def results(self) -> Iterator[int]:
        """Number of images of each task as it ends.

        Raises:
            LoupeError: a task failed.
            RunStateError: the workers of a task were lost too often.
        """
        import ray

        waiting = Waiting(self._each)
        try:
            while self._working or self._waiting:
                ended, _ = ray.wait([*self._starting, *self._working], timeout=POLL_SECONDS)
                for answer in ended:
                    waiting.ended()
                    actor, task = self._working.pop(answer, (self._starting.pop(answer, None), []))
                    try:
                        answered = ray.get(answer)
                    except ray.exceptions.RayTaskError:
                        raise  # a defect of Loupe, with its traceback
                    except ray.exceptions.RayError as error:
                        self._replace(actor, task, error)
                        continue
                    if task:
                        images, failed = answered
                        if failed is not None:
                            raise failed
                        yield images
                    else:
                        self._ready.append(actor)
                        del self._lost[None]
                self._give()
                units = sum(map(len, [*self._waiting, *(task for _, task in self._working.values())]))
                waiting.check(units, "unit")
        finally:
            for actor in self._actors:
                ray.kill(actor)

    def _give(self) -> None:
        """Send each actor its next tasks; one that had none left takes those of an actor that was lost."""
        for actor in self._ready:
            mine = sum(one is actor for one, _ in self._working.values())
            for _ in range(min(AHEAD - mine, len(self._waiting))):
                task = self._waiting.popleft()
                self._working[actor.write.remote(task)] = (actor, task)

    def _replace(self, actor: Any, task: list[int], error: Exception) -> None:
        """Take back a task of an actor that was lost, and start another in its place, once.

        Raises:
            RunStateError: the task was lost too often.
        """
        if task:
            self._waiting.appendleft(task)
        first = task[0] if task else None
        self._lost[first] += 1
        if self._lost[first] > RETRIES:
            raise lost_error("a unit", error, RETRIES + 1, AGAIN) from None
        if actor in self._actors:
            self._actors.remove(actor)
            self._ready = [one for one in self._ready if one is not actor]
            logger.info("a worker was lost: its units are predicted by another")
            self._start()


def _tasks(units: int, actors: int) -> Iterator[list[int]]:
    """Places in the list of pending units, in tasks of some units each, in which decoding runs ahead over borders."""
    each = max(1, min(MOST_UNITS, units // (TASKS_EACH * actors)))
    for start in range(0, units, each):
        yield list(range(start, min(start + each, units)))
