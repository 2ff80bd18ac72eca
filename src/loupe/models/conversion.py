"""Networks converted for OpenVINO: from decoded pixels to logits, with the preprocessing inside.

Networks of Loupe are written layer by layer. Others are traced, trunk and head apart, and joined. Tracing takes
seconds, so a frozen trunk is kept in the cache once its answers have been compared with those of PyTorch.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from loupe import __version__
from loupe.augment.pipeline import evaluation_view
from loupe.config.network import CnnSpec, Network
from loupe.files import write_atomic
from loupe.models.bundle_config import content_digest
from loupe.models.classifier import Classifier
from loupe.models.engine import digest_of
from loupe.models.openvino_import import core, openvino, traced_model
from loupe.models.openvino_layers import written

Files = tuple[bytes, bytes]  # description and weights
NAMES = ("network.xml", "network.bin")
DIGEST = "digest"


@dataclass(frozen=True)
class Converted:
    """Converted network.

    Attributes:
        network: OpenVINO's model of trunk and head.
        trunk: files of the trunk alone; None if the network was not traced.
        place: folder of the cache for the trunk; None if it was trained, so that no other network has it.
        is_known: True if the trunk was in the cache.
    """

    network: Any
    trunk: Files | None = None
    place: Path | None = None
    is_known: bool = False

    @cached_property
    def files(self) -> Files:
        return _files(self.network)

    def keep(self) -> None:
        """Keep the trunk in the cache, if others may have the same."""
        if self.trunk is None or self.place is None or self.is_known:
            return
        with suppress(OSError):  # a cache that cannot be written costs time alone
            self.place.mkdir(parents=True, exist_ok=True)
            for name, data in zip(NAMES, self.trunk, strict=True):
                write_atomic(self.place / name, data)
            write_atomic(self.place / DIGEST, _digest(self.place, self.trunk))


def convert(model: Classifier, spec: Network, cache: Path) -> Converted:
    """Convert a network in evaluation mode."""
    network = written(model) if isinstance(spec, CnnSpec) else None
    return traced(model, cache) if network is None else Converted(network)


def traced(model: Classifier, cache: Path) -> Converted:
    """Network as its converter traces it, or its head alone if its trunk is in the cache."""
    place = cache / _key(model) if model.frozen == len(model.trunk) else None
    known = _known(place)
    shape = (*model.preprocessing.load_size, model.preprocessing.channels)
    x_BHWC = torch.zeros(2, *shape, dtype=torch.uint8)
    below = _Below(model)
    trunk_files = known or _files(traced_model(below, x_BHWC))
    trunk = core().read_model(*trunk_files)
    with torch.inference_mode():
        features = below(x_BHWC)
    head = traced_model(model.head, features)
    network = _joined(trunk, head)
    return Converted(network, trunk_files, place, known is not None)


class _Below(nn.Module):
    """Trunk of a network, with the preprocessing before it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.trunk = model.trunk
        self._preprocessing = model.preprocessing

    def forward(self, x_BHWC: Tensor) -> Tensor:
        outputs: Tensor = self.trunk(evaluation_view(x_BHWC.permute(0, 3, 1, 2), self._preprocessing))
        return outputs


def _joined(trunk: Any, head: Any) -> Any:
    """Model of both, one after the other."""
    ov = openvino()
    outputs = trunk.get_results()[0].input_value(0)
    for reader in head.get_parameters()[0].output(0).get_target_inputs():
        reader.replace_source_output(outputs)
    return ov.Model(head.get_results(), trunk.get_parameters(), "classifier")


def _files(network: Any) -> Files:
    ov = openvino()
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in NAMES]
        ov.serialize(network, *paths)
        description, weights = (path.read_bytes() for path in paths)
    return description, weights


def _known(place: Path | None) -> Files | None:
    """Trunk in the cache; None without one, or if it is damaged."""
    if place is None:
        return None
    try:
        description, weights = ((place / name).read_bytes() for name in NAMES)
        digest = (place / DIGEST).read_bytes()
    except OSError:
        return None
    return (description, weights) if _digest(place, (description, weights)).encode() == digest else None


def _digest(place: Path, trunk: Files) -> str:
    """Hash of a trunk and of the key that is the name of its folder: the folder of another one is no copy."""
    return content_digest(place.name.encode(), *trunk)


def _key(model: Classifier) -> str:
    made_by = [__version__, version("openvino"), torch.__version__, version("timm")]
    parts = [*made_by, model.preprocessing.model_dump_json(), digest_of(model.trunk)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
