"""Trainings as tasks of Ray: each on a node with its cores or GPU, and resumed on another where a node is lost.

A task finds the run folder on storage that all nodes share: it reads a finished run, resumes an interrupted one, and
else begins it. So a task that Ray starts again loses what its last checkpoint does not have.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loupe.cluster.nodes import Cluster, Resources, Waiting
from loupe.cluster.worker import CommandPlace, lost_error, sendable
from loupe.comparison.trainings import Training, interrupted
from loupe.data.dataset import Dataset
from loupe.devices import StopSignal
from loupe.errors import InterruptedRunError, LoupeError, RunInUseError, RunStateError, counted
from loupe.log import duration, logger, terminal
from loupe.runs.options import RunOptions
from loupe.runs.run import Run

RETRIES = 3  # of a training whose worker or node is lost
POLL_SECONDS = 0.5
IN_USE_SECONDS = 120.0  # after which storage has freed the lock of a machine that is lost
SAVE_SECONDS = 600.0


@dataclass(frozen=True)
class TrainingReport:
    """End of a training on a node: its error if it failed, its warnings, and its time."""

    node: str
    seconds: float
    warnings: tuple[str, ...]
    error: LoupeError | None


class ClusterTrainings:
    """Runner of trainings on a cluster; a `loupe.comparison.trainings.TrainingRunner`.

    Raises:
        ConfigError: no node has the resources of a training on this device.
    """

    def __init__(self, cluster: Cluster, device: str) -> None:
        self.cluster, self.each = cluster, Resources.of(device, cluster)
        cluster.check_slots(self.each.cpus, self.each.gpus)

    def announce(self, trainings: Sequence[Training], options: RunOptions) -> None:
        """Check the folders on each node, and log the nodes, the trainings at a time and the expected time.

        Raises:
            ConfigError: a node does not see the images or the output.
        """
        each = self.each
        self.cluster.check_folders(options.output.absolute(), _needed(trainings))
        missing = [training for training in trainings if not _is_finished(training, options)]
        slots = self.cluster.slots(each.cpus, each.gpus)
        seconds = self.cluster.seconds([training.seconds for training in missing], each.cpus, each.gpus)
        expected = f", in all about {duration(seconds)}" if missing and seconds == seconds else ""
        logger.info(
            f"Ray: {counted(len(self.cluster.nodes), 'node')}, {self.cluster}. "
            f"{counted(len(missing), 'training')}, up to {slots} at a time, each on {each}{expected}."
        )

    def run(
        self, groups: Sequence[Sequence[Training]], options: RunOptions
    ) -> Iterator[tuple[int, list[Run] | LoupeError]]:
        """Number of each group as it ends, with its runs, or with the error of the first of them that failed.

        Raises:
            InterruptedRunError: stopped and saved; the same call resumes.
        """
        results: list[list[Run | LoupeError | None]] = [[None] * len(group) for group in groups]
        told: set[int] = set()
        for number, place, result in _Tasks(groups, options, self.each).results():
            results[number][place] = result
            if number not in told and None not in results[number]:
                told.add(number)
                yield number, _of_group(results[number])


def _of_group(results: Sequence[Run | LoupeError | None]) -> list[Run] | LoupeError:
    failed = next((result for result in results if isinstance(result, LoupeError)), None)
    return failed or [result for result in results if isinstance(result, Run)]


class _Tasks:
    """Tasks of all trainings, from their start to their end."""

    def __init__(self, groups: Sequence[Sequence[Training]], options: RunOptions, each: Resources) -> None:
        import ray

        self.options, self.each = options, each
        self.trainings = {
            (number, place): training for number, group in enumerate(groups) for place, training in enumerate(group)
        }
        self.place = CommandPlace.here(each.cpus)
        self.sent_options = replace(
            options, output=options.output.absolute(), device="cuda" if each.gpus else options.device, quiet=True
        )
        self.images: dict[int, Any] = {}
        self.attempts = dict.fromkeys(self.trainings, 0)
        self.pending: dict[Any, tuple[int, int]] = {}
        self.call = ray.remote(train_on_node).options(
            num_cpus=each.cpus, num_gpus=each.gpus, max_retries=RETRIES, retry_exceptions=False
        )

    def results(self) -> Iterator[tuple[int, int, Run | LoupeError]]:
        """Group and place of each training as it ends, with its run or its error."""
        import ray

        with StopSignal() as stop:
            try:
                for key, training in self.trainings.items():
                    finished = self._finished(training)
                    if finished is not None:
                        yield *key, finished
                    else:
                        self._submit(key)
                waiting = Waiting(self.each)
                while self.pending:
                    ended, _ = ray.wait(list(self.pending), timeout=POLL_SECONDS)
                    if stop.received:
                        self._save()
                        raise interrupted(stop.number)
                    for answer in ended:
                        waiting.ended()
                        key = self.pending.pop(answer)
                        result = self._result(key, answer)
                        if result is not None:
                            yield *key, result
                    waiting.check(len(self.pending), "training")
            finally:
                self._cancel()

    def _finished(self, training: Training) -> Run | LoupeError | None:
        try:
            return training.finished(self.options)
        except LoupeError as error:
            return error

    def _submit(self, key: tuple[int, int]) -> None:
        import ray

        training = self.trainings[key]
        if id(training.dataset) not in self.images:
            len(training.dataset.hashes)  # computed here, once, and sent with the table
            self.images[id(training.dataset)] = ray.put(training.dataset)
        details = (training.recipe, training.name, training.split, training.open_test)
        sent = self.call.remote(self.place, self.images[id(training.dataset)], details, self.sent_options)
        self.pending[sent] = key
        self.attempts[key] += 1

    def _result(self, key: tuple[int, int], answer: Any) -> Run | LoupeError | None:
        """Run or error of a training; None if it was begun again."""
        import ray

        training = self.trainings[key]
        try:
            report: TrainingReport = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise  # a defect of Loupe, with its traceback
        except ray.exceptions.RayError as error:
            remedy = "To resume, give the same command again."
            return lost_error(training.name, error, RETRIES + 1, remedy)
        for warning in report.warnings:
            logger.warning(f"{training.name}: {warning}")
        if isinstance(report.error, InterruptedRunError) and self.attempts[key] <= RETRIES:
            logger.info(f"{training.name}: stopped on node {report.node}, and begun again")
            self._submit(key)
            return None
        if report.error is not None:
            return report.error
        left = counted(len(self.pending), "training")
        logger.info(f"{training.name}: {duration(report.seconds)} on node {report.node}; {left} to go")
        return self._finished(training) or RunStateError(
            f"{training.name} was trained on node {report.node}, but {self.options.output} does not have it here. Put "
            "it on storage that all nodes share."
        )

    def _save(self) -> None:
        """Ask all tasks to save their runs, and wait for them."""
        import ray

        logger.info(f"stopping: {counted(len(self.pending), 'training')} save what they have")
        waiting = list(self.pending)
        self._cancel()
        ray.wait(waiting, num_returns=len(waiting), timeout=SAVE_SECONDS)

    def _cancel(self) -> None:
        import ray

        for answer in self.pending:
            ray.cancel(answer)
        self.pending.clear()


def train_on_node(
    place: CommandPlace, dataset: Dataset, details: tuple[Any, ...], options: RunOptions
) -> TrainingReport:
    """Train, resume or read a run in a worker of Ray; its result is in its folder.

    Args:
        details: recipe, name, split function, and whether the test images are evaluated, of the `Training`.
    """
    recipe, name, split, open_test = details
    training = Training(dataset, recipe, name, split, open_test)
    began, error = time.monotonic(), None
    with place.taken(), terminal(quiet=True), _warnings() as warnings:
        try:
            _run_when_free(training, options)
        except LoupeError as failed:
            error = sendable(failed)
    return TrainingReport(place.node(), time.monotonic() - began, tuple(warnings), error)


def _run_when_free(training: Training, options: RunOptions) -> None:
    """Run a training, once a worker that was lost no longer holds its folder."""
    began = time.monotonic()
    while True:
        try:
            training.run(options)
            return
        except RunInUseError:
            if time.monotonic() - began > IN_USE_SECONDS:
                raise
        time.sleep(1)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Texts of the warnings in the block."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, source = Collector(logging.WARNING), logging.getLogger("loupe")
    source.addHandler(handler)
    try:
        yield found
    finally:
        source.removeHandler(handler)


def _is_finished(training: Training, options: RunOptions) -> bool:
    try:
        return training.finished(options) is not None
    except LoupeError:
        return False


def _needed(trainings: Sequence[Training]) -> list[Path]:
    """Files that trainings read: the first and the last image of each table, and files of weights."""
    tables = {id(training.dataset): training.dataset.table for training in trainings}
    found: dict[Path, None] = {}
    for table in tables.values():
        for row in {0, len(table) - 1} if len(table) else ():
            if (path := table.file(row)) is not None:
                found[path.absolute()] = None
    for training in trainings:
        weights = Path(training.recipe.model.weights).expanduser()
        if weights.is_file():
            found[weights.absolute()] = None
    return list(found)
