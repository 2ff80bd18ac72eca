"""Lists of images on the command line: trained on, evaluated, repeated, predicted, and written as a submission."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loupe
from child_processes import Killed
from loupe.cli import main
from loupe.comparison.sweep import cross_validate
from loupe.errors import ConfigError, DataError
from loupe.labels.find import LabelOptions, check_labels
from loupe.provenance import environment_of
from loupe.recipes import catalog
from loupe.rundir import RunDirectory
from loupe.runs.session import Session

SETTINGS = ["input.size_px=16", "stages.0.batch_size=8", "stages.0.augment.crop_padding_px=2", "stages.0.lr=1e-3"]
COLUMNS = "path=image_id,label=diagnosis,group=patient_id"


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Runs one command; returns exit code, standard output, standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """40 images of 20 patients in a folder of their own, and a list with a column for each role, under other names."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    rows = ["image_id;diagnosis;patient_id;age"]
    for k in range(40):
        level = (60, 190)[k % 2]
        pixels = rng.integers(level - 40, level + 40, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "scans" / f"s{k}.png")
        rows.append(f"s{k};{('dark', 'light')[k % 2]};p{k // 4 * 2 + k % 2};{k}")
    (folder / "study.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(study, tmp_path_factory) -> Path:
    return loupe.train(
        study / "study.csv",
        columns=COLUMNS,
        images=study / "scans",
        recipe="small-images",
        epochs=2,
        settings=SETTINGS,
        output=tmp_path_factory.mktemp("runs"),
        device="cpu",
        quiet=True,
    ).path


@pytest.mark.slow
def test_a_run_records_the_columns_and_reads_its_list_again(terminal, study, trained):
    environment = environment_of(RunDirectory(trained))
    assert environment.columns == {"path": "image_id", "label": "diagnosis", "group": "patient_id"}
    assert environment.image_folder == str(study / "scans")
    split = {row["path"]: row["split"] for row in csv.DictReader((trained / "split.csv").open())}
    patients = {f"s{k}.png": k // 4 * 2 + k % 2 for k in range(40)}
    parts = {patient: {split[path] for path in split if patients[path] == patient} for patient in patients.values()}
    assert len(split) == 40 and all(len(part) == 1 for part in parts.values())
    code, out, _ = terminal("evaluate", trained, "--json")
    assert code == 0 and json.loads(out)["images"] == sum(part == "val" for part in split.values())
    page = (trained / "report.html").read_text()
    assert "--columns" in page and "--images" in page and "column of the group" in page


@pytest.mark.slow
def test_a_run_on_a_list_is_repeated_and_evaluated_on_other_lists(terminal, study, trained, tmp_path):
    again = ("train", "--against", trained, "--output", tmp_path, "--quiet", "--json")
    code, out, _ = terminal(*again)
    assert code == 0 and json.loads(out)["against"]["same"]
    shutil.copytree(study / "scans", tmp_path / "moved")
    shutil.copy(study / "study.csv", tmp_path / "moved" / "study.csv")
    code, out, err = terminal("evaluate", trained, "--data", tmp_path / "moved" / "study.csv", "--json")
    assert code == 0, err
    code, _, err = terminal("evaluate", trained, "--columns", "path=x")
    assert code == 1 and "--data" in err


def test_commands_take_the_columns(terminal, study, tmp_path):
    options = ("--columns", COLUMNS, "--images", study / "scans")
    code, _, err = terminal("check", study / "study.csv", *options)
    assert code == 0, err
    assert "Columns not used: age." in err.replace("\n", " ")
    code, _, err = terminal("check", study / "study.csv")
    assert code == 1 and "--columns label=diagnosis" in err
    code, _, err = terminal("check", study / "study.csv", "--columns", "label=diagnosis")
    assert code == 1 and "--images" in err and "scans" in err


def test_predict_keeps_order_and_identifiers_of_a_list(terminal, study, trained, tmp_path):
    wanted = [f"s{k}" for k in (7, 30, 2, 7)]
    (tmp_path / "sample.csv").write_text("image_id,label\n" + "".join(f"{name},0\n" for name in wanted))
    target = tmp_path / "out.csv"
    command = ("predict", trained, tmp_path / "sample.csv", "--images", study / "scans")
    for _ in range(2):
        code, out, err = terminal(*command, "--to", target, "--json")
        assert code == 0, err
    rows = list(csv.DictReader(target.open(newline="")))
    assert list(rows[0])[:3] == ["image_id", "path", "label"]
    assert [row["image_id"] for row in rows] == wanted
    assert [image["id"] for image in json.loads(out)["images"]] == wanted
    assert rows[0]["label"] == rows[3]["label"]
    said = loupe.load(trained).predict(tmp_path / "sample.csv", columns="path=image_id", folder=study / "scans")
    assert said == [row["label"] for row in rows]
    code, _, err = terminal("predict", trained, tmp_path / "sample.csv", study / "scans", "--to", target)
    assert code == 1 and "give it alone" in err


@pytest.mark.parametrize(
    ("form", "header"),
    [
        ("id,label", ["id", "label"]),
        ("id,*", ["id", "dark", "light"]),
        ("id,light", ["id", "light"]),
        ("id,label=light", ["id", "label"]),
    ],
)
def test_submissions(terminal, study, trained, tmp_path, monkeypatch, form, header):
    monkeypatch.chdir(tmp_path)
    Path("sample.csv").write_text("id,label\ns3,0\ns2,0\n")
    command = ("predict", trained, "sample.csv", "--images", study / "scans", "--submission", form)
    for _ in range(2):
        code, _, err = terminal(*command)
        assert code == 0, err
    rows = list(csv.reader(Path("submission.csv").read_text().splitlines()))
    assert rows[0] == header and [row[0] for row in rows[1:]] == ["s3", "s2"]
    model = loupe.load(trained)
    paths = [study / "scans" / "s3.png", study / "scans" / "s2.png"]
    if form == "id,label":
        assert [row[1] for row in rows[1:]] == model.predict(paths)
    else:
        probability = model.predict_proba(paths)
        column = probability[:, [model.classes.index("light")]] if len(header) == 2 else probability
        assert np.array([row[1:] for row in rows[1:]], float) == pytest.approx(column, abs=1e-6)


def test_a_submission_of_a_folder_has_the_names_of_the_files(terminal, study, trained, tmp_path):
    for form, first in (("id,label", "s0"), ("image_id,label", "s0"), ("file_name,label", "s0.png")):
        target = tmp_path / f"{first}-{form[:2]}.csv"
        code, _, err = terminal("predict", trained, study / "scans", "--submission", form, "--to", target)
        assert code == 0, err
        assert list(csv.reader(target.open(newline="")))[1][0] == first


def test_a_submission_has_the_identifiers_of_the_list_unchanged(terminal, study, tmp_path, monkeypatch):
    """A competition compares them; names of classes may come from strangers, and a spreadsheet runs none of them."""
    rows = [f"s{k}.png,{('=dark', '-1')[k % 2]}" for k in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    run = loupe.train(
        tmp_path / "list.csv",
        images=study / "scans",
        recipe="small-images",
        epochs=1,
        settings=SETTINGS,
        output=tmp_path / "runs",
        device="cpu",
        quiet=True,
    )
    monkeypatch.chdir(tmp_path)
    wanted = ["-a1", "=b", "@c", "+d", "-5", "0012", "'e"]
    text = "".join(f"{name},s{k}.png\n" for k, name in enumerate(wanted))
    Path("sample.csv").write_text(f"id,path\n{text}")
    code, _, err = terminal("predict", run.path, "sample.csv", "--images", study / "scans", "--submission", "id,label")
    assert code == 0, err
    written = list(csv.reader(Path("submission.csv").read_text().splitlines()))[1:]
    assert [row[0] for row in written] == wanted
    assert {row[1] for row in written} <= {"'=dark", "-1"}
    said = loupe.load(run.path).predict("sample.csv", folder=study / "scans")
    assert [row[1].removeprefix("'") for row in written] == said


def test_a_run_on_a_list_is_resumed_where_its_images_were_moved(study, tmp_path, monkeypatch):
    shutil.copytree(study, tmp_path / "study")

    def killed(session: Session) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", killed)
        with pytest.raises(Killed):
            loupe.train(
                tmp_path / "study" / "study.csv",
                columns=COLUMNS,
                images=tmp_path / "study" / "scans",
                recipe="small-images",
                epochs=1,
                settings=SETTINGS,
                output=tmp_path,
                name="run",
                device="cpu",
                quiet=True,
            )
    (tmp_path / "study" / "scans").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"--images .*scans: no such folder"):
        loupe.resume(tmp_path / "run", quiet=True)
    run = loupe.resume(tmp_path / "run", images=tmp_path / "moved", quiet=True)
    assert run.results.images.val == 4
    split = [row["path"] for row in csv.DictReader((tmp_path / "run" / "split.csv").open())]
    assert sorted(split) == sorted(f"s{k}.png" for k in range(40))


@pytest.mark.slow
def test_comparisons_folds_and_label_checks_take_the_columns(study, tmp_path):
    """Groups by the column of patients: each in one fold, and in one split."""
    given = {"columns": COLUMNS, "images": study / "scans", "device": "cpu", "quiet": True}
    data, patient = study / "study.csv", {f"s{k}.png": k // 4 * 2 + k % 2 for k in range(40)}
    one = catalog.recipe("small-images").model_copy(update={"name": "one"})
    one = one.model_copy(update={"stages": tuple(stage.model_copy(update={"epochs": 1}) for stage in one.stages)})
    folds = cross_validate(data, recipe=one, folds=2, settings=SETTINGS, output=tmp_path, **given)
    for run in folds.runs:
        rows = list(csv.DictReader((run.path / "split.csv").open()))
        of_split = {
            split: {patient[row["path"]] for row in rows if row["split"] == split} for split in ("train", "val", "test")
        }
        assert sum(map(len, of_split.values())) == len(set().union(*of_split.values())) == 18, run.path
        assert environment_of(RunDirectory(run.path)).columns["group"] == "patient_id"
    small = LabelOptions(model="test_resnet", weights="none", size_px=32, number_of_folds=3)
    report = check_labels(data, small, **given)
    assert len(report.table) == 40 and report.table.classes == ("dark", "light")
    with pytest.raises(DataError, match="diagnosis"):
        check_labels(data, small, images=study / "scans", quiet=True)
    with pytest.raises(DataError, match="diagnosis"):
        cross_validate(data, recipe=one, images=study / "scans", output=tmp_path, quiet=True)
    with pytest.raises(DataError, match="diagnosis"):
        loupe.compare(data, images=study / "scans", output=tmp_path, quiet=True)
    names = ["small-images-plain", "small-images"]
    compared = loupe.compare(
        data, recipes=names, settings=[*SETTINGS[:2], "stages.0.epochs=1"], output=tmp_path / "compared", **given
    )
    assert sorted(row.name for row in compared.rows) == sorted(names) and all(row.measured for row in compared.rows)


def test_submissions_that_are_refused_before_the_work(terminal, study, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("loupe.runs.predictor.Predictor.stream", None)
    monkeypatch.chdir(tmp_path)
    Path("sample.csv").write_text("id,label\ns3,0\n")
    Path("other.csv").write_text("x,y\n")
    for options, message in (
        (("--submission", "id"), "two or more"),
        (("--submission", "id,dark,lihgt"), "lihgt"),
        (("--submission", "id,p=cat"), "cat"),
        (("--submission", "id,label", "--to", "sample.csv"), "list of the images"),
        (("--submission", "id,label", "--to", "other.csv"), "other columns"),
        (("--submission", "id,label", "--top", "2"), "--top"),
    ):
        code, out, err = terminal("predict", trained, "sample.csv", "--images", study / "scans", *options)
        assert code == 1 and not out and message in err, options


def test_options_of_lists_without_a_list_are_refused(study):
    with pytest.raises(ConfigError, match="has no columns"):
        loupe.train("digits", columns="path=x", quiet=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_if_asked_for_and_as_recorded(terminal, study, tmp_path):
    linked = tmp_path / "linked"
    for number, name in enumerate(("dark", "light")):
        (linked / name).mkdir(parents=True)
        for k in range(number, 40, 2):
            (linked / name / f"s{k}.png").symlink_to(study / "scans" / f"s{k}.png")
    for command in ("check", "train"):
        code, _, err = terminal(command, linked)
        assert code == 1 and "--follow-links" in err, command
    output, settings = tmp_path / "runs", [word for setting in SETTINGS for word in ("--set", setting)]
    recipe = ["--recipe", "small-images", "--epochs", "1", *settings, "--device", "cpu", "--output", output, "--quiet"]
    code, *_ = terminal("train", linked, "--follow-links", "--name", "run", *recipe)
    assert code == 0
    assert environment_of(RunDirectory(output / "run")).follow_links is True
    assert "--follow-links" in (output / "run/report.html").read_text()
    code, out, _ = terminal("evaluate", output / "run", "--json")
    assert code == 0 and json.loads(out)["images"] == 4
    code, *_ = terminal("train", "--against", output / "run", "--name", "again", "--output", output, "--quiet")
    assert code == 0, "every figure is the same"
    assert environment_of(RunDirectory(output / "again")).follow_links is True
    code, _, err = terminal("evaluate", output / "run", "--data", linked, "--split", "val")
    assert code == 1 and "--follow-links" in err, "other data is not trusted because that of the run was"
    code, *_ = terminal("evaluate", output / "run", "--data", linked, "--follow-links", "--quiet")
    assert code == 0
    to = ["--to", tmp_path / "answers.csv", "--quiet"]
    code, _, err = terminal("predict", output / "run", linked, *to)
    assert code == 1 and "--follow-links" in err
    assert terminal("predict", output / "run", linked, "--follow-links", *to)[0] == 0
    assert terminal("predict", output / "run", linked / "dark/s0.png", *to)[0] == 0, "a file that is named"
    page = ["--to", tmp_path / "page.html", "--quiet"]
    code, _, err = terminal("explain", output / "run", linked / "dark", *page)
    assert code == 1 and "--follow-links" in err
    assert terminal("explain", output / "run", linked / "dark/s0.png", *page)[0] == 0
    assert terminal("explain", output / "run", linked / "dark", "--follow-links", *page)[0] == 0
    with pytest.raises(DataError, match="--follow-links"):
        loupe.load(output / "run").predict(linked)
    assert len(loupe.load(output / "run").predict(linked, follow_links=True)) == 40
