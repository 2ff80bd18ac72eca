"""The Python face: arrays in, class names out, and what a run keeps its word on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import loupe
from loupe.config import overrides
from loupe.report.run_page import write_page  # the page itself, which runs here do not draw
from loupe.training.checkpoint import Checkpoints
from loupe.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("bare")


def digits(images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:images] * 15.9375).astype(np.uint8), bunch.target[:images]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> loupe.Run:
    folder = tmp_path_factory.mktemp("runs")
    return loupe.train(
        digits(), recipe="digits", epochs=6, precision="fp32", output=folder, name="d", device="cpu", quiet=True
    )


def test_arrays_paths_and_pil_images_get_the_same_answer(run, tmp_path):
    x, _ = digits(6)
    for number, pixels in enumerate(x):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    answers = [
        run.predict_proba(x),
        run.predict_proba(np.repeat(x[..., None], 3, axis=3)),
        run.predict_proba(list(x)),
        run.predict_proba([Image.fromarray(pixels) for pixels in x]),
        run.predict_proba(paths),
        np.concatenate([run.predict_proba(path) for path in paths]),
    ]
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], atol=1e-4)  # batches of other sizes sum otherwise
        np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)
    assert run.predict(paths) == [run.classes[k] for k in answers[0].argmax(axis=1)]


def test_one_reader_serves_training_evaluation_and_prediction(run, tmp_path):
    x, y = digits(6)
    Image.fromarray(x[5]).save(tmp_path / "5.png")
    mixed = [x[0], torch.from_numpy(x[1]), Image.fromarray(x[2]), x[3] / 255, x[4].astype(float), tmp_path / "5.png"]
    with pytest.raises(loupe.DataError, match="in one range"):
        run.predict(mixed)
    mixed[4] = x[4]
    np.testing.assert_allclose(run.predict_proba(mixed), run.predict_proba(x), atol=1e-4)
    others = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    answers = [run.evaluate("val", ([*images], y)).to_json() for images in (others, torch.from_numpy(others / 255))]
    assert answers[0]["images"] == answers[1]["images"] == 6
    assert answers[0]["confusion_matrix"] == answers[1]["confusion_matrix"]
    with pytest.raises(loupe.DataError, match=r"permute\(1, 2, 0\)"):
        run.predict(torch.zeros(3, 8, 8))


def test_a_path_named_twice_gets_two_answers(run, tmp_path):
    x, _ = digits(2)
    for number, pixels in enumerate(x):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    a, b = tmp_path / "0.png", tmp_path / "1.png"
    assert len(run.predict([a, a, b])) == 3
    assert run.predict([a, a, b]) == [*run.predict(a), *run.predict(a), *run.predict(b)]


def test_a_pil_image_lies_as_its_exif_says(run, tmp_path):
    pixels = np.repeat(digits(1)[0][0][..., None], 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_allclose(run.predict_proba(opened), run.predict_proba(tmp_path / "turned.png"), atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [np.full((4, 4, 3), -1.0), np.zeros((2, 3, 4, 5, 6), np.uint8), [3], np.zeros(5, np.uint8)]
)
def test_what_is_no_image_is_refused(run, wrong):
    with pytest.raises(loupe.LoupeError, match="image"):
        run.predict(wrong)


def test_a_run_on_arrays_is_evaluated_on_its_own_split_of_them(run):
    with pytest.raises(loupe.LoupeError, match="arrays"):
        run.evaluate("test")
    block = run.evaluate("test", digits())
    assert block.images == run.results.images.test
    assert block.accuracy == run.results.test.accuracy
    other = (digits(500)[0][400:], digits(500)[1][400:])
    assert run.evaluate("val", other).images == 100
    with pytest.raises(loupe.LoupeError, match="Did you mean test"):
        run.evaluate("tests", other)


def test_arrays_that_have_changed_are_not_evaluated_on_what_was_trained(run, caplog):
    x, y = digits()
    split = [line.split(",")[2] for line in (run.path / "split.csv").read_text().splitlines()[1:]]
    x[split.index("train")] = 255 - x[split.index("train")]
    said = run.predictions_of("test", (x, y))
    assert len(said) == run.results.images.test + 1
    assert "399 of 400 images belong to the run" in caplog.text


def test_a_run_is_loaded_by_its_path(run):
    again = loupe.load(run.path)
    assert again.classes == run.classes
    assert again.predict(digits(5)[0]) == run.predict(digits(5)[0])
    with pytest.raises(loupe.LoupeError, match=r"(no|unknown) run"):
        loupe.load(run.path.parent / "nothing")


def test_the_same_seed_gives_the_same_run_and_its_recipe_repeats_it(run, tmp_path):
    again = loupe.train(digits(), recipe=run.path / "recipe.yaml", output=tmp_path, name="e", device="cpu", quiet=True)
    assert again.results.test == run.results.test
    assert (again.path / "predictions.csv").read_text() == (run.path / "predictions.csv").read_text()
    other = loupe.train(
        digits(), recipe=run.path / "recipe.yaml", seed=5, output=tmp_path, name="f", device="cpu", quiet=True
    )
    assert (other.path / "predictions.csv").read_text() != (run.path / "predictions.csv").read_text()


def test_what_was_computed_from_the_pixels_is_recorded_and_used(run, tmp_path):
    kept = overrides.load(run.path / "recipe.yaml").input
    config = json.loads((run.path / "model" / "config.json").read_text())["preprocessing"]
    assert list(kept.mean) == config["mean"]
    split = (run.path / "split.csv").read_text().splitlines()[1:]
    train = np.array([line.split(",")[2] == "train" for line in split])
    pixels = digits()[0][train] / 255
    assert kept.mean == pytest.approx([pixels.mean()] * 3, abs=1e-5)
    assert kept.std == pytest.approx([pixels.std()] * 3, abs=1e-5)


def test_the_best_epoch_is_the_best_on_validation_and_its_weights_are_kept(run):
    history = Checkpoints(run.path / "checkpoints").load_last().values["position"]["history"]
    values = [row["val_accuracy"] for row in history]
    assert run.results.best_epoch == values.index(max(values)) + 1
    assert run.results.validation.accuracy.value == pytest.approx(max(values))


def test_patience_stops_and_says_why(tmp_path, monkeypatch):
    real = TrainStep.step
    monkeypatch.setattr(TrainStep, "step", lambda self, *a, **k: real(self, *a, **{**k, "lr": 0.0}))
    settings_ = {"stages.0.patience_epochs": 2, "stages.0.optimizer": "sgd", "model.norm_momentum": 0.0}
    stopped = loupe.train(
        digits(200), recipe="digits", epochs=9, settings=settings_, output=tmp_path, device="cpu", quiet=True
    )
    assert stopped.results.epochs == 3
    assert "no better val_accuracy for 2 epochs" in stopped.results.stopped


def test_without_validation_and_test_images_a_run_still_ends(tmp_path):
    x, y = digits(120)
    none = {"split.validation": 0, "split.test": 0}
    done = loupe.train((x, y), recipe="digits", epochs=1, settings=none, output=tmp_path, device="cpu", quiet=True)
    assert done.results.test is None
    assert done.results.validation is None
    assert "no validation images" in done.results.calibration.temperature.why
    assert done.results.selective.thresholds is None and done.results.selective.why
    assert write_page(done.path).is_file()
    with pytest.raises(loupe.LoupeError, match="validation"):
        loupe.train((x, y), recipe="digits", settings={**none, "stages.0.patience_epochs": 3}, output=tmp_path)


def test_balanced_class_weights_weigh_classes_alike(tmp_path, monkeypatch):
    """N / (K · N_k) over the classes that training has, seen where the loop receives it."""
    seen = []
    real = TrainStep.__init__

    def init(self, *arguments):
        seen.append(arguments[4])
        real(self, *arguments)

    monkeypatch.setattr(TrainStep, "__init__", init)
    x, y = digits(400)
    few = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:8]])
    settings_ = {"class_weights": "balanced"}
    data = (x[few], y[few])
    done = loupe.train(data, recipe="digits", epochs=1, settings=settings_, output=tmp_path, device="cpu", quiet=True)
    labels = [line.split(",")[1] for line in (done.path / "split.csv").read_text().splitlines() if ",train," in line]
    counts = np.array([labels.count("0"), labels.count("1")])
    np.testing.assert_allclose(seen[-1].numpy(), counts.sum() / (2 * counts), rtol=1e-6)
