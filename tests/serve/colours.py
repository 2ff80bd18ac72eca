"""Models that tell the colours of a picture, so that their answers and their maps are known."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.export.folder import Manifest, hashes
from loupe.export.onnx_file import onnx_file
from loupe.export.program import ImageProgram
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.models.cnn import cnn

SPEC = CnnSpec(
    name="colours",
    blocks=(ConvBlock(filters=(3,), kernel_px=1, pool_px=1),),
    pooling="average",
)
PREPROCESSING = Preprocessing(size_px=28, load_px=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def colours(classes: Sequence[str], channels: Sequence[int], scale: float = 6.0) -> Classifier:
    """Network whose logit of each class is the mean of one channel, from 0 to `scale`."""
    model = cnn(SPEC, PREPROCESSING, tuple(classes), seed=0)
    [convolution] = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    [linear] = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(3)[:, :, None, None])
        convolution.bias.zero_()
        linear.weight.copy_(scale * torch.eye(3)[list(channels)])
        linear.bias.zero_()
    return model.eval()


def save_bundle(folder: Path, model: Classifier) -> Path:
    bundle.save(folder, model, SPEC, "fp32")
    return folder


def save_export(folder: Path, model: Classifier, *, with_maps: bool, threshold: float | None = None) -> Path:
    """Export folder with an ONNX file."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx_file(ImageProgram(model, with_maps=with_maps), {}))
    Manifest(
        target="web" if with_maps else "onnx",
        precision="fp32",
        model="model.onnx",
        files=hashes(folder),
        classes=model.classes,
        preprocessing=model.preprocessing,
        temperature=model.temperature,
        threshold=threshold,
        run="colours",
        weights_blake2b="ab" * 16,
        loupe="1",
    ).write(folder / "export.json")
    return folder


def picture(color=(250, 20, 30), kind: str = "PNG", size=(80, 60), quarter=None) -> bytes:
    """Image of one colour, with another one in its top left quarter if given."""
    image, buffer = Image.new("RGB", size, color), io.BytesIO()
    if quarter:
        image.paste(quarter, (0, 0, size[0] // 2, size[1] // 2))
    image.save(buffer, kind)
    return buffer.getvalue()
