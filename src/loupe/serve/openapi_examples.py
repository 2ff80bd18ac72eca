"""Examples in the description of the server: an image, and what the first model answers for it, computed once."""

import base64
import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from loupe.config.base import Levels
from loupe.errors import ImageError
from loupe.serve.answers import answer
from loupe.serve.body import Upload
from loupe.serve.inference_protocol import intact, metadata, respond
from loupe.serve.inference_tensors import read_request
from loupe.serve.service import Service

RAW_NAME = "image"  # of an image that is a whole body, without a name of its own
REQUEST_ID = "digit-0"
GREY_LEVELS = 16
DIGIT = (
    (0, 0, 5, 13, 9, 1, 0, 0),
    (0, 0, 13, 15, 10, 15, 5, 0),
    (0, 3, 15, 2, 0, 11, 8, 0),
    (0, 4, 12, 0, 0, 8, 8, 0),
    (0, 5, 8, 0, 0, 9, 8, 0),
    (0, 4, 11, 0, 1, 12, 7, 0),
    (0, 2, 14, 5, 10, 12, 0, 0),
    (0, 0, 6, 13, 10, 0, 0, 0),
)
"""A handwritten 0: the first image of the data set `digits` (E. Alpaydin and C. Kaynak, 1998)."""


@dataclass(frozen=True)
class Examples:
    """Requests and their answers, as plain data.

    Attributes:
        image: PNG of 8 x 8 pixels.
        damaged: the first half of its bytes.
        predicted: answer of `/predict` for the image as the whole body of a request.
        predicted_damaged: the same for the damaged one.
        asked: request of the inference protocol with the image.
        inferred: its answer.
        described: metadata of the model.
    """

    image: bytes
    damaged: bytes
    predicted: Any
    predicted_damaged: Any
    asked: Any
    inferred: Any
    described: Any


async def examples(service: Service, deadline: float) -> Examples:
    """Examples for the first model of a service.

    Raises:
        Refusal: as for any request.
    """
    model = service.model(None)
    image = digit_png(model.preprocessing.range)
    damaged = image[: len(image) // 2]
    uploads = [Upload(RAW_NAME, image), Upload(RAW_NAME, damaged)]
    found = await service.predict(model, uploads, deadline)
    answers = [answer(model, [RAW_NAME], [one], top=1, threshold=model.threshold) for one in found]
    asked = inference_request(image)
    inputs = read_request(json.dumps(asked).encode(), None, service.limits)
    logits_NK = np.stack(intact([one for one in found if not isinstance(one, ImageError)]))
    inferred, _ = respond(model, inputs, logits_NK, model.threshold)
    return Examples(
        image=image,
        damaged=damaged,
        predicted=answers[0].model_dump(mode="json", by_alias=True),
        predicted_damaged=answers[1].model_dump(mode="json", by_alias=True),
        asked=asked,
        inferred=json.loads(inferred),
        described=metadata(model).model_dump(mode="json"),
    )


def inference_request(image: bytes) -> dict[str, Any]:
    """Request of the inference protocol with one image file."""
    data = [base64.b64encode(image).decode()]
    return {
        "id": REQUEST_ID,
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": "label"}, {"name": "probabilities"}],
    }


def digit_png(levels: Levels | None) -> bytes:
    """PNG of a digit: 8 bits from 0 to 255, or 16 bits with a model's range of values."""
    low, high = levels or (0, 255)
    values_HW = np.rint(low + np.array(DIGIT) / GREY_LEVELS * (high - low))
    file = BytesIO()
    Image.fromarray(values_HW.astype(np.uint8 if levels is None else np.uint16)).save(file, "PNG")
    return file.getvalue()
