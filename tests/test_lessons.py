"""What course notes teach by accident, and what must therefore be impossible here, or visible."""

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import loupe
from loupe.recipes.catalog import recipe
from loupe.runs import session
from loupe.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("bare")
STAGE = {"epochs": 1, "batch_size": 32}


class Stopped(BaseException):
    """Stands for a process that ends."""


def images() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:400] * 15.9375).astype(np.uint8), bunch.target[:400]


def test_no_image_is_validated_on_that_was_trained_on_in_any_stage_or_after_resuming(tmp_path, monkeypatch):
    """A lecture drew a new validation split for each continued training, and so validated on trained images."""
    trained: set[int] = set()
    validated: set[int] = set()
    train_step, logits = TrainStep.step, session.inference.logits

    def step(self, batch, partner, **where):
        if where["epoch"] == 1 and where["step"] == 2 and not trained_twice:
            trained_twice.append(True)
            raise Stopped
        trained.update(np.asarray(batch.index_B).tolist())
        return train_step(self, batch, partner, **where)

    def seen(model, feed, rows_N, *rest, **options):
        validated.update(rows_N.tolist())
        return logits(model, feed, rows_N, *rest, **options)

    trained_twice: list[bool] = []
    monkeypatch.setattr(TrainStep, "step", step)
    monkeypatch.setattr(session.inference, "logits", seen)
    with pytest.raises(Stopped):
        loupe.train(
            images(), recipe="digits", settings={"stages": [STAGE, STAGE, STAGE]}, output=tmp_path, name="d", quiet=True
        )
    loupe.runs.train.resume(tmp_path / "d", images(), quiet=True)
    assert trained_twice, "it was interrupted"
    assert len(trained) == 320
    assert len(validated) == 80, "validation and, at the end, test"
    assert not trained & validated


def test_the_two_parts_of_the_lecture_that_went_on_training_have_one_split_here():
    """One run, and so one split, which validates on no image that either part trained on."""
    plain, augmented = recipe("lecture-augment").stages
    assert (plain.epochs, augmented.epochs) == (60, 100)
    assert plain.augment == recipe("lecture-batchnorm").stages[0].augment != augmented.augment


def test_preprocessing_travels_with_the_weights(tmp_path):
    """Frozen features scored 12 to 22 % with the wrong range and size; here who loads a run is told neither."""
    x, _ = images()
    done = loupe.train(
        images(),
        recipe="digits",
        settings={"stages.0.epochs": 2, "input.size_px": 12, "input.normalise": "dataset"},
        output=tmp_path,
        name="d",
        device="cpu",
        quiet=True,
    )
    Image.fromarray(x[0]).save(tmp_path / "0.png")
    loaded = loupe.load(shutil.copytree(done.path, tmp_path / "elsewhere"), device="cpu")
    np.testing.assert_allclose(loaded.predict_proba(tmp_path / "0.png"), done.predict_proba(x[:1]), atol=1e-4)
    assert done.model.preprocessing.size_px == 12
    assert done.model.preprocessing.mean != (0.0, 0.0, 0.0)
