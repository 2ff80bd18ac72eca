"""results.json and environment.json read back: whole, of an earlier version, or as one error."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import make_run, run_results, simulated
from loupe.cli import listings
from loupe.errors import LoupeError
from loupe.evaluate import calibration, metrics, selective
from loupe.evaluate.results import RunResults, results_of
from loupe.provenance import RunEnvironment, environment_of
from loupe.records import RecordError
from loupe.report.run_page import write_page
from loupe.rundir import RunDirectory, list_runs

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


def whole() -> dict:
    parts = {name: simulated(np.random.default_rng(seed), 60, 3) for seed, name in enumerate(("val", "test"))}
    fitted = calibration.fit_temperature(parts["val"])
    content = run_results("run", ("c0", "c1", "c2"), metrics.evaluate(parts["test"]))
    return content | {
        "calibration": calibration.report(fitted, parts).to_json(),
        "selective": selective.report(fitted.value, parts).to_json(),
        "diagnosis": {"verdict": "level", "epoch": None, "text": "fine", "settings": [], "next": None},
    }


WHOLE = whole()
PATHS = [
    *(("classes",), ("images",), ("validation",), ("test", "accuracy"), ("test", "accuracy", "value"), ("seconds",)),
    *(("test", "per_class"), ("test", "per_class", 0, "support"), ("test", "confusion_matrix"), ("parameters",)),
    *(("test", "confusion_matrix", 1), ("calibration", "temperature"), ("calibration", "test", "bins", "before")),
    *(("selective", "test", "points"), ("selective", "thresholds", 0), ("diagnosis",), ("epochs",), ("layers",)),
    *(("seconds", "train"), ("best_epoch",), ("seed",), ("device",), ("published",), ("images_per_second",)),
]


def changed(path, value) -> dict:
    content = copy.deepcopy(WHOLE)
    *outer, last = path
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return content


def test_results_are_written_as_they_were_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(WHOLE, indent=1) + "\n")
    RunResults.read(tmp_path / "results.json").write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == WHOLE


@given(path=st.sampled_from(PATHS), value=values)
@in_a_folder
def test_results_with_any_value_in_any_place_are_shown_or_are_one_error(tmp_path, monkeypatch, path, value):
    monkeypatch.setattr("loupe.report.figures.chart", lambda draw, **options: "<svg></svg>")
    run = tmp_path / "run"
    if not run.exists():
        make_run(run, ("c0", "c1", "c2"), missed=1)
    (run / "results.json").write_text(json.dumps(changed(path, value)))
    try:
        json.dumps(results_of(RunDirectory(run)).to_json(), allow_nan=False)
        write_page(run)
    except LoupeError as error:
        assert str(run / "results.json") in str(error)


@given(content=st.dictionaries(st.sampled_from([*RunEnvironment.model_fields, "x"]), values) | values)
@in_a_folder
def test_any_environment_is_shown_or_is_one_error(tmp_path, content):
    run = tmp_path / "run"
    if not run.exists():
        make_run(run, missed=1)
        (run / "results.json").unlink()
        (run / "metrics.csv").unlink()
    (run / "environment.json").write_text(json.dumps(content))
    try:
        json.dumps(environment_of(RunDirectory(run)).to_json(), allow_nan=False)
        write_page(run)
    except RecordError as error:
        assert error.path == run / "environment.json"


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "[" * 100_000, json.dumps(WHOLE)[:2000], '{"schema": 2}'])
def test_a_run_that_cannot_be_read_is_a_row_and_hides_no_other(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("first", "second", "third"):
        make_run(tmp_path / name, missed=1)
    (tmp_path / "second" / "results.json").write_text(text)
    listings.runs(tmp_path)
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["first", "second", "third"]
    assert "cannot be read" in shown and str(tmp_path / "second" / "results.json") in shown
    listings.runs(tmp_path, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["results"] is None for row in rows] == [False, True, False]
    assert str(tmp_path / "second" / "results.json") in rows[1]["error"]


def test_a_link_to_nothing_and_damaged_looks_hide_no_run(tmp_path, capsys):
    make_run(tmp_path / "first", missed=1)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "recipe.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "test_looks.jsonl").write_bytes(b"\xff\xfe\n")
    assert [run.name for run in list_runs(tmp_path)] == ["first"]
    listings.runs(tmp_path)
    assert "first" in capsys.readouterr().out
