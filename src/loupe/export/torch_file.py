"""PyTorch program of a classifier (`model.pt2`): from decoded images of any size to calibrated probabilities."""

import io
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loupe.data.pixels.limits import MAX_PIXELS
from loupe.export.program import ImageProgram, exported

REFUSAL = f"image_is_empty_or_has_more_than_{MAX_PIXELS}_pixels"
KEPT = {"val", "tensor_meta"}
"""Metadata of an operation that the program needs; the rest has source lines and paths of this machine."""


class CheckedProgram(nn.Module):
    """Program for which an empty or an enormous image is an error, before anything is computed."""

    def __init__(self, program: ImageProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the program for images, uint8 [N, H, W, 3]."""
        _, height, width, _ = images.shape
        pixels = torch.scalar_tensor(height * width, dtype=torch.int64)
        torch._assert_async((pixels > 0) & (pixels <= MAX_PIXELS), REFUSAL)
        outputs: tuple[Tensor, ...] = self.program(images)
        return outputs


def torch_file(program: ImageProgram, metadata: Mapping[str, str]) -> bytes:
    """Content of the file: operations of ATen, weights inside, nothing pickled but the shape of the example.

    Args:
        program: network with its preprocessing.
        metadata: texts to store in the file, by their name.

    Raises:
        ConfigError: PyTorch cannot record the network.
    """
    recorded = exported(CheckedProgram(program))
    for node in recorded.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key in KEPT}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors that share their memory are written whole
        torch.export.save(recorded, file, extra_files=dict(metadata))
    return file.getvalue()
