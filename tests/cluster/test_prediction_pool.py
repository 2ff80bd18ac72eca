"""Workers of predictions on a Ray that follows a script: lost, not started, and without a node that has room."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from loupe.cluster import nodes
from loupe.cluster.nodes import Node, Resources
from loupe.cluster.predictions import _Pool
from loupe.errors import RunStateError

WAITS = 100


class LostError(Exception):
    """Error of Ray for a worker that is lost."""


class Answer:
    def __init__(self, value: object) -> None:
        self.value = value


class Method:
    def __init__(self, answer) -> None:
        self.remote = answer


class ScriptedRay:
    """Ray whose workers fare as the script says: `works`, `dies` with its units, `fails` to start, `never` starts.

    A worker that dies is noticed once no other answer is there.
    """

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=LostError)

    def __init__(self, *script: str) -> None:
        self.script: Iterator[str] = iter(script)
        self.waits = 0

    def put(self, value):
        return value

    def remote(self, function):
        return self

    def options(self, **resources):
        return SimpleNamespace(remote=self.actor)

    def actor(self, writer):
        fate = next(self.script)
        start = {"fails": LostError(), "never": None}.get(fate, True)
        return SimpleNamespace(
            ready=Method(lambda: Answer(start)),
            write=Method(lambda task: Answer(LostError() if fate == "dies" else (len(task), None))),
        )

    def wait(self, answers, timeout):
        self.waits += 1
        if self.waits > WAITS:
            raise InterruptedError
        there = [answer for answer in answers if answer.value is not None]
        there.sort(key=lambda answer: isinstance(answer.value, LostError))
        return there[:1], there[1:]

    def get(self, answer):
        if isinstance(answer.value, LostError):
            raise answer.value
        return answer.value

    def kill(self, actor):
        pass


@pytest.fixture
def pool(monkeypatch):
    def made(*script: str, units: int, actors: int) -> _Pool:
        monkeypatch.setitem(sys.modules, "ray", ScriptedRay(*script))
        return _Pool(SimpleNamespace(pending=list(range(units))), actors, Resources(2, 0))

    return made


def test_units_of_a_lost_worker_go_to_one_that_had_none_left(pool):
    assert sum(pool("works", "dies", "never", units=4, actors=2).results()) == 4


def test_starts_that_fail_are_counted_until_one_succeeds(pool):
    fails = ["fails"] * 3
    assert sum(pool(*fails, "dies", *fails, "works", units=4, actors=1).results()) == 4
    with pytest.raises(RunStateError, match="4 times"):
        list(pool(*fails, "fails", units=4, actors=1).results())


@pytest.mark.parametrize(("cpus", "warned"), [(1.0, True), (2.0, False)])
def test_no_node_with_room_is_a_warning(pool, cpus, warned, monkeypatch, caplog):
    monkeypatch.setattr(nodes, "WAITING_SECONDS", -1.0)
    monkeypatch.setattr(nodes, "alive", lambda: (Node("a", "first", cpus, 0.0),))
    with caplog.at_level("WARNING", logger="loupe"), pytest.raises(InterruptedError):
        list(pool("never", units=4, actors=1).results())
    assert any("2 CPUs" in text and "4 units" in text for text in caplog.messages) is warned
