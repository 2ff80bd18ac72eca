"""Searches on scikit-learn's digits without pretrained weights, and options that are refused."""

import os
import signal
import subprocess
import sys
import time

import pytest

import loupe
from loupe.errors import ConfigError, RunStateError
from loupe.evaluate.search_results import FILE, SearchResults
from loupe.provenance import environment_of
from loupe.rundir import RunDirectory
from loupe.search.deliver import READY, STAGED, recover

LIMIT_SECONDS = 40


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"time_limit": 0}, "0"),
        ({"time_limit": 60, "recipe": "digits"}, "recipe"),
        ({"time_limit": 60, "epochs": 3}, "epochs"),
        ({"time_limit": 60, "settings": ["stages.0.lr=1"]}, "stages.0.lr"),
        ({"time_limit": 60, "weights": "weights.safetensors"}, "--model"),
        ({"time_limit": 60, "model": "digits-cnn"}, "digits-cnn"),
        ({"time_limit": 60, "weights": "none", "size_bytes": 1000}, "267.7"),
        ({"predict_within_seconds": 0.1}, "time_limit"),
        ({"size_bytes": 10}, "time_limit"),
        ({"allow_blend": True}, "time_limit"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, named):
    with pytest.raises(ConfigError, match=named):
        loupe.train("digits", output=tmp_path, quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_a_training_without_a_limit_takes_the_same_options():
    import inspect

    from loupe.runs.train import train

    own = inspect.signature(loupe.train).parameters
    for name, parameter in inspect.signature(train).parameters.items():
        assert own[name].default == parameter.default, name


@pytest.mark.slow
def test_a_limit_that_is_too_short_names_one_that_may_do(tmp_path):
    with pytest.raises(ConfigError, match="--time-limit"):
        loupe.train("digits", weights="none", time_limit=1, output=tmp_path, quiet=True)


@pytest.mark.slow
def test_a_search_leaves_a_finished_run_and_says_what_it_tried(tmp_path):
    run = loupe.train("digits", weights="none", time_limit=LIMIT_SECONDS, output=tmp_path, name="best", quiet=True)
    found = SearchResults.read(tmp_path / "best" / FILE)
    assert found.state == "finished"
    chosen = found.chosen
    assert chosen.judged.accuracy.value == run.results.validation.accuracy.value
    assert run.results.name == "best" and run.results.test is not None and run.results.test_looks == 1
    assert max(one.judged.accuracy.value for one in found.tried) <= chosen.judged.accuracy.value + 0.02
    assert loupe.load(run.path).predict_proba(some_digits(5)[0]).shape == (5, 10)
    candidates = [loupe.load(tmp_path / "best" / one.run) for one in found.tried]
    assert all(one.results.test is None for one in candidates)  # nothing was chosen by test images
    assert (run.path / "report.html").is_file() and not (run.path / STAGED).exists()
    with pytest.raises(RunStateError, match="never overwritten"):
        loupe.train("digits", weights="none", time_limit=LIMIT_SECONDS, output=tmp_path, name="best", quiet=True)
    assert environment_of(RunDirectory(run.path)).open_test is False


def some_digits(images: int):
    """Pixels and labels of some digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images[:images] * 15.9).astype("uint8"), digits.target[:images]


COMMAND = (
    *(sys.executable, "-m", "loupe", "train", "digits", "--weights", "none", "--name", "best"),
    *("--device", "cpu", "--time-limit"),
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_ends_a_search_with_its_best_run(tmp_path):
    process = subprocess.Popen([*COMMAND, "1h"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "best"
    _wait_for(lambda: (folder / "results.json").is_file(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(400) == 128 + signal.SIGTERM
    run = loupe.load(folder)
    assert run.results.test is not None
    assert SearchResults.read(folder / FILE).state == "stopped"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_search_leaves_a_run_and_goes_on_from_its_candidates(tmp_path):
    process = subprocess.Popen([*COMMAND, "1h"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "best"
    _wait_for(lambda: (folder / "results.json").is_file(), process)
    process.kill()
    process.wait()
    assert loupe.load(folder).results.test is None
    before = SearchResults.read(folder / FILE)
    assert before.state == "running"
    finished = sorted(path.parent.name for path in (folder / "candidates").glob("*/results.json"))
    ran = subprocess.run([*COMMAND, f"{LIMIT_SECONDS}s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "going on" in ran.stderr
    after = SearchResults.read(folder / FILE)
    assert after.state == "finished" and set(finished) <= {one.name for one in after.tried}
    assert loupe.load(folder).results.test is not None


def _wait_for(condition, process, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def test_a_delivery_that_was_prepared_is_finished_and_another_removed(tmp_path):
    staged = tmp_path / STAGED
    for folder, text in ((tmp_path, "old"), (staged, "new")):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "weights.safetensors").write_text(text)
        (folder / "results.json").write_text(text)
    recover(tmp_path)  # not prepared
    assert not staged.exists() and (tmp_path / "results.json").read_text() == "old"
    (staged / "model").mkdir(parents=True)
    (staged / "model" / "weights.safetensors").write_text("new")
    (staged / "results.json").write_text("new")
    (staged / READY).touch()
    recover(tmp_path)
    assert not staged.exists() and (tmp_path / "results.json").read_text() == "new"
    assert (tmp_path / "model" / "weights.safetensors").read_text() == "new"


@pytest.mark.slow
def test_heads_over_backbones_at_hand_come_first(tmp_path, monkeypatch):
    import safetensors.torch
    import timm

    monkeypatch.setenv("LOUPE_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    for name in ("test_resnet", "test_efficientnet"):
        state = timm.create_model(name).state_dict()
        safetensors.torch.save_file(state, tmp_path / "weights" / f"{name}.safetensors")
    run = loupe.train(some_digits(400), time_limit=1.5 * LIMIT_SECONDS, output=tmp_path, name="best", quiet=True)
    found = SearchResults.read(tmp_path / "best" / FILE)
    assert {one.backbone for one in found.at_hand} == {"test_resnet", "test_efficientnet"}
    heads = [one for one in found.candidates if one.kind == "features"]
    assert [one.name for one in heads if one.judged][:1] == [found.order[0]]  # the cheapest is delivered first
    assert all(one.subset.images == 360 for one in heads if one.subset)
    assert run.results.test.images == 40
