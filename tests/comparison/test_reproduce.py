"""Published beside measured: one table from many runs, each of them trained once."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from loupe.comparison import reproduce as module
from loupe.comparison.reproduce import reproduce
from loupe.comparison.trainings import InTurn
from loupe.errors import InterruptedRunError, LoupeError
from loupe.evaluate.metrics import wilson
from loupe.recipes.published.experiments import EXPERIMENTS
from loupe.runs import train as runner

pytestmark = pytest.mark.usefixtures("bare")
DEBUG = ["stages.0.epochs=1", "split.validation=0.2", "split.choose=stratified", "precision=fp32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a `cifar10` of handwritten digits as 32 px images, 20 for training and 5 for testing of each."""
    root = tmp_path_factory.mktemp("data")
    bunch = load_digits()
    for label in range(10):
        for number, pixels in enumerate(bunch.images[bunch.target == label][:25]):
            place = root / "cifar10" / ("train" if number < 20 else "test") / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 15.9375).astype(np.uint8)).resize((32, 32))
            image.save(place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """Two experiments, two seeds each, and the folder that they are in."""
    output = tmp_path_factory.mktemp("runs")
    content = reproduce(
        ["simple-cnn", "lecture-cnn"], data=folder, seeds=2, changes=DEBUG, output=output, device="cpu", quiet=True
    )
    return content, output


def stored(output: Path, run: str) -> dict:
    return json.loads((output / run / "results.json").read_text())


def test_a_row_is_the_mean_over_the_seeds_and_their_spread(done):
    content, output = done
    for row in content.rows:
        measured, results = row.measured, [stored(output, run) for run in row.measured.runs]
        assert [result["seed"] for result in results] == list(measured.seeds) == [0, 1]
        values = [result["test"]["accuracy"]["value"] for result in results]
        accuracy = measured.accuracy
        assert accuracy.value == pytest.approx(statistics.fmean(values))
        assert (accuracy.lowest, accuracy.highest) == (min(values), max(values))
        assert (accuracy.low, accuracy.high) == wilson(round(statistics.fmean(values) * 50), 50)
        losses = [result["test"]["log_loss"]["value"] for result in results]
        assert measured.log_loss.value == pytest.approx(statistics.fmean(losses))
        assert row.verdict == ("reached" if accuracy.value >= row.published.accuracy else "missed")
        assert row.published == EXPERIMENTS[row.name]


def test_every_look_at_the_test_set_is_counted(done):
    content, _ = done
    assert [row.measured.test_looks for row in content.rows] == [4, 4]


def test_json_csv_and_markdown_say_the_same(done):
    content, output = done
    assert json.loads((output / "experiments-quick.json").read_text()) == content.to_json()
    markdown = (output / "experiments-quick.md").read_text()
    with (output / "experiments-quick.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, flat in zip(content.rows, rows, strict=True):
        measured = row.measured
        assert float(flat["accuracy_value"]) == measured.accuracy.value
        assert float(flat["published_accuracy"]) == row.published.accuracy
        assert int(flat["parameters"]) == measured.parameters.total
        assert flat["settings"] == measured.settings
        assert f"**{100 * measured.accuracy.value:.1f}\xa0%**" in markdown
        assert measured.settings in markdown
    assert "loupe reproduce simple-cnn lecture-cnn --budget quick --seeds 2" in markdown
    assert "--set stages.0.epochs=1" in markdown, "what was changed is in the command that repeats the table"
    assert (output / "experiments-quick.html").is_file()


def test_results_carry_the_published_figures(done):
    content, output = done
    result = stored(output, content.rows[0].measured.runs[0])
    assert result["published"] == json.loads(json.dumps(EXPERIMENTS["simple-cnn"].to_json()))


def test_the_same_call_again_trains_nothing(done, folder, monkeypatch):
    content, output = done

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(runner, "train", refuse)
    monkeypatch.setattr(runner, "resume", refuse)
    again = reproduce(
        ["simple-cnn", "lecture-cnn"], data=folder, seeds=2, changes=DEBUG, output=output, device="cpu", quiet=True
    )
    assert again.rows == content.rows


def test_a_run_of_another_recipe_is_not_taken_for_this_one(done, folder):
    _, output = done
    before = (output / "simple-cnn-quick-seed0" / "results.json").read_bytes()
    with pytest.raises(LoupeError, match=r"another recipe \(stages\.0\.lr\)"):
        reproduce(["simple-cnn"], data=folder, changes=[*DEBUG, "stages.0.lr=0.5"], output=output, quiet=True)
    assert (output / "simple-cnn-quick-seed0" / "results.json").read_bytes() == before


def test_a_run_of_images_that_changed_since_is_not_taken_for_one_of_these(done, folder):
    _, output = done
    place = folder / "cifar10" / "train" / "digit 0" / "another.png"
    Image.new("RGB", (32, 32), "red").save(place)
    try:
        with pytest.raises(LoupeError, match="made with other images than there are now"):
            reproduce(["simple-cnn"], data=folder, changes=DEBUG, output=output, device="cpu", quiet=True)
    finally:
        place.unlink()


@pytest.mark.slow
def test_what_was_stopped_goes_on_with_the_same_call(folder, tmp_path, monkeypatch):
    arguments = {"data": folder, "changes": DEBUG, "output": tmp_path, "device": "cpu", "quiet": True}
    names, train = ["simple-cnn", "project-cnn"], runner.train

    def stopped_at_the_second(*args, **kwargs):
        if kwargs["name"].startswith("project"):
            raise InterruptedRunError("stopped and saved.")
        return train(*args, **kwargs)

    monkeypatch.setattr(runner, "train", stopped_at_the_second)
    with pytest.raises(InterruptedRunError, match="same command"):
        reproduce(names, **arguments)
    table = json.loads((tmp_path / "experiments-quick.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["simple-cnn"], "what is done is in the table already"
    monkeypatch.setattr(runner, "train", train)
    assert [row.why for row in reproduce(names, **arguments).rows] == [None, None]


def test_one_that_fails_does_not_keep_the_others_from_running(folder, tmp_path, monkeypatch):
    train = runner.train

    def failing(*args, **kwargs):
        if kwargs["name"].startswith("simple"):
            raise LoupeError("the loss is not finite")
        return train(*args, **kwargs)

    monkeypatch.setattr(runner, "train", failing)
    with pytest.raises(LoupeError, match=r"1 of 2 experiments failed.*simple-cnn: the loss is not finite"):
        reproduce(["simple-cnn", "project-cnn"], data=folder, changes=DEBUG, output=tmp_path, quiet=True)
    rows = json.loads((tmp_path / "experiments-quick.json").read_text())["rows"]
    assert rows[0]["why"] == "failed: the loss is not finite"
    assert rows[1]["measured"]


def test_all_of_them_are_planned_and_what_cannot_be_run_says_why(folder, tmp_path, monkeypatch):
    class Nowhere(InTurn):
        def run(self, groups, options):
            return ((number, []) for number in range(len(groups)))

    def unneeded(planned, runs):
        return module.unmeasured_row(planned, "not run by this test")

    monkeypatch.setattr(module, "experiment_row", unneeded)
    monkeypatch.setattr(module.page, "write_page", lambda path, results: None)  # after each of nineteen rows
    rows = reproduce(data=folder, output=tmp_path, quiet=True, runner=Nowhere()).rows
    assert [row.name for row in rows] == list(EXPERIMENTS)
    whys = {row.name: row.why for row in rows}
    assert whys["deep-cnn"] == "not run by this test"
    assert whys["lecture-vgg16"] == "not measured: the weights of VGG16 are not available"
    assert whys["project-mobilenet-finetune"] == "not measured: the weights of MobileNet v1 are not available"
    assert "cats_vs_dogs" in whys["catsdogs-cnn"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["deep-cn"]}, "Did you mean deep-cnn"),
        ({"names": ["lecture-vgg16"]}, "lecture-vgg16 cannot be run: the weights of VGG16"),
        ({"names": ["catsdogs-cnn"]}, "cannot be run: give the folder that contains cats_vs_dogs"),
        ({"names": ["deep-cnn"], "budget": "slow"}, "quick or published"),
        ({"names": ["deep-cnn"], "data": "nowhere"}, "there is no nowhere"),
    ],
)
def test_what_is_named_is_done_or_refused(arguments, message, tmp_path):
    with pytest.raises(LoupeError, match=message):
        reproduce(**arguments, output=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []
