"""Errors that come back from workers: sent as they are where that is possible, and work that was lost too often."""

import pickle

import pytest

from loupe.cluster.predictions import MOST_UNITS, TASKS_EACH, _tasks
from loupe.cluster.worker import lost_error, sendable
from loupe.errors import ImageError, LoupeError, RunStateError


class UnsendableError(LoupeError):
    """Error that cannot be made again from its text."""

    def __init__(self, path: str, *, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def test_an_error_is_sent_as_it_is_or_as_its_text():
    image = sendable(ImageError("a.png", "truncated"))
    assert type(image) is ImageError and image.reason == "truncated"
    other = sendable(UnsendableError("a.png", reason="unknown"))
    assert type(other) is LoupeError and str(pickle.loads(pickle.dumps(other))) == "a.png: unknown"


def test_work_that_was_lost_is_told_from_a_ray_that_has_ended():
    class LocalRayletDiedError(Exception):
        pass

    lost = lost_error("run-1", MemoryError(), 4, "Again.")
    ended = lost_error("run-1", LocalRayletDiedError(), 4, "Again.")
    assert type(lost) is type(ended) is RunStateError
    assert "4 times" in str(lost) and "4 times" not in str(ended)


@pytest.mark.parametrize(("units", "actors"), [(1, 1), (5, 2), (300, 2), (100_000, 16)])
def test_tasks_of_a_prediction_hold_each_unit_once_and_are_many_enough(units, actors):
    tasks = list(_tasks(units, actors))
    assert [place for task in tasks for place in task] == list(range(units))
    assert max(map(len, tasks)) <= MOST_UNITS
    assert len(tasks) >= min(units, TASKS_EACH * actors)
