"""Comparison of two runs: each kind of figure, changed alone, is found and nothing else is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builders import predictions, run_results
from loupe.cli import diff_table, main
from loupe.errors import InterruptedRunError, LoupeError
from loupe.evaluate import metrics
from loupe.evaluate.predictions import Predictions, read_splits, write_splits
from loupe.evaluate.results import results_of
from loupe.recipes.from_scratch import digits
from loupe.rundir import RunDirectory
from loupe.runs import repeat
from loupe.runs.diff import differences

PARTS = ("results", "curves", "split", "predictions", "weights")
BLOCK = metrics.evaluate(predictions([0, 0, 0, 1, 1, 1, 1], np.eye(2)[[0, 1, 1, 0, 0, 0, 1]], ("a", "b")))
ADVICE = {"verdict": "fine", "text": "fine", "settings": [], "next": "loupe train a/b"}
RESULTS = run_results("first", ("a", "b"), None, test=BLOCK, epochs=3, precision="fp32", diagnosis=ADVICE)
ENVIRONMENT = {
    "torch": "2.8.0",
    "threads": 2,
    "device": "cpu",
    "command": ["loupe", "train", "pets"],
    "date": "2026-01-01T00:00:00+00:00",
    "data": "/one/pets",
    "skip_damaged": False,
    "hashes": {"data": "cd" * 32, "split": "ef" * 32, "weights": None, "code": "01" * 32},
}


def make(folder: Path) -> RunDirectory:
    """A finished run of three epochs on eight images of two classes."""
    folder.mkdir()
    run = RunDirectory(folder)
    run.write_recipe(digits())
    run.write_json("results.json", RESULTS)
    run.write_json("environment.json", ENVIRONMENT)
    rows = [{"epoch": n, "lr": 1e-3, "train_loss": 1 / n, "val_loss": 2 / n, "seconds": 0.625} for n in (1, 2, 3)]
    run.write_metrics(rows)
    images = [f"{n}.png,{'ab'[n % 2]},{'val' if n < 4 else 'train'},{n:064x}" for n in range(8)]
    run.file("split.csv").write_text("\n".join(["path,label,split,content", *images]) + "\n")
    logits = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    names = tuple(f"{n}.png" for n in range(4))
    labels = np.arange(4) % 2
    content = tuple(f"{n:064x}" for n in range(4))
    write_splits(run.file("predictions.csv"), {"val": Predictions(names, content, labels, logits, ("a", "b"))})
    run.model.mkdir()
    tensors = {"head.weight": np.ones((2, 3), np.float32), "steps": np.array(7)}
    save_file(tensors, run.model / "weights.safetensors")
    return run


@pytest.fixture
def pair(tmp_path) -> tuple[RunDirectory, RunDirectory]:
    return make(tmp_path / "first"), make(tmp_path / "second")


def edit(run: RunDirectory, name: str, change) -> None:
    content = json.loads(run.file(name).read_text())
    change(content)
    run.write_json(name, content)


def only(report, part: str) -> list[dict]:
    """The rows of the only part that differs."""
    assert [name for name in PARTS if getattr(report.differences, name)] == [part]
    assert not report.same
    return json.loads(json.dumps(report.to_json(), allow_nan=False))["differences"][part]


def test_equal_runs_are_the_same_and_all_was_compared(pair):
    report = differences(*pair)
    assert report.same
    assert not any(rows for _, rows in report.differences)
    assert report.circumstances == ()
    # 11 of the run, 3 of its parameters, 5 of its layer, and the images, metrics, classes and cells of test
    of_test = 1 + 6 * 3 + 1 + 2 * 7 + 4
    assert report.compared["figures"] == 11 + 3 + 5 + of_test
    assert report.compared == {"figures": 57, "epochs": 3, "images": 8, "predictions": 4, "weights": 7}


def test_times_looks_names_and_dates_are_no_figures(pair):
    changes = {
        **{"name": "second", "dataset": "animals", "test_looks": 9, "images_per_second": 7.0, "version": "0.2.0"},
        **{"seconds": {**RESULTS["seconds"], "train": 99.0, "new": 1.0}, "saved_seconds": 3.0},
    }
    edit(pair[1], "results.json", lambda results: results.update(changes))
    edit(pair[1], "results.json", lambda results: results["diagnosis"].update(next=None, text="well"))
    edit(pair[1], "environment.json", lambda made: made.update(date="2027", command=["x"], data="/two/pets"))
    metrics = pair[1].file("metrics.csv")
    metrics.write_text(metrics.read_text().replace(",0.625,", ",0.875,"))
    assert "0.875" in metrics.read_text()
    report = differences(*pair)
    assert report.same and report.circumstances == ()


def test_one_metric(pair):
    first, second = BLOCK.accuracy.value, np.nextafter(BLOCK.accuracy.value, 1)
    edit(pair[1], "results.json", lambda results: results["test"]["accuracy"].update(value=second))
    rows = only(differences(*pair), "results")
    assert rows == [{"key": "test.accuracy.value", "first": first, "second": second}]


def test_a_figure_of_one_run_alone(pair):
    edit(pair[0], "results.json", lambda results: results["test"].update(kappa={"value": 0.1}))
    edit(pair[1], "results.json", lambda results: results["classes"].append("c"))
    edit(pair[1], "results.json", lambda results: results.update(test=None))
    rows = {row["key"]: row for row in only(differences(*pair), "results")}
    assert rows["test.kappa.value"] == {"key": "test.kappa.value", "first": 0.1}
    assert rows["test"] == {"key": "test", "second": None}
    assert rows["classes.2"] == {"key": "classes.2", "second": "c"}


def test_one_epoch(pair):
    metrics = pair[1].file("metrics.csv")
    lines = metrics.read_text().splitlines()
    lines[2] = lines[2].replace("0.5,", "0.5000001,", 1)  # the training loss of epoch 2
    metrics.write_text("\n".join(lines) + "\n")
    rows = only(differences(*pair), "curves")
    assert rows == [{"key": "train_loss", "epoch": 2, "first": 0.5, "second": 0.5000001, "epochs": 1}]
    metrics.write_text("\n".join(lines[:2]) + "\n")
    assert only(differences(*pair), "curves") == [{"key": "epochs", "first": 3, "second": 1}]


def test_rows_of_a_solved_head_are_l2_strengths_also_beside_a_run_without_their_column(pair, capsys):
    rows = [
        {"epoch": 1, "l2_strength": 464.1, "train_loss": 0.9},
        {"epoch": 2, "l2_strength": 10.0, "train_loss": 0.8},
        {"epoch": 3, "l2_strength": None, "train_loss": 0.7},
    ]
    pair[1].write_metrics(rows)
    lines = [line.split(",") for line in pair[1].file("metrics.csv").read_text().splitlines()]
    column = lines[0].index("l2_strength")
    for cells in lines:
        del cells[column]
    earlier = "\n".join(",".join(cells) for cells in lines).replace(",0.9,", ",0.95,").replace(",0.8,", ",0.85,")
    pair[0].file("metrics.csv").write_text(earlier + "\n")
    report = differences(*pair)
    assert (report.compared["epochs"], report.compared["L2 strengths"]) == (1, 2)
    assert [(row.key, row.l2_strength, row.epochs) for row in report.differences.curves] == [("train_loss", 464.1, 2)]
    assert "train_loss of L2 strength 464; 2 rows differ" in printed(report, capsys)


def test_the_split_is_compared_by_content(pair):
    split = pair[1].file("split.csv")
    lines = split.read_text().splitlines()
    split.write_text("\n".join([lines[0], *(f"elsewhere/{line}" for line in reversed(lines[1:]))]) + "\n")
    assert differences(*pair).same, "neither names nor order matter"
    lines[1] = lines[1].replace("val", "train")
    lines[2] = lines[2].replace(",b,", ",a,")
    lines[3] = lines[3][:-1] + "f"  # another content
    split.write_text("\n".join(lines) + "\n")
    assert only(differences(*pair), "split") == [
        {"key": "images in another split, or of another class", "images": 2},
        {"key": "images of one run only", "first": 1, "second": 1},
    ]


def test_predictions(pair):
    file = pair[1].file("predictions.csv")
    stored = read_splits(file)["val"]
    logits = stored.logits_NK.copy()
    logits[2] = logits[2, ::-1]
    logits[3, 0] += 0.5
    reverse = slice(None, None, -1)
    changed = Predictions(stored.path, stored.content, stored.label, logits, stored.classes).select(
        np.arange(4)[reverse]
    )
    write_splits(file, {"val": changed})
    (row,) = only(differences(*pair), "predictions")
    assert (row["key"], row["images"], row["images_of_one_run_alone"]) == ("val", 4, 0)
    assert row["of_another_class"] == int((stored.predicted != logits.argmax(axis=1)).sum()) >= 1
    assert row["largest_difference"] == pytest.approx(np.abs(stored.logits_NK - logits).max(), rel=1e-6)
    write_splits(file, {"test": stored})
    assert [row["key"] for row in only(differences(*pair), "predictions")] == ["val", "test"]


def test_copies_of_an_image_are_compared_each_with_itself(pair):
    """Their logits may differ in the last bits, where they lie in batches of other sizes."""
    for run in pair:
        stored = read_splits(run.file("predictions.csv"))["val"]
        copies = Predictions(stored.path, ("aa", "bb", "aa", "cc"), stored.label, stored.logits_NK, stored.classes)
        write_splits(run.file("predictions.csv"), {"val": copies})
    assert differences(*pair).same
    write_splits(pair[1].file("predictions.csv"), {"val": copies.select(np.arange(3))})
    (row,) = only(differences(*pair), "predictions")
    assert (row["images"], row["images_of_one_run_alone"], row["largest_difference"]) == (3, 1, 0.0)


def test_one_bit_of_the_weights(pair):
    file = pair[1].model / "weights.safetensors"
    tensors = load_file(file)
    tensors["head.weight"].view(np.uint32)[1, 2] ^= 1
    save_file(tensors, file)
    (row,) = only(differences(*pair), "weights")
    assert (row["key"], row["values"], row["unequal"]) == ("head.weight", 6, 1)
    assert row["largest_difference"] == np.spacing(np.float32(1))


def test_minus_zero_and_not_a_number_are_told_apart_by_their_bits(pair):
    for run, value in zip(pair, (0.0, -0.0), strict=True):
        save_file({"w": np.array([value, np.nan], np.float32)}, run.model / "weights.safetensors")
    (row,) = only(differences(*pair), "weights")
    assert (row["unequal"], row["largest_difference"]) == (1, None)


def test_tensors_of_another_shape_or_of_one_run_alone(pair):
    save_file({"head.weight": np.ones(6, np.float32), "new": np.ones(1)}, pair[1].model / "weights.safetensors")
    rows = {row["key"]: row for row in only(differences(*pair), "weights")}
    assert rows["head.weight"] == {"key": "head.weight", "first": "float32 (2, 3)", "second": "float32 (6,)"}
    assert rows["steps"] == {"key": "steps", "first": "present"}
    assert rows["new"] == {"key": "new", "second": "present"}


def test_files_that_are_missing(pair):
    for name, part in (
        ("predictions.csv", "predictions"),
        ("split.csv", "split"),
        ("model/weights.safetensors", "weights"),
    ):
        kept = pair[1].file(name).read_bytes()
        pair[1].file(name).unlink()
        assert only(differences(*pair), part) == [{"key": name, "first": "present"}]
        pair[1].file(name).write_bytes(kept)
    pair[1].file("metrics.csv").unlink()
    assert only(differences(*pair), "curves") == [{"key": "epochs", "first": 3, "second": 0}]
    for run in pair:  # a run without validation and test images
        run.file("predictions.csv").unlink()
        run.file("metrics.csv").unlink(missing_ok=True)
    assert differences(*pair).same
    pair[1].file("results.json").unlink()
    with pytest.raises(LoupeError, match="not finished"):
        differences(*pair)


def test_damaged_files_are_named(pair):
    pair[1].file("model/weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(LoupeError, match="second"):
        differences(*pair)


def test_circumstances_are_told_and_are_no_differences(pair):
    edit(pair[1], "environment.json", lambda made: made.update(torch="2.9.0", openvino="2025.1"))
    edit(pair[1], "environment.json", lambda made: made["hashes"].update(code="23" * 32, split="45" * 32))
    pair[1].write_recipe(digits().model_copy(update={"seed": 5, "name": "mine"}))
    report = differences(*pair)
    assert report.same
    assert [(row.key, row.first, row.second) for row in report.circumstances] == [
        ("recipe.seed", 0, 5),
        ("torch", "2.8.0", "2.9.0"),
        ("hashes.code", "01" * 32, "23" * 32),
    ]


def printed(report, capsys) -> str:
    diff_table.print_report(report)
    return " ".join(capsys.readouterr().out.split())


def test_the_terminal_says_what_differs_and_why(pair, capsys):
    assert "every figure is the same (57 figures, 3 epochs," in printed(differences(*pair), capsys)
    edit(pair[1], "results.json", lambda results: results["test"]["accuracy"].update(value=0.75))
    shown = printed(differences(*pair), capsys)
    assert f"test.accuracy.value {BLOCK.accuracy.value} 0.75" in shown
    assert "bug" in shown
    edit(pair[1], "results.json", lambda results: results.update(device="cuda"))
    assert "varies from run to run" in printed(differences(*pair), capsys)
    edit(pair[1], "environment.json", lambda made: made.update(torch="2.9.0"))
    edit(pair[1], "environment.json", lambda made: made["hashes"].update(code="23" * 32))
    assert "torch 2.8.0 → 2.9.0; sources of Loupe 010101010101 → 232323232323" in printed(differences(*pair), capsys)
    for name in ("split.csv", "predictions.csv", "model/weights.safetensors"):
        pair[1].file(name).unlink()
        assert f"{name} present absent" in printed(differences(*pair), capsys)
    pair[1].write_json("environment.json", ENVIRONMENT)
    assert "loupe.cross_validate" in printed(differences(*pair), capsys)


def test_the_terminal_shows_the_first_of_many(pair, capsys):
    weights = {f"w{n:03}": np.full(2, n, np.float32) for n in range(40)}
    save_file({**weights, "changed": np.ones(3, np.float32)}, pair[0].model / "weights.safetensors")
    save_file({"changed": np.full(3, 1.5, np.float32)}, pair[1].model / "weights.safetensors")
    shown = printed(differences(*pair), capsys)
    assert "weights: 3 values in 1 tensor, by up to 0.5" in shown
    assert "w024 present absent and 15 more of weights" in shown
    assert "w025" not in shown


class Trained:
    def __init__(self, directory: RunDirectory) -> None:
        self.directory, self.path, self.results = directory, directory.path, results_of(directory)


@pytest.fixture
def command(pair, monkeypatch, capsys):
    """`loupe train --against first` with a training that gives the second run; returns code, JSON, what was asked."""
    asked = {}

    def train(data, **others):
        asked.update(others, data=data)
        return Trained(pair[1])

    monkeypatch.setattr("loupe.runs.train.train", train)

    def call(*arguments: str):
        folder = pair[0].path.parent
        line = ["loupe", "train", *arguments, "--against", "first", "--output", str(folder), "--json"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            main.main()
        return end.value.code, json.loads(capsys.readouterr().out or "null"), asked

    return call


def test_the_exit_code_is_1_where_a_figure_differs(command, pair):
    code, answer, _ = command("digits")
    assert (code, answer["against"]["same"]) == (0, True)
    assert json.loads(pair[1].file("against.json").read_text()) == answer["against"]
    edit(pair[1], "results.json", lambda results: results.update(epochs=4))
    code, answer, _ = command("digits")
    assert code == 1
    assert answer["against"]["differences"]["results"] == [{"key": "epochs", "first": 3, "second": 4}]


def test_what_is_not_asked_for_is_taken_from_the_run(command, pair, monkeypatch):
    edit(pair[0], "environment.json", lambda made: made.update(data="digits", skip_damaged=True, device="cuda:99"))
    threads = []
    monkeypatch.setattr(repeat, "use_threads", lambda number: threads.append(number))
    monkeypatch.setattr(repeat, "cores", lambda: 4)
    _, _, asked = command()
    assert (asked["data"], asked["device"], asked["skip_damaged"]) == ("digits", "auto", True)
    assert asked["recipe"] == str(pair[0].file("recipe.yaml"))
    _, _, asked = command("elsewhere", "--recipe", "deep-cnn", "--device", "cpu")
    assert (asked["data"], asked["device"], asked["recipe"]) == ("elsewhere", "cpu", "deep-cnn")
    assert threads == [2, 2]
    monkeypatch.setattr(repeat, "cores", lambda: 1)
    command("digits")
    assert threads == [2, 2], "more threads than cores would only be slow"


def test_images_that_cannot_be_found_again_are_asked_for(pair):
    nothing = repeat.RepeatOptions(None, None, "cpu", False)
    with pytest.raises(LoupeError, match="no longer at /one/pets"):
        repeat.complete(nothing, pair[0])
    edit(pair[0], "environment.json", lambda made: made.update(data=None))
    with pytest.raises(LoupeError, match="arrays"):
        repeat.complete(nothing, pair[0])


def test_only_a_finished_run_can_be_repeated(pair):
    pair[0].file("results.json").unlink()
    with pytest.raises(LoupeError, match="--resume"):
        repeat.earlier_run("first", pair[0].path.parent)


def test_an_interrupted_repetition_says_how_to_go_on_to_the_comparison(pair):
    with (
        pytest.raises(InterruptedRunError, match=r"--resume b --against .*first$"),
        repeat.resume_with_comparison(pair[0]),
    ):
        raise InterruptedRunError("stopped and saved. Resume with: loupe train --resume b")
    with pytest.raises(InterruptedRunError, match=r"b$"), repeat.resume_with_comparison(None):
        raise InterruptedRunError("stopped and saved. Resume with: loupe train --resume b")
