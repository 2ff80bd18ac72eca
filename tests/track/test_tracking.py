"""Trackers get what a run holds, and nothing that they do reaches the run."""

import json
import threading
import tomllib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits

import loupe
from child_processes import Killed
from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.history import read_history
from loupe.runs.diff import differences
from loupe.runs.finalize import RunFinalizer
from loupe.track import tracking
from loupe.track.backend import flat
from loupe.track.summary import summary
from loupe.track.tracking import TrackRecord
from loupe.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("bare")


class Recorder:
    """Backend that keeps what it gets; `fails` and `hangs` name the call that does."""

    package: ClassVar[str] = "json"
    calls: ClassVar[list[tuple]]
    fails: ClassVar[str] = ""
    hangs: ClassVar[str] = ""
    released: ClassVar[threading.Event]

    def _call(self, name: str, *values: object) -> None:
        if name == self.hangs:
            self.released.wait()
        if name == self.fails:
            raise ConnectionError("the server is\ngone")
        self.calls.append((name, *values))

    def check(self, *, offline: bool) -> None:
        self._call("check", offline)

    def start(self, run) -> str:
        self._call("start", run)
        return run.id or "first"

    def epoch(self, values, step: int) -> None:
        self._call("epoch", dict(values), step)

    def finish(self, values, files, step: int) -> None:
        self._call("finish", dict(values), [path.name for path in files], step)

    def stop(self) -> None:
        self._call("stop")


@pytest.fixture
def recorder(monkeypatch) -> type[Recorder]:
    fresh = type("Fresh", (Recorder,), {"calls": [], "released": threading.Event()})
    monkeypatch.setitem(tracking.TRACKERS, "recorder", fresh)
    yield fresh
    fresh.released.set()


def train(folder: Path, name: str, **options) -> loupe.Run:
    bunch = load_digits()
    data = (bunch.images[:200] * 15.9375).astype(np.uint8), bunch.target[:200]
    return loupe.train(
        data, recipe="digits", epochs=3, precision="fp32", output=folder, name=name, device="cpu", quiet=True, **options
    )


@pytest.fixture(scope="module")
def untracked(tmp_path_factory) -> loupe.Run:
    return train(tmp_path_factory.mktemp("untracked"), "run")


def named(recorder: type[Recorder], name: str) -> list[tuple]:
    return [call[1:] for call in recorder.calls if call[0] == name]


def assert_same_figures(run: loupe.Run, other: loupe.Run) -> None:
    assert differences(run.directory, other.directory).same


def test_a_tracker_gets_settings_epochs_results_and_files(tmp_path, recorder, untracked):
    run = train(tmp_path, "run", track="recorder")
    [(begun,)] = named(recorder, "start")
    assert (begun.name, begun.folder, begun.id, begun.offline) == ("run", run.path, None, True)
    assert begun.config["recipe"] == run.recipe.model_dump(mode="json")
    assert (
        begun.config["environment"]["hashes"]["split"]
        == json.loads((run.path / "environment.json").read_text())["hashes"]["split"]
    )
    rows = read_history(run.directory)
    sent = named(recorder, "epoch")
    assert [step for _, step in sent] == [1, 2, 3]
    for (values, _), row in zip(sent, rows, strict=True):
        assert values == {key: value for key, value in row.items() if value is not None and key != "epoch"}
    [(figures, files, step)] = named(recorder, "finish")
    assert figures == summary(run.results) and step == 3
    test = run.results.test.accuracy
    ends = {"": test.value, "_low": test.low, "_high": test.high}
    assert {f"test/accuracy{end}": value for end, value in ends.items()}.items() <= figures.items()
    assert files == ["recipe.yaml", "environment.json", "metrics.csv", "results.json"]
    assert TrackRecord.read(run.path / "track.json") == TrackRecord(tracker="recorder", id="first", rows=3)
    assert recorder.calls[0] == ("check", True)
    assert_same_figures(run, untracked)


def test_without_being_asked_nothing_is_tracked(untracked):
    assert not (untracked.path / "track.json").exists()


@pytest.mark.parametrize("call", ["epoch", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_the_run_is_whole(tmp_path, recorder, untracked, caplog, call):
    recorder.fails = call
    run = train(tmp_path, "run", track="recorder")
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "recorder" in warning and "the server is gone" in warning
    assert named(recorder, "stop") == []
    assert_same_figures(run, untracked)


@pytest.mark.parametrize("call", ["epoch", "finish"])
def test_a_tracker_that_hangs_does_not_hold_the_training(tmp_path, recorder, monkeypatch, untracked, caplog, call):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.2)
    recorder.hangs = call
    run = train(tmp_path, "run", track="recorder")
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert_same_figures(run, untracked)


@pytest.mark.parametrize("way", ["fails", "hangs"])
def test_a_tracker_that_cannot_start_ends_the_command_before_the_training(tmp_path, recorder, monkeypatch, way):
    monkeypatch.setattr(tracking, "START_SECONDS", 0.2)
    setattr(recorder, way, "start")
    with pytest.raises(RunStateError, match=r"Nothing was trained yet.*--track none"):
        train(tmp_path, "run", track="recorder")
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert not (tmp_path / "run" / "track.json").exists()


def die_after(monkeypatch, epochs: int) -> None:
    """The process dies once so many epochs are trained and reported."""
    real = Trainer.train_epoch

    def train_epoch(self, *arguments):
        if len(self.state.history) == epochs:
            raise Killed
        return real(self, *arguments)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)


def interrupted(folder: Path, monkeypatch, epochs: int, **options) -> Path:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        die_after(patched, epochs)
        train(folder, "run", **options)
    return folder / "run"


def resume(run: Path, **options) -> loupe.Run:
    bunch = load_digits()
    data = (bunch.images[:200] * 15.9375).astype(np.uint8), bunch.target[:200]
    return loupe.resume(run, data, device="cpu", quiet=True, **options)


def test_a_resumed_run_goes_on_in_the_tracker_and_sends_no_row_twice(tmp_path, recorder, monkeypatch, untracked):
    run = interrupted(tmp_path, monkeypatch, 2, track="recorder")
    assert recorder.calls[-1] == ("stop",) and [step for _, step in named(recorder, "epoch")] == [1, 2]
    assert_same_figures(resume(run), untracked)
    _, (again,) = named(recorder, "start")
    assert (again.id, again.rows) == ("first", 2)
    assert [step for _, step in named(recorder, "epoch")] == [1, 2, 3]
    assert len(named(recorder, "finish")) == 1


def test_a_run_can_be_resumed_without_its_tracker_or_with_one(tmp_path, recorder, monkeypatch):
    run = interrupted(tmp_path / "a", monkeypatch, 1, track="recorder")
    before = list(recorder.calls)
    resume(run, track="none")
    assert recorder.calls == before
    recorder.calls.clear()
    resume(interrupted(tmp_path / "b", monkeypatch, 1), track="recorder")
    assert [step for _, step in named(recorder, "epoch")] == [1, 2, 3]


def test_a_run_resumed_after_its_last_epoch_sends_all_epochs(tmp_path, recorder, monkeypatch, untracked):
    def die(*arguments):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFinalizer, "write", die)
        train(tmp_path, "run")
    run = resume(tmp_path / "run", track="recorder")
    assert [step for _, step in named(recorder, "epoch")] == [1, 2, 3]
    [(_, _, step)] = named(recorder, "finish")
    assert step == 3 and recorder.calls[-1][0] == "finish"
    assert TrackRecord.read(run.path / "track.json").rows == 3
    assert_same_figures(run, untracked)


def test_a_tracker_that_cannot_start_again_does_not_deny_what_was_trained(tmp_path, recorder, monkeypatch):
    run = interrupted(tmp_path, monkeypatch, 1, track="recorder")
    recorder.fails = "start"
    with pytest.raises(RunStateError, match="last checkpoint") as raised:
        resume(run)
    assert "Nothing was trained" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "package", "match"),
    [
        ("wnadb", "json", "wandb"),
        ("recorder", "no_such_package", "loupe-vision"),
        ("recorder", "no.such", "Install"),
        ("recorder", "no_code", "Install"),
    ],
)
def test_trackers_that_are_unknown_or_missing_are_refused_first(tmp_path, recorder, monkeypatch, name, package, match):
    (tmp_path / "no_code").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    recorder.package = package
    with pytest.raises(ConfigError, match=match):
        loupe.train(tmp_path / "no-such-data", track=name, output=tmp_path, quiet=True)
    assert recorder.calls == []


def test_keys_of_nested_settings_are_those_of_set():
    values = {"stages": ({"lr": 0.1, "zoom": (1.0, 2.0)},), "seed": None, "model": {"name": "a"}}
    assert dict(flat(values)) == {"stages.0.lr": 0.1, "stages.0.zoom": (1.0, 2.0), "model.name": "a"}


@pytest.mark.parametrize("name", sorted(tracking.TRACKERS))
def test_every_tracker_is_an_extra(name):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert name in project["optional-dependencies"]
