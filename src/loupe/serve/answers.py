"""Answers to requests as values with a schema: those of `loupe predict --json`, with the model that they are from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from loupe.errors import ConfigError, ImageError
from loupe.evaluate import unclassified
from loupe.evaluate.unclassified import UNCLASSIFIED
from loupe.models.pixel_engine import Array
from loupe.serve.refusals import Refusal
from loupe.serve.served import ServedModel


class ClassProbability(BaseModel):
    """Class with its calibrated probability."""

    class_: str = Field(alias="class", serialization_alias="class")
    probability: float = Field(ge=0, le=1)


class ImageAnswer(BaseModel):
    """Answer for an intact image: `label` is `unclassified` below the threshold; `top` has the best classes first."""

    path: str
    label: str
    top: list[ClassProbability]


class ImageFailure(BaseModel):
    """Image that cannot be decoded, with the reason."""

    path: str
    error: str


class PredictAnswer(BaseModel):
    """Answer to `POST /predict`; `weights` is the hash of the model's weights."""

    model: str
    weights: str
    temperature: float
    threshold: float
    images: list[ImageAnswer | ImageFailure]


class ErrorAnswer(BaseModel):
    """Answer to a request that is refused."""

    error: str


def answer(
    model: ServedModel,
    names: Sequence[str],
    found: Sequence[Array | ImageError],
    *,
    top: int,
    threshold: float,
) -> PredictAnswer:
    """Answer for the images of a request.

    Args:
        names: names of the images.
        found: logits, float32 [K], or damage of each.
        top: number of classes that are listed.
        threshold: smallest probability of a classified image.
    """
    return PredictAnswer(
        model=model.name,
        weights=model.weights,
        temperature=model.temperature,
        threshold=threshold,
        images=[
            ImageFailure(path=name, error=one.reason)
            if isinstance(one, ImageError)
            else _image(model, name, one, top, threshold)
            for name, one in zip(names, found, strict=True)
        ],
    )


def _image(model: ServedModel, name: str, logits_K: Array, top: int, threshold: float) -> ImageAnswer:
    order_K = np.argsort(-logits_K, kind="stable")
    probability_K = probabilities(logits_K, model.temperature)
    best = order_K[0]
    return ImageAnswer(
        path=name,
        label=model.classes[best] if probability_K[best] >= threshold else UNCLASSIFIED,
        top=[
            ClassProbability.model_validate({"class": model.classes[k], "probability": float(probability_K[k])})
            for k in order_K[:top]
        ],
    )


def probabilities(logits_NK: Array, temperature: float) -> npt.NDArray[np.float64]:
    """Softmax of logits [..., K] divided by the temperature, in float64."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    shifted_NK = scaled_NK - scaled_NK.max(axis=-1, keepdims=True)
    log_NK: npt.NDArray[np.float64] = shifted_NK - np.log(np.exp(shifted_NK).sum(axis=-1, keepdims=True))
    return np.exp(log_NK)


def check_top(top: int, model: ServedModel) -> int:
    """The number of classes to list.

    Raises:
        Refusal: it is below 1, or above the number of classes.
    """
    if not 1 <= top <= len(model.classes):
        raise Refusal(400, f"top={top}: give a number from 1 to {len(model.classes)}, the number of classes.")
    return top


def check_threshold(threshold: float, model: ServedModel) -> float:
    """The threshold.

    Raises:
        Refusal: it is no probability, or a class has the name of images below it.
    """
    if not 0 <= threshold <= 1:
        raise Refusal(400, f"threshold={threshold:g}: give a probability from 0 to 1.")
    try:
        unclassified.check_threshold(threshold, model.classes)
    except ConfigError as error:
        raise Refusal(400, str(error)) from None
    return threshold
