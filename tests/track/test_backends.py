"""What each tracker is asked: stand-ins with the signatures of the real packages record it; TensorBoard is read back.

The signatures are those of MLflow 3.17, Weights & Biases 0.31 and Trackio 0.43.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from loupe.errors import ConfigError
from loupe.track.backend import TrackedRun
from loupe.track.mlflow import Mlflow
from loupe.track.tensorboard import TensorBoard
from loupe.track.tracking import check_tracker
from loupe.track.trackio import Trackio
from loupe.track.wandb import Wandb

CONFIG = {"recipe": {"seed": 3, "stages": [{"lr": 0.1}], "many": {f"k{number}": number for number in range(120)}}}
VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"),
    *("TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / name for name in ("recipe.yaml", "report.html")]
    for path in paths:
        path.write_text("x")
    return paths


def tracked(folder: Path, known: str | None = None, *, offline: bool = False) -> TrackedRun:
    return TrackedRun(name="pets", folder=folder, id=known, rows=0, config=CONFIG, offline=offline)


class Client:
    """MlflowClient that records."""

    calls: ClassVar[list[tuple]] = []

    def get_experiment_by_name(self, name: str):
        self.calls.append(("experiment", name))

    def create_experiment(self, name: str, artifact_location=None, tags=None) -> str:
        self.calls.append(("create", name))
        return "7"

    def create_run(self, experiment_id: str, start_time=None, tags=None, run_name=None):
        self.calls.append(("run", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def update_run(self, run_id: str, status=None, name=None) -> None:
        self.calls.append(("update", run_id, status))

    def log_batch(self, run_id: str, metrics=(), params=(), tags=(), synchronous=None) -> None:
        assert isinstance(metrics, tuple | list) and isinstance(params, tuple | list) and len(params) <= 100
        self.calls.append(("batch", run_id, metrics, params))

    def log_artifact(self, run_id: str, local_path: str, artifact_path=None) -> None:
        self.calls.append(("file", run_id, Path(local_path).name))

    def set_terminated(self, run_id: str, status=None, end_time=None) -> None:
        self.calls.append(("end", run_id, status))


@pytest.fixture
def client(monkeypatch) -> type[Client]:
    fresh = type("Client", (Client,), {"calls": []})
    package, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    package.MlflowClient = fresh
    entities.Param = lambda key, value: (key, value)
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return fresh


def test_mlflow_gets_a_run_with_parameters_metrics_and_files(client, tmp_path, files, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "animals")
    backend = Mlflow()
    assert backend.start(tracked(tmp_path)) == "abc"
    assert client.calls[:3] == [("experiment", "animals"), ("create", "animals"), ("run", "7", "pets")]
    params = dict(pair for call in client.calls[3:] for pair in call[3])
    assert params["recipe.stages.0.lr"] == "0.1" and params["recipe.many.k119"] == "119" and len(params) == 122
    client.calls.clear()
    backend.epoch({"val_loss": 0.5}, 1)
    backend.finish({"test/accuracy": 0.9}, files, 2)
    batches = [list(call[2]) for call in client.calls if call[0] == "batch"]
    assert batches == [[("val_loss", 0.5, 1)], [("test/accuracy", 0.9, 2)]]
    assert client.calls[2:] == [
        ("file", "abc", "recipe.yaml"),
        ("file", "abc", "report.html"),
        ("end", "abc", "FINISHED"),
    ]


def test_mlflow_goes_on_with_a_run_that_was_stopped(client, tmp_path):
    backend = Mlflow()
    assert backend.start(tracked(tmp_path, "abc")) == "abc"
    backend.stop()
    assert client.calls == [("update", "abc", "RUNNING"), ("end", "abc", "KILLED")]


class WandbRun:
    """Run of Weights & Biases that records."""

    def __init__(self, given: dict) -> None:
        self.id, self.given, self.calls, self.summary = given["id"] or "xyz", given, [], {}

    def log(self, data, step=None, commit=None) -> None:
        self.calls.append(("log", data, step))

    def log_artifact(self, artifact_or_path, name=None, type=None, aliases=None, tags=None) -> None:
        self.calls.append(("artifact", artifact_or_path.name, artifact_or_path.files))

    def finish(self, exit_code=None, quiet=None) -> None:
        self.calls.append(("finish", exit_code))


class Artifact:
    """Artifact of Weights & Biases and of Trackio that keeps its files."""

    def __init__(self, name: str, type: str, description=None, metadata=None) -> None:
        self.name, self.files = name, []

    def add_file(self, local_path, name=None) -> None:
        self.files.append(Path(local_path).name)


@pytest.fixture
def wandb(monkeypatch) -> SimpleNamespace:
    made = SimpleNamespace(runs=[], logins=[], logged_in=False)
    package = ModuleType("wandb")

    def init(*, project, name, id, resume, config, dir, mode, settings) -> WandbRun:
        made.runs.append(WandbRun(locals().copy()))
        return made.runs[-1]

    def login(*, prompt) -> bool:
        made.logins.append(prompt)
        return made.logged_in

    package.init, package.login, package.Artifact, package.Settings = init, login, Artifact, dict
    monkeypatch.setitem(sys.modules, "wandb", package)
    return made


def test_wandb_gets_a_run_and_nothing_of_the_machine(wandb, tmp_path, files):
    backend = Wandb()
    assert backend.start(tracked(tmp_path)) == "xyz"
    backend.epoch({"val_loss": 0.5}, 1)
    backend.finish({"test/accuracy": 0.9}, files, 1)
    [run] = wandb.runs
    assert (run.given["project"], run.given["name"], run.given["mode"]) == ("loupe", "pets", None)
    assert run.given["config"] == CONFIG and run.given["dir"] == str(tmp_path) and run.given["resume"] is None
    settings = run.given["settings"]
    off = {name: settings[name] for name in settings if "disable" in name}
    assert set(off.values()) == {True} and {"disable_git", "disable_code", "x_disable_meta"} <= set(off)
    assert (settings["console"], settings["x_save_requirements"]) == ("off", False)
    assert run.summary == {"test/accuracy": 0.9}
    assert run.calls == [
        ("log", {"val_loss": 0.5}, 1),
        ("artifact", "run-xyz", ["recipe.yaml", "report.html"]),
        ("finish", 0),
    ]


def test_wandb_goes_on_with_a_run(wandb, tmp_path):
    backend = Wandb()
    assert backend.start(tracked(tmp_path, "old")) == "old"
    backend.stop()
    [run] = wandb.runs
    assert (run.given["id"], run.given["resume"], run.calls) == ("old", "allow", [("finish", 1)])


@pytest.mark.parametrize(
    ("offline", "mode", "expected"),
    [
        (True, None, "offline"),
        (True, "online", "offline"),
        (True, "disabled", "disabled"),
        (False, "offline", "offline"),
    ],
)
def test_wandb_sends_nothing_offline(wandb, tmp_path, monkeypatch, offline, mode, expected):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    backend = Wandb()
    backend.check(offline=offline)
    backend.start(tracked(tmp_path, offline=offline))
    assert wandb.runs[0].given["mode"] == expected and wandb.logins == []


def test_wandb_needs_a_login_and_asks_for_none(wandb):
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        Wandb().check(offline=False)
    wandb.logged_in = True
    Wandb().check(offline=False)
    assert wandb.logins == [False, False]


@pytest.fixture
def trackio(monkeypatch) -> SimpleNamespace:
    made = SimpleNamespace(given=[], calls=[])
    package = ModuleType("trackio")

    def init(project, name=None, *, config, resume, embed, auto_log_gpu, auto_log_cpu):
        print("* Trackio project initialized")
        made.given.append(locals().copy())
        log = lambda metrics, step=None: made.calls.append((metrics, step))  # noqa: E731
        return SimpleNamespace(name=name, log=log, finish=lambda: made.calls.append("finish"))

    package.init, package.Artifact = init, Artifact
    package.log_artifact = lambda artifact: made.calls.append((artifact.name, artifact.files))
    monkeypatch.setitem(sys.modules, "trackio", package)
    return made


def test_trackio_gets_a_run_and_prints_nothing(trackio, tmp_path, files, capsys):
    backend = Trackio()
    assert backend.start(tracked(tmp_path)) == "pets"
    backend.epoch({"val_loss": 0.5}, 1)
    backend.finish({"test/accuracy": 0.9}, files, 2)
    [given] = trackio.given
    assert (given["project"], given["resume"], given["embed"]) == ("loupe", "never", False)
    assert not given["auto_log_gpu"] and not given["auto_log_cpu"] and given["config"]["recipe.stages.0.lr"] == 0.1
    assert trackio.calls == [
        ({"val_loss": 0.5}, 1),
        ({"test/accuracy": 0.9}, 2),
        ("pets", ["recipe.yaml", "report.html"]),
        "finish",
    ]
    Trackio().start(tracked(tmp_path, "pets"))
    assert trackio.given[1]["resume"] == "allow"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("backend", "variable", "value"),
    [
        (Mlflow, "MLFLOW_TRACKING_URI", "https://tracking.example"),
        (Mlflow, "MLFLOW_TRACKING_URI", "HTTP://tracking.example"),
        (Mlflow, "MLFLOW_TRACKING_URI", "databricks"),
        (Mlflow, "MLFLOW_TRACKING_URI", "databricks://profile"),
        (Mlflow, "MLFLOW_TRACKING_URI", "postgresql://ann@db.example/runs"),
        (Mlflow, "MLFLOW_TRACKING_URI", "mysql+pymysql://db.example/runs"),
        (Mlflow, "MLFLOW_TRACKING_URI", "s3://bucket/runs"),
        (Trackio, "TRACKIO_SPACE_ID", "ann/board"),
        (Trackio, "TRACKIO_SERVER_URL", "http://tracking.example"),
    ],
)
def test_offline_an_address_elsewhere_is_refused(monkeypatch, backend, variable, value):
    monkeypatch.setenv(variable, value)
    backend().check(offline=False)
    with pytest.raises(ConfigError, match=variable):
        backend().check(offline=True)


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "file:///runs", "./mlruns", "/a:b/mlruns", "mlruns", r"C:\runs"]
)
def test_a_local_store_may_be_used_offline(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for backend in (Mlflow, Trackio, TensorBoard, Wandb):
        backend().check(offline=True)
    check_tracker(None)
    check_tracker("none")


def test_event_files_are_read_back(tmp_path, files):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for known, step in ((None, 1), ("tensorboard", 2)):
        backend = TensorBoard()
        backend.start(tracked(tmp_path, known))
        backend.epoch({"val_loss": 0.5 / step}, step)
        backend.stop() if step == 1 else backend.finish({"test/accuracy": 0.75}, files, step)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [(1, 0.5), (2, 0.25)]
    assert [event.value for event in events.Scalars("test/accuracy")] == [0.75]
    assert events.Tags()["tensors"] == ["recipe/text_summary"]
