"""Figures of a handful of images, perfect, wrong or extreme: finite, or undefined with a reason."""

import json

import numpy as np
import pytest

from builders import predictions
from loupe.evaluate import calibration, metrics, selective
from loupe.evaluate.results import Evaluation

KINDS = ("drawn", "perfect", "wrong", "equal", "one wrong")


def made(kind: str, images: int, classes: int, scale: float, random: np.random.Generator):
    label = random.integers(0, classes, images)
    logits_NK = np.zeros((images, classes), np.float32)
    if kind == "drawn":
        logits_NK[:] = random.standard_normal((images, classes)) * scale
    elif kind != "equal":
        logits_NK[np.arange(images), (label + (kind == "wrong")) % classes] = scale
    if kind == "one wrong":
        logits_NK[0] = np.roll(logits_NK[0], 1)
    return predictions(label, logits_NK)


@pytest.mark.parametrize("images", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_every_figure_can_be_written(kind, images):
    random = np.random.default_rng(images)
    for scale in (1e-30, 1.0, 20.0, 1e4, 1e37):
        for classes in (2, 3):
            val, test = (made(kind, count, classes, scale, random) for count in (images, 1))
            temperature = calibration.fit_temperature(val)
            parts = {"val": val, "test": test}
            evaluation = metrics.evaluate(val)
            reports = calibration.report(temperature, parts), selective.report(temperature.value, parts)
            for part in (evaluation, *reports):
                json.dumps(part.to_json(), allow_nan=False)
            Evaluation.model_validate(evaluation.to_json())
            for metric in metrics.METRICS:
                estimate = evaluation.metric(metric.key)
                assert estimate.value is not None or estimate.why
                assert (estimate.low is None) == (estimate.high is None)
