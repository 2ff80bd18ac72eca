"""Distillation: runs that learn the probabilities of a trained run beside the labels."""

import json
import shutil
import sys

import numpy as np
import pytest
import safetensors.torch
from scipy.special import softmax
from sklearn.datasets import load_digits

import loupe
from builders import without_slow_parts
from loupe.cli import main
from loupe.errors import ConfigError, InterruptedRunError, RunStateError
from loupe.provenance import environment_of
from loupe.report import texts
from loupe.runs.blend import blend
from loupe.runs.parents import trained_on
from loupe.runs.session import Session
from loupe.runs.teacher import teaching
from loupe.training.loop import Trainer

SMALL = {"split.validation": 0.3, "split.seed": 0, "precision": "fp32"}
OPTIONS = {"open_test": False, "quiet": True, "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of runs with two members, their blend, and a student of the blend."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.setenv("LOUPE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        one = loupe.train("digits", recipe="digits", name="one", settings=SMALL, **OPTIONS)
        two = loupe.train("digits", recipe="digits", name="two", settings={**SMALL, "seed": 1}, **OPTIONS)
        blend([one, two], (1, 1), output="runs", name="both")
        student("student", teacher="both")
        yield folder / "runs"


def student(name: str, *, recipe: str = "digits-plain", settings=(), **options) -> loupe.Run:
    return loupe.train("digits", recipe=recipe, name=name, settings={**SMALL, **dict(settings)}, **OPTIONS | options)


def test_the_probabilities_are_the_calibrated_ones_of_the_teacher(runs):
    run, both = loupe.load(runs / "student"), loupe.load(runs / "both")
    images, split = run.own_images()
    taught = teaching(run.recipe, images, split)
    assert taught.share == 0.5
    expected = both.predictions_of("train")
    row_of = {content: row for row, content in enumerate(images.content)}
    rows_N = [row_of[content] for content in expected.content]
    np.testing.assert_allclose(
        taught.probability_NK[rows_N], softmax(expected.logits_NK / both.temperature, axis=1), atol=1e-5
    )
    assert not taught.probability_NK[split.test].any()


def test_a_student_is_recorded_and_set_beside_its_teacher(runs):
    run = loupe.load(runs / "student")
    record = environment_of(run.directory).teacher
    assert (record.name, record.share, record.seen_validation, record.seen_test) == ("both", 0.5, 0, 0)
    verdict = run.results.distilled
    gain = run.results.validation.accuracy.value - loupe.load(runs / "both").results.validation.accuracy.value
    assert verdict.difference.value == pytest.approx(gain)
    assert verdict.difference.best == "both" and verdict.text in texts.started(run.results)
    assert verdict.predict_seconds > 0


@pytest.mark.slow
def test_the_whole_share_learns_a_teacher_that_knows_other_labels(runs, tmp_path):
    """With labels exchanged by chance, and a share of 1, a student knows what its teacher knows."""
    x, y = load_digits().images, load_digits().target
    pixels = np.repeat((x * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    teacher = loupe.train((pixels, y), recipe="digits", output=tmp_path, name="t", settings=SMALL, **OPTIONS)
    wrong = np.where(np.random.default_rng(0).random(len(y)) < 0.5, (y + 1) % 10, y)
    accuracies = {}
    for share in (None, 1.0):
        more = {} if share is None else {"teacher": str(teacher.path), "teacher_share": share}
        run = loupe.train(
            (pixels, wrong), recipe="digits", output=tmp_path, settings={**SMALL, **more}, **OPTIONS | {"epochs": 3}
        )
        predicted = run.predict_proba([*pixels]).argmax(axis=1)
        accuracies[share] = (predicted == y).mean()
    assert accuracies[1.0] > accuracies[None] + 0.1


@pytest.mark.slow
def test_a_stopped_student_goes_on_to_the_same_weights(runs, monkeypatch):
    epoch = Trainer.train_epoch
    calls = []

    def stopping(self, train_step, loader):
        calls.append(1)
        return epoch(self, train_step, loader) if len(calls) < 2 else False

    monkeypatch.setattr(Trainer, "train_epoch", stopping)
    with pytest.raises(InterruptedRunError):
        student("stopped", teacher="both", epochs=2)
    monkeypatch.setattr(Trainer, "train_epoch", epoch)
    resumed, whole = loupe.resume("stopped", open_test=False, quiet=True), student("whole", teacher="both", epochs=2)
    one, other = (safetensors.torch.load_file(run.directory.model / "weights.safetensors") for run in (resumed, whole))
    assert all(np.array_equal(one[key], other[key]) for key in other)
    assert resumed.results.distilled is not None


def test_a_teacher_that_has_changed_is_refused(runs, monkeypatch):
    shutil.copytree(runs / "one", runs / "copy")
    monkeypatch.setattr(Session, "run", lambda self: (_ for _ in ()).throw(InterruptedRunError("stopped", None)))
    with pytest.raises(InterruptedRunError):
        student("begun", teacher="copy")
    monkeypatch.undo()
    shutil.copy(runs / "two" / "model" / "weights.safetensors", runs / "copy" / "model" / "weights.safetensors")
    with pytest.raises(RunStateError, match="other weights than when"):
        loupe.resume(runs / "begun", quiet=True)
    shutil.rmtree(runs / "copy")
    with pytest.raises(RunStateError, match=r"cannot be read.*Restore it"):
        loupe.resume(runs / "begun", quiet=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": "nobody"}, RunStateError, "unknown run 'nobody'"),
        ({"teacher": "begun-only"}, RunStateError, "is not finished. Resume it"),
        ({"teacher": "one", "recipe": "features", "model": "test_efficientnet", "weights": "none"}, ConfigError,
         "only solves a head"),
        ({"teacher": "of-letters"}, ConfigError, "other classes than these images: "),
        ({"teacher": "one", "settings": {"teacher_share": 0}}, ConfigError, "teacher_share"),
        ({"settings": {"teacher_share": 0.9}}, ConfigError, "Give --teacher RUN too"),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_refused_and_leaves_nothing(runs, options, error, message):
    if not (runs / "of-letters").is_dir():
        shutil.copytree(runs / "one", runs / "begun-only")
        (runs / "begun-only" / "results.json").unlink()
        x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
        loupe.train((x, np.repeat(["a", "b"], 30)), recipe="digits", name="of-letters", settings=SMALL, **OPTIONS)
    before = sorted(folder.name for folder in runs.iterdir())
    with pytest.raises(error, match=message):
        student("refused", **options)
    assert sorted(folder.name for folder in runs.iterdir()) == before


def test_images_that_the_teacher_was_trained_on_are_told(runs, capsys):
    run = student("other-split", teacher="both", settings={"split.seed": 5}, quiet=False)
    assert "are training images of the teacher both: validation figures are too high" in capsys.readouterr().err
    record = environment_of(run.directory).teacher
    assert record.seen_validation > 0 and record.seen_test > 0
    assert f"trained on {record.seen_validation:,} of these images" in texts.started(run.results)


def test_a_teacher_of_the_same_name_is_named_without_its_folder(runs, tmp_path):
    run = student("one", teacher=str(runs / "one"), output=tmp_path)
    assert run.results.distilled.difference.best == "the teacher one"
    assert str(runs) not in run.directory.file("results.json").read_text()


def test_a_relative_folder_is_recorded_as_an_absolute_one(runs):
    run = student("relative", settings={"teacher": "runs/one"})
    assert run.recipe.teacher == environment_of(run.directory).teacher.path == str(runs / "one")


@pytest.mark.slow
def test_two_runs_that_lead_to_each_other_have_an_end(runs):
    first, second = (student(name, teacher="one") for name in ("first", "second"))
    for run, other in ((first, second), (second, first)):
        file = run.path / "environment.json"
        record = json.loads(file.read_text())
        record["teacher"]["path"] = str(other.path)
        file.write_text(json.dumps(record))
    hashes, is_whole = trained_on(first.path)
    assert len(hashes) > 1000 and not is_whole


def test_a_search_for_settings_refuses_what_cannot_teach_before_it_begins(runs, tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match="other classes"):
        loupe.tune(
            (np.zeros((60, 8, 8, 3), np.uint8), np.repeat(["a", "b"], 30)),
            recipe="digits-plain",
            search=["stages.0.lr=0.001,0.002"],
            settings=[f"teacher={runs / 'one'}"],
            output=tmp_path,
            quiet=True,
        )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def command(monkeypatch):
    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["loupe", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        return end.value.code

    return call


def test_the_command_takes_a_name_and_refuses_it_where_it_means_nothing(runs, command, capsys):
    words = ["train", "digits", "--recipe", "digits-plain", "--epochs", "1", "--set", "split.seed=0"]
    assert command(*words, "--teacher", "one", "--name", "by-command", "--json") == 0
    assert json.loads(capsys.readouterr().out)["distilled"]["difference"]["best"] == "one"
    assert command("train", "--resume", "by-command", "--teacher", "one") == 1
    assert "--resume continues a run with its own recipe" in capsys.readouterr().err
    assert command("train", "digits", "--time-limit", "60s", "--teacher", "one") == 1
    assert "--teacher" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_notices_a_teacher_that_was_trained_anew(runs):
    shutil.copytree(runs / "one", runs / "again")
    values = {**SMALL, "teacher": str(runs / "again"), "stages.0.epochs": 1}
    settings = [f"{key}={value}" for key, value in values.items()]
    options = {"recipes": ["digits-plain", "digits"], "settings": settings, "output": runs / "compared", "quiet": True}
    loupe.compare("digits", **options, device="cpu", name="first")
    shutil.copy(runs / "two" / "model" / "weights.safetensors", runs / "again" / "model" / "weights.safetensors")
    with pytest.raises(RunStateError, match="other weights than when"):
        loupe.compare("digits", **options, device="cpu", name="second")
