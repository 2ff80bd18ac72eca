"""Answers of the server are those of `loupe predict --json`."""

from types import SimpleNamespace

import numpy as np
import pytest

from loupe.errors import ImageError
from loupe.evaluate.predictions import Predictions
from loupe.runs.classify import label
from loupe.serve.answers import answer, check_threshold, check_top, probabilities
from loupe.serve.refusals import Refusal

CLASSES = ("cat", "dog", "<script>alert(1)</script>", "owl")


def model(temperature=1.0, classes=CLASSES):
    return SimpleNamespace(name="pets", weights="ab", classes=classes, temperature=temperature)


def logits(images=50, seed=0, scale=5.0):
    return np.random.default_rng(seed).normal(0, scale, (images, len(CLASSES))).astype(np.float32)


def predictions(logits_NK):
    images = len(logits_NK)
    return Predictions(
        tuple(f"{i}.jpg" for i in range(images)), ("",) * images, np.full(images, -1), logits_NK, CLASSES
    )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.7])
@pytest.mark.parametrize("threshold", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("top", [1, 3])
def test_labels_and_probabilities_are_those_of_the_command(temperature, threshold, top):
    logits_NK = logits()
    logits_NK[3] = 0  # equal ones
    logits_NK[4] = [1e4, -1e4, 0, 0]
    wanted = label(predictions(logits_NK), top=top, threshold=threshold, temperature=temperature)
    names = wanted.predictions.path
    told = answer(model(temperature), names, list(logits_NK), top=top, threshold=threshold)
    for found, expected in zip(told.model_dump(by_alias=True)["images"], wanted.to_json({}), strict=True):
        assert (found["path"], found["label"]) == (expected["path"], expected["label"])
        assert [best["class"] for best in found["top"]] == [best["class"] for best in expected["top"]]
        np.testing.assert_allclose(
            [best["probability"] for best in found["top"]],
            [best["probability"] for best in expected["top"]],
            rtol=1e-12,
            atol=1e-300,
        )


def test_a_damaged_image_has_its_reason_in_its_place():
    good_K = logits(1)[0]
    told = answer(
        model(), ["a.png", "b.png", "c.png"], [good_K, ImageError("b.png", "truncated"), good_K], top=1, threshold=0
    )
    first, second, third = told.model_dump(by_alias=True)["images"]
    assert second == {"path": "b.png", "error": "truncated"}
    assert first["label"] == third["label"] == CLASSES[int(good_K.argmax())]


def test_probabilities_sum_to_one_and_do_not_overflow():
    found_NK = probabilities(np.array([[3e38, -3e38, 0, 0], [0, 0, 0, 0]], np.float32), 0.01)
    np.testing.assert_allclose(found_NK.sum(axis=1), 1)
    np.testing.assert_allclose(found_NK[0], [1, 0, 0, 0])


@pytest.mark.parametrize("top", [0, -1, 5])
def test_a_number_of_classes_that_there_is_not_is_refused(top):
    with pytest.raises(Refusal) as refused:
        check_top(top, model())
    assert refused.value.status == 400
    assert check_top(4, model()) == 4


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(Refusal) as refused:
        check_threshold(threshold, model())
    assert refused.value.status == 400


def test_a_class_called_unclassified_allows_no_threshold():
    with pytest.raises(Refusal):
        check_threshold(0.5, model(classes=("cat", "unclassified")))
    assert check_threshold(0.0, model(classes=("cat", "unclassified"))) == 0.0
