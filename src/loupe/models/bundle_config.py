"""Content of a bundle's config.json: all but the weights. Nothing here needs PyTorch."""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from loupe.config.base import Positive
from loupe.config.network import Network
from loupe.config.recipe import Preprocessing
from loupe.records import Fraction, Part, Record, Whole

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
STORED_NETWORK = ("network.xml", "network.bin")  # of OpenVINO's converted networks


class StoredEngine(Part):
    """Engine for prediction, settled when the model was saved: a network from decoded pixels to logits.

    Attributes:
        library, version: of what converted the network.
        precision: precision of its convolutions and matrix products.
        network_blake2b: hash of the files of the converted network, beside the weights.
        compared_images: number of validation images on which its probabilities were compared with those of PyTorch in
            fp32.
        largest_difference: largest difference of a probability among them.
    """

    library: Literal["openvino"]
    version: str
    precision: Literal["fp32", "bf16"]
    network_blake2b: str
    compared_images: Whole
    largest_difference: Fraction


class BundleConfig(Record):
    """Content of config.json.

    Attributes:
        precision: precision that the network was trained and evaluated in, by PyTorch.
        temperature: divisor of logits for calibrated probabilities; 1 in bundles of older versions, which have none.
        weights_blake2b: hash of weights.safetensors.
        engine: engine for prediction on a CPU; None for PyTorch, as in bundles of older versions.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore the model folder, or train again. A newer bundle needs a newer Loupe."

    network: Network
    preprocessing: Preprocessing
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    precision: Literal["fp32", "bf16", "fp16"]
    temperature: Positive = 1.0
    weights_blake2b: str
    engine: StoredEngine | None = None


def content_digest(*data: bytes) -> str:
    """BLAKE2b hash of 16 bytes over all data in turn, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for part in data:
        digest.update(part)
    return digest.hexdigest()
