"""The command line as a person uses it: what is printed, what is written, and what the exit code is."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loupe
from loupe import __version__
from loupe.cli import main
from loupe.cli.options import print_json, print_long_json
from loupe.cli.tables import print_histogram
from loupe.data.sources.folders import from_paths
from loupe.errors import LoupeError
from loupe.recipes.catalog import GROUPS, RECIPES


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Runs one command; returns exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """40 small images in two classes that a network can tell apart, and one class folder that is empty."""
    folder = tmp_path_factory.mktemp("photos") / "shades"
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(level - 40, level + 40, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    """A finished run that predicts in PyTorch, whose answers are those of its training to the last bit."""
    import loupe

    runs = tmp_path_factory.mktemp("runs")
    settings = ["input.size_px=16", "stages.0.batch_size=8", "stages.0.augment.crop_padding_px=2", "stages.0.lr=1e-3"]
    options = {"epochs": 3, "settings": settings, "output": runs, "name": "first", "device": "cpu", "quiet": True}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("loupe.models.engine_choice.find_spec", lambda name: None)
        return loupe.train(photos, recipe="small-images", **options).path


def test_the_bare_command_lists_what_it_can_do_in_whole_sentences(terminal):
    code, out, err = terminal()
    assert code == 2 and not err and out.startswith("Usage: ")
    summaries = out.split("Commands:\n")[1].splitlines()
    assert len(summaries) == len(main.COMMANDS) and all(line.endswith(".") for line in summaries)
    assert "..." not in out.split("Commands:")[1]


def test_the_version_is_that_of_the_package(terminal):
    assert terminal("--version") == (0, f"loupe {__version__}\n", "")


@pytest.mark.slow
def test_an_augmentation_at_test_time_is_named_and_is_the_mean_of_an_image_and_its_mirror_image(
    terminal, trained, photos, tmp_path
):
    file = photos / "dark" / "0.png"
    for name, image in (("given", Image.open(file)), ("mirrored", Image.open(file).transpose(Image.FLIP_LEFT_RIGHT))):
        image.save(tmp_path / f"{name}.png")
    code, out, err = terminal("predict", trained, tmp_path, "--tta", "flip", "--to", tmp_path / "t.csv", "--json")
    answer = json.loads(out)
    assert (code, answer["tta"]) == (0, "flip")
    first, second = ([one["probability"] for one in image["top"]] for image in answer["images"])
    np.testing.assert_allclose(first, second, rtol=1e-4)
    plain = loupe.load(trained)
    wanted = plain.predictions(from_paths([str(tmp_path)])).logits_NK.mean(axis=0)
    flipped = loupe.load(trained, tta="flip").predictions(from_paths([str(tmp_path)])).logits_NK
    np.testing.assert_allclose(flipped, [wanted, wanted], rtol=1e-4, atol=1e-5)

    code, out, _ = terminal("evaluate", trained, "--tta", "flip-shift", "--json")
    assert (code, json.loads(out)["tta"]) == (0, "flip-shift")
    _, out, err = terminal("evaluate", trained, "--tta", "flip")
    assert "flip" in out.splitlines()[0] and "2 views" in err
    code, _, err = terminal("predict", trained, tmp_path, "--tta", "flip", "--wanted-precision", "0.9")
    assert code == 1 and "--tta" in err
    code, _, err = terminal("predict", trained, tmp_path, "--tta", "flop")
    assert code == 1 and "flip" in err


def test_training_writes_the_whole_run_directory(trained):
    names = {path.name for path in trained.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("recipe.yaml", "split.csv", "environment.json", "results.json", "metrics.csv", "predictions.csv"),
        *("train.log", "report.html", "gallery.parquet", "checkpoints", "model"),
    }
    assert {path.name for path in (trained / "model").iterdir()} == {"weights.safetensors", "config.json"}


def test_more_epochs_of_a_finished_run_are_refused_with_the_command_of_a_new_run(terminal, trained):
    code, _, err = terminal("train", "--resume", trained, "--epochs", "5")
    assert code == 1 and f"--weights {trained} --epochs 5" in err
    code, _, err = terminal("train", "--resume", trained, "--seed", "5")
    assert code == 1 and "--weights" not in err, "only epochs ask for more of the same training"


def test_results_hold_what_scripts_rely_on(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["schema"] == 1
    assert results["images"] == {"train": 32, "val": 4, "test": 4}
    assert results["classes"] == ["dark", "light"]
    assert results["validation"]["accuracy"]["low"] < results["validation"]["accuracy"]["value"] == 1.0
    assert results["test_looks"] == 1
    assert results["parameters"]["total"] == sum(row["parameters"] for row in results["layers"])
    assert results["epochs"] == 3
    assert set(results["seconds"]) == {"load", "frozen", "frozen_alone", "train", "epoch_mean", "evaluate", "total"}
    assert results["precision"] in {"fp32", "bf16"}
    assert results["calibration"]["temperature"]["value"] == 1.0 and results["calibration"]["test"]["images"] == 4
    assert results["calibration"]["temperature"]["mistakes"] == 0 and results["calibration"]["temperature"]["why"]
    assert results["selective"]["validation"]["images"] == 4
    assert results["test"]["per_group"] == {"rows": None, "why": "the images have no groups"}
    assert "auto" not in (trained / "recipe.yaml").read_text(), "what was resolved is written down"


def test_train_prints_json_and_nothing_else_with_json(terminal, photos, tmp_path):
    code, out, err = terminal(
        *("train", photos, "--recipe", "small-images", "--epochs", "1", "--set", "input.size_px=16"),
        *("--set", "stages.0.augment.crop_padding_px=2", "--output", tmp_path, "--precision", "fp32", "--json"),
    )
    assert code == 0
    assert json.loads(out)["epochs"] == 1
    assert "epoch" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "DATA"),
        (["train", "digits", "--resume", "x"], "no run 'x'"),
        (["train", "digits", "--set", "stages.0.augment.cutout_px=99"], "cutout"),
        (["train", "digits", "--model", "photo-cnn"], "input.size_px"),
        (["train", "no-such-thing"], "no-such-thing"),
        (["train", "digitz"], "digits"),
        (["train", "digits", "--recipe", "deep-cn"], "Did you mean deep-cnn"),
        (["train", "digits", "--model", "deep-cn"], "Did you mean deep-cnn"),
        (["train", "digits", "--set", "stages.0.lrr=1"], "Did you mean lr"),
        (["train", "digits", "--set", "epochs"], "KEY=VALUE"),
        (["train", "digits", "--device", "tpu"], "unknown device"),
        (["train", "digits", "--precision", "fp8"], "fp8"),
        (["train", "digits", "--epochs", "0"], "--epochs"),
        (["train", "digits", "--name", "a/b"], "plain folder name"),
        (["train", "digits", "--recipe", "photo-cnn.yaml"], "photo-cnn.yaml"),
        (["train", "--resume", "no-such-run"], "no-such-run"),
        (["train", "--resume", "no-such-run", "--epochs", "3"], "alone"),
        (["evaluate", "no-such-run"], "no-such-run"),
        (["predict", "no-such-run", "x.png"], "no-such-run"),
        (["recipes", "deep-cn"], "Did you mean deep-cnn"),
        (["trian", "digits"], "trian"),
        (["train", "digits", "--epoch", "3"], "--epoch"),
    ],
)
def test_wrong_input_is_one_clear_error(terminal, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = terminal(*arguments)
    assert code not in (0, None)
    assert says in err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.rglob("recipe.yaml")), "nothing is left behind"


def test_a_run_is_never_overwritten(terminal, trained, photos):
    code, _, err = terminal(
        "train",
        photos,
        "--output",
        trained.parent,
        "--name",
        "first",
        "--recipe",
        "small-images",
        "--set",
        "input.size_px=16",
    )
    assert code == 1
    assert "never overwritten" in err


def test_damaged_images_stop_the_training_or_are_counted(terminal, photos, tmp_path):
    broken = tmp_path / "broken"
    for path in photos.rglob("*.png"):
        target = broken / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[: 300 if path.stem == "3" else None])
    common = (
        "train",
        broken,
        "--recipe",
        "small-images",
        "--set",
        "input.size_px=16",
        "--epochs",
        "1",
        "--set",
        "stages.0.augment.crop_padding_px=2",
        "--precision",
        "fp32",
        "--output",
        tmp_path / "runs",
    )
    code, _, err = terminal(*common)
    assert code == 1
    assert "dark/3.png" in err
    assert "--skip-damaged" in err
    assert not (tmp_path / "runs").exists()
    code, out, _ = terminal(*common, "--skip-damaged", "--json")
    assert code == 0
    results = json.loads(out)
    assert results["damaged"] == 2
    assert sum(results["images"].values()) == 38


def test_evaluate_agrees_with_the_training_and_counts_each_look(terminal, trained):
    first = json.loads((trained / "results.json").read_text())
    code, out, _ = terminal("evaluate", trained, "--split", "val", "--json")
    assert code == 0
    assert json.loads(out)["log_loss"] == first["validation"]["log_loss"]
    looks = []
    for _ in range(2):
        _, out, _ = terminal("evaluate", trained, "--split", "test", "--json")
        looks.append(json.loads(out)["test_looks"])
    assert looks[1] == looks[0] + 1
    assert json.loads(out)["accuracy"] == first["test"]["accuracy"]


def test_evaluate_on_other_data_matches_classes_by_name(terminal, trained, photos, tmp_path):
    swapped = tmp_path / "other"
    for old, new in (("dark", "light"), ("light", "dark")):
        (swapped / new).mkdir(parents=True)
        for path in (photos / old).iterdir():
            (swapped / new / path.name).write_bytes(path.read_bytes())
    _, out, _ = terminal("evaluate", trained, "--data", swapped, "--json")
    assert json.loads(out)["accuracy"]["value"] == 0.0
    (swapped / "dark").rename(swapped / "pink")
    code, _, err = terminal("evaluate", trained, "--data", swapped)
    assert code == 1
    assert "pink" in err


def copied(source: Path, target: Path, keep=lambda path: True) -> Path:
    for path in filter(keep, sorted(source.rglob("*.png"))):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return target


def test_evaluate_keeps_the_runs_own_images_where_its_split_has_them(terminal, trained, photos, tmp_path):
    first = json.loads((trained / "results.json").read_text())
    _, out, _ = terminal("evaluate", trained, "--split", "test", "--json")
    looks = json.loads(out)["test_looks"]
    moved = copied(photos, tmp_path / "moved")
    for again, folder in enumerate((photos, moved), 1):
        _, out, err = terminal("evaluate", trained, "--split", "test", "--data", folder, "--json")
        block = json.loads(out)
        assert (block["images"], block["log_loss"]) == (4, first["test"]["log_loss"])
        assert block["test_looks"] == looks + again, "a look at the run's own test split"
        assert "warning" not in err
    _, _, err = terminal("evaluate", trained, "--data", moved)
    assert "40 of 40 images belong to the run" in " ".join(err.split())
    split = {row["path"]: row["split"] for row in csv.DictReader((trained / "split.csv").open())}
    learnt = copied(photos, tmp_path / "learnt", lambda path: split[path.relative_to(photos).as_posix()] == "train")
    for part in ("val", "test"):
        code, out, err = terminal("evaluate", trained, "--split", part, "--data", learnt)
        assert code == 1 and not out and f"no {part} images to evaluate. 32 of 32" in err
    tested = copied(photos / "dark", tmp_path / "tested" / "dark")
    _, out, err = terminal("evaluate", trained, "--split", "test", "--data", tested.parent, "--json")
    block = json.loads(out)
    assert block["images"] < 4 and block["test_looks"] == looks + 3, "a part of it is looked at, too"


def test_evaluate_leaves_the_runs_training_images_out_of_new_ones_and_says_so(terminal, trained, photos, tmp_path):
    mixed = copied(photos, tmp_path / "mixed")
    for name, level in (("dark", 50), ("light", 200), ("light", 210)):
        Image.new("RGB", (30, 24), (level, level, level)).save(mixed / name / f"new-{level}.png")
    for part in ("val", "test"):
        _, out, err = terminal("evaluate", trained, "--split", part, "--data", mixed, "--json", "--quiet")
        assert json.loads(out)["images"] == 4 + 3
        said = " ".join(err.split())
        assert "warning: 40 of 43 images belong to the run" in said
        assert "(train 32, val 4, test 4). Evaluated: 4 of those, and 3 other images." in said
    alone = copied(mixed, tmp_path / "alone", lambda path: path.name.startswith("new"))
    _, out, err = terminal("evaluate", trained, "--split", "test", "--data", alone, "--json")
    assert json.loads(out)["images"] == 3 and "own" not in err


def test_evaluate_prints_tables(terminal, trained):
    code, out, _ = terminal("evaluate", trained)
    assert code == 0
    assert all(word in out for word in ("accuracy", "macro F1", "precision", "Confusion matrix", "dark", "light"))


def test_predict_writes_labels_probabilities_and_a_histogram(terminal, trained, photos, tmp_path):
    target = tmp_path / "out.csv"
    code, out, _ = terminal("predict", trained, photos / "dark", str(photos / "light" / "1*.png"), "--to", target)
    assert code == 0
    rows = list(csv.DictReader(target.open(newline="")))
    assert len(rows) == 20 + 11
    assert set(rows[0]) == {"path", "label", "probability", "probability:dark", "probability:light"}
    assert float(rows[0]["probability:dark"]) + float(rows[0]["probability:light"]) == pytest.approx(1, abs=1e-5)
    assert {row["label"] for row in rows} == {"dark", "light"}
    assert "█" in out


def test_predict_writes_over_its_own_files_alone(terminal, trained, photos, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    monkeypatch.chdir(run)
    own = Path("predictions.csv")
    before = own.read_bytes()
    code, out, err = terminal("predict", run, photos / "dark")
    assert code == 1 and not out and "--to" in err and own.read_bytes() == before
    own.unlink()
    assert terminal("predict", run, photos / "dark")[0] == 1, "a run without predictions gets none of others"
    Path("notes.csv").write_text("path,label\na.png,dark\n")
    code, _, err = terminal("predict", run, photos / "dark", "--to", "notes.csv")
    assert code == 1 and "notes.csv" in err and Path("notes.csv").read_text().endswith("dark\n")
    for top in ("1", "2"):
        for _ in range(2):
            assert terminal("predict", run, photos / "dark", "--to", "mine.csv", "--top", top)[0] == 0


def test_predict_refuses_before_the_work_what_would_fail_after_it(terminal, trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.runs.predictor.Predictor.stream", None)
    target, here = tmp_path / "out.csv", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for folder in (tmp_path, here):  # an empty one takes Parquet files
        (folder / "notes.txt").write_text("mine")
    for asked in (
        ("--to", tmp_path),
        ("--to", "."),
        ("--to", tmp_path / "none" / "x.csv"),
        ("--to", target, "--top", "3"),
    ):
        code, out, err = terminal("predict", trained, photos, *asked)
        assert code == 1 and not out and f"error: {asked[-2]} {asked[-1]}" in err


def test_predict_writes_parquet_with_the_rows_of_the_csv(terminal, trained, photos, tmp_path):
    asked = ("--top", "2", "--threshold", "0.6", "--device", "cpu")
    assert terminal("predict", trained, photos, "--to", tmp_path / "out.csv", *asked)[0] == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    for to in ("out.parquet", "parts/"):
        target = f"{tmp_path}/{to}"
        code, out, _ = terminal("predict", trained, photos, "--to", target, *asked, "--json")
        found = json.loads(out)
        assert (code, found["images"], found["damaged"], found["threshold"]) == (0, 40, 0, 0.6)
        rows = pq.read_table(target).to_pylist()
        texts = ("path", "label", "label_2")
        assert [[row[name] for name in texts] for row in rows] == [[row[name] for name in texts] for row in expected]
        numbers = [name for name in expected[0] if name.startswith("probability")]
        for name in numbers:
            given = [float(row[name]) for row in expected]
            np.testing.assert_allclose([row[name] for row in rows], given, atol=1e-6)
        assert found["counts"] == {name: sum(row["label"] == name for row in expected) for name in found["counts"]}
    code, out, err = terminal("predict", trained, photos, "--to", tmp_path / "out.parquet", *asked)
    assert code == 0 and "complete already" in err and "40 images, 0 damaged" in out


def test_predict_writes_no_csv_of_tars(terminal, trained, tmp_path):
    code, out, err = terminal("predict", trained, tmp_path / "a.tar", "--to", tmp_path / "out.csv")
    assert code == 1 and not out and "a.tar" in err and "--to OUT.parquet" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--submission", "id,label"), ("--skip-damaged",), ("--top", "9")])
def test_predict_refuses_options_that_parquet_does_not_have(terminal, trained, photos, tmp_path, option):
    code, out, err = terminal("predict", trained, photos, "--to", tmp_path / "out.parquet", *option)
    assert code == 1 and not out and option[0] in err and not list(tmp_path.glob("out*"))


def test_memory_and_disk_that_run_out_are_one_clear_error(terminal, trained, photos, tmp_path, monkeypatch):
    def greedy(*args, **kwargs):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.1 GB).")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("loupe.models.classifier.Classifier.forward", greedy)
        code, out, err = terminal("predict", trained, photos, "--to", tmp_path / "out.csv")
        assert code == 1 and not out and "error: not enough memory (MPS backend" in err
    monkeypatch.setattr("loupe.runs.run.Run.evaluate", full)
    code, out, err = terminal("evaluate", trained)
    assert code == 1 and not out and "error: the disk: No space left on device. Free space" in err


def test_predict_below_the_threshold_is_unclassified(terminal, trained, photos, tmp_path):
    target = tmp_path / "out.csv"
    _, out, _ = terminal("predict", trained, photos, "--to", target, "--threshold", "1.0", "--top", "2", "--json")
    answer = json.loads(out)
    unsure = [image for image in answer["images"] if image["top"][0]["probability"] < 1.0]
    assert answer["counts"]["unclassified"] == len(unsure) > 20
    assert {image["label"] for image in unsure} == {"unclassified"}
    assert len(answer["images"][0]["top"]) == 2
    assert "label_2" in target.read_text().splitlines()[0]
    code, _, err = terminal("predict", trained, photos, "--to", target, "--top", "3")
    assert code == 1
    assert "2 classes" in err


def test_a_class_that_is_called_unclassified_is_not_mixed_up_with_images_below_the_threshold():
    from loupe.evaluate.predictions import Predictions
    from loupe.runs.classify import Tally, label

    logits = np.array([[0, 3], [3, 0], [0.1, 0]], np.float32)
    predictions = Predictions(("a", "b", "c"), ("a", "b", "c"), np.array([1, 0, 0]), logits, ("dark", "unclassified"))
    tally = Tally(predictions.classes)
    assert next(tally.through([label(predictions)])).label == ("unclassified", "dark", "dark")
    assert tally.counts() == {"dark": 2, "unclassified": 1}
    with pytest.raises(LoupeError, match="a class of this model has the name 'unclassified'"):
        label(predictions, threshold=0.6)


@pytest.mark.parametrize("items", [[], [{"a": 1}], [1, {"b": [1.5, "x\ny"]}]])
def test_a_long_list_is_printed_as_the_whole_would_be(capsys, items):
    print_long_json({"first": 0.5}, "items", iter(items), {"counts": {"é": 1}})
    printed = capsys.readouterr().out
    print_json({"first": 0.5, "items": items, "counts": {"é": 1}})
    assert printed == capsys.readouterr().out


@pytest.fixture
def calibrated(trained, tmp_path) -> Path:
    """A copy of the run with a temperature of 2, and validation predictions enough for a threshold."""
    from loupe.evaluate.predictions import Predictions

    run = tmp_path / "runs" / "calibrated"
    shutil.copytree(trained, run)
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps(config | {"temperature": 2.0}))
    random = np.random.default_rng(0)
    label = np.arange(400) % 2
    logits = (random.normal(scale=2, size=(400, 2)) + 4 * np.eye(2)[label]).astype(np.float32)
    names = tuple(map(str, range(400)))
    Predictions(names, names, label, logits, ("dark", "light")).write(run / "predictions.csv", "val")
    return run


def test_predict_gives_calibrated_probabilities_and_the_same_classes(terminal, trained, calibrated, photos, tmp_path):
    answers = []
    for run in (trained, calibrated):
        _, out, _ = terminal("predict", run, photos, "--to", tmp_path / "out.csv", "--json")
        answers.append(json.loads(out))
    assert [answer["temperature"] for answer in answers] == [1.0, 2.0]
    for before, after in zip(answers[0]["images"], answers[1]["images"], strict=True):
        (first,), (second,) = before["top"], after["top"]
        assert first["class"] == second["class"] == after["label"]
        odds = [p["probability"] / (1 - p["probability"]) for p in (first, second)]
        assert odds[1] == pytest.approx(odds[0] ** 0.5, rel=1e-4)
    _, _, err = terminal("predict", calibrated, photos, "--to", tmp_path / "out.csv")
    assert err.count("calibrated by temperature 2") == 1
    _, out, _ = terminal("evaluate", calibrated, "--json")
    assert json.loads(out)["calibrated"]["temperature"] == 2.0
    _, out, _ = terminal("evaluate", calibrated)
    assert "Calibrated by temperature 2.000" in out


def test_predict_leaves_as_many_unclassified_as_a_wanted_precision_needs(terminal, calibrated, photos, tmp_path):
    from loupe.evaluate import selective
    from loupe.evaluate.predictions import Predictions

    to = ("--to", tmp_path / "out.csv")
    code, out, _ = terminal("predict", calibrated, photos, *to, "--wanted-precision", "0.95", "--json")
    assert code == 0
    answer = json.loads(out)
    validation = Predictions.read(calibrated / "predictions.csv", "val")
    assert answer["threshold"] == selective.threshold_for(validation, 0.95, 2.0).value > 0.5
    for image in answer["images"]:
        sure = image["top"][0]["probability"] >= answer["threshold"]
        assert image["label"] == (image["top"][0]["class"] if sure else "unclassified")
    _, _, err = terminal("predict", calibrated, photos, *to, "--wanted-precision", "0.95")
    assert "precision of at least 0.95 with 95% confidence" in err
    code, _, err = terminal("predict", calibrated, photos, *to, "--wanted-precision", "0.999")
    highest = selective.highest_precision(validation, 2.0)
    assert code == 1 and f"at most {highest:g}" in err
    code, _, err = terminal("predict", calibrated, photos, *to, "--wanted-precision", "0.9", "--threshold", "0.5")
    assert code == 1 and "Give one of them" in err
    (calibrated / "predictions.csv").unlink()
    code, _, err = terminal("predict", calibrated, photos, *to, "--wanted-precision", "0.9")
    assert code == 1 and "no predictions of validation images" in err


def test_a_run_from_before_calibration_predicts_as_it_did(terminal, trained, photos, tmp_path):
    old = tmp_path / "runs" / "old"
    shutil.copytree(trained, old)
    config = json.loads((old / "model" / "config.json").read_text())
    del config["temperature"]
    (old / "model" / "config.json").write_text(json.dumps(config))
    results = json.loads((old / "results.json").read_text())
    for name in ("calibration", "selective"):
        del results[name]
    (old / "results.json").write_text(json.dumps(results))
    for arguments in (
        ("predict", old, photos, "--to", tmp_path / "out.csv"),
        ("evaluate", old),
        ("train", "--resume", old),
    ):
        code, out, err = terminal(*arguments)
        assert code == 0 and "alibrated" not in out + err


def test_runs_lists_results_and_unfinished_runs(terminal, trained, tmp_path):
    code, out, _ = terminal("runs", "--output", trained.parent)
    assert code == 0
    assert "first" in out
    code, out, _ = terminal("runs", "--output", tmp_path)
    assert code == 0
    assert "loupe train" in out


def test_recipes_can_be_listed_and_shown(terminal, tmp_path):
    lines = [line.strip() for line in terminal("recipes")[1].splitlines()]
    starts = [line.split()[0] for line in lines if line]
    assert [name for name in dict.fromkeys(starts) if name in RECIPES] == list(RECIPES)
    for title, group in GROUPS.items():  # under a heading of its own: the names of the columns, then the first recipe
        assert lines[lines.index(title) + 2].split()[0] == next(iter(group))
    _, out, _ = terminal("recipes", "deep-cnn", "--json")
    assert json.loads(out)["stages"][0]["l2"] == 1e-4
    _, out, _ = terminal("recipes", "deep-cnn")
    (tmp_path / "mine.yaml").write_text(out)
    from loupe.config import overrides as settings

    assert settings.load(tmp_path / "mine.yaml").name == "deep-cnn"


def test_check_finds_leakage_and_says_so_by_its_exit_code(terminal, photos, tmp_path):
    assert terminal("check", photos)[0] == 0
    leaky = tmp_path / "leaky"
    for split, numbers in (("train", range(8)), ("test", range(7, 12))):
        for name in ("dark", "light"):
            (leaky / split / name).mkdir(parents=True)
            for number in numbers:
                data = (photos / name / f"{number}.png").read_bytes()
                (leaky / split / name / f"{number}.png").write_bytes(data)
    code, out, _ = terminal("check", leaky, "--json")
    assert code == 1
    assert "7.png" in out


def test_the_histogram_shows_at_most_thirty_classes_and_only_those_that_occur(capsys):
    counts = {f"c{number}": 0 for number in range(1000)} | {f"c{number}": number for number in range(1, 7)}
    print_histogram(counts, Path("predictions.csv"))
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows[1:-1]] == [[f"c{number}", str(number)] for number in range(1, 7)]
    print_histogram({f"c{number}": 1 + number % 50 for number in range(1000)}, Path("predictions.csv"))
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 33 and rows[-2] == "and 970 more classes"
    assert all(int(row.split()[1]) >= 49 for row in rows[1:-2])


@pytest.mark.slow
def test_where_nothing_was_held_out_the_table_is_that_of_training(terminal, photos, tmp_path):
    none = ["--set", "split.validation=0", "--set", "split.test=0"]
    small = ["--recipe", "small-images", "--epochs", "1", "--set", "input.size_px=16", "--output", str(tmp_path)]
    code, out, _ = terminal("train", photos, *small, *none, "--name", "all")
    assert code == 0
    with (tmp_path / "all" / "metrics.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    lines = [line.split() for line in out.splitlines()]
    assert ["training"] in lines and ["images", "40"] in lines
    assert ["accuracy", f"{float(row['train_accuracy']):.4f}"] in lines
    assert "held out" in out and "validation  " not in out
    [cells] = [line.split() for line in terminal("runs", "--output", str(tmp_path))[1].splitlines() if "all" in line]
    assert cells[:4] == ["all", "–", "–", "–"]
    for setting, split in (("split.test=0", "validation"), ("split.validation=0", "test")):
        code, out, _ = terminal("train", photos, *small, "--set", setting, "--name", split)
        assert code == 0 and out.split()[0] == split and "held out" not in out


@pytest.mark.slow
def test_a_solved_head_is_said_in_strengths(terminal, photos, tmp_path):
    head = ["--recipe", "features", "--model", "test_resnet", "--weights", "none", "--output", str(tmp_path)]
    size = ["--set", "input.size_px=32", "--set", "input.load_px=32"]
    code, out, err = terminal("train", photos, *head, *size, "--name", "head")
    assert code == 0
    results = json.loads((tmp_path / "head" / "results.json").read_text())
    [stage] = results["stages"]
    assert results["epochs"] == stage["strengths"] and stage.get("epochs") is None
    assert results["images_per_second"] is None and results["seconds"]["epoch_mean"] is None
    assert "epoch" not in out.replace("has no epochs", "") and "epoch" not in err
    assert f"head solved for {stage['strengths']} L2 strengths" in out
    with (tmp_path / "head" / "metrics.csv").open(newline="") as file:
        strengths = [float(row["l2_strength"]) for row in csv.DictReader(file)]
    assert strengths == sorted(strengths, reverse=True) and strengths[0] == 1e4
    assert stage["l2_strength"] == strengths[results["best_epoch"] - 1]
    table = terminal("runs", "--output", str(tmp_path))[1]
    assert f" {stage['strengths']} L2 " in table and "L2: strengths" in table
    recipes = terminal("recipes")[1]
    assert " L2 + 8 " in recipes and " L2  " in recipes
