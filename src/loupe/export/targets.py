"""Targets of an export. To add one, write a module with a function from `Job` to `Written`, and add it to TARGETS."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from loupe.export.onnx_file import onnx_file
from loupe.export.parity import Gate
from loupe.export.program import ImageProgram
from loupe.export.runners import OnnxRuntime, OpenVino
from loupe.export.torch_file import torch_file
from loupe.export.torch_runner import TorchProgram
from loupe.models.classifier import Classifier

TOLERANCE = 1e-4
"""Largest difference of a probability that passes in ONNX Runtime and in PyTorch."""

OPENVINO_TOLERANCE = 1e-3
"""The same in OpenVINO, which computes 64-bit floats in 32 bits: a few pixels differ by one level."""


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        model: network in evaluation mode, fp32, on the CPU.
        folder: empty folder for the files of the model.
        weights_blake2b: hash of its weights.
        licence: licence of the pretrained weights that it began from, as far as it is known.
    """

    model: Classifier
    folder: Path
    weights_blake2b: str
    licence: str | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """Texts that describe the model, for files that have room for them."""
        model = self.model
        texts = {
            "classes": json.dumps(list(model.classes)),
            "temperature": repr(model.temperature),
            "preprocessing": model.preprocessing.model_dump_json(),
            "weights_blake2b": self.weights_blake2b,
        }
        return texts if self.licence is None else {**texts, "licence": self.licence}


@dataclass(frozen=True)
class Written:
    """Files of a model.

    Attributes:
        model: name of the file that an engine opens.
        gates: engines that run it, with their bounds.
        usage: how to use it, as Markdown.
    """

    model: str
    gates: tuple[Gate, ...]
    usage: str


ONNX_USAGE = """
`model.onnx` takes `images`, uint8 [N, H, W, 3]: decoded, upright RGB images, all of one size. It resizes and normalises
them itself. Images that are resized already are a valid input too; their pixels stay as they are. Outputs:
`probabilities`, float32 [N, classes], calibrated; `pixels`, the resized images.

```python
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
probabilities = session.run(["probabilities"], {"images": np.asarray(image)[None]})[0][0]
print(classes[probabilities.argmax()], probabilities.max())
```
"""


def onnx(job: Job) -> Written:
    """ONNX file, for ONNX Runtime, OpenVINO and everything else that reads ONNX."""
    path = job.folder / "model.onnx"
    path.write_bytes(onnx_file(ImageProgram(job.model), job.metadata))
    gates = [Gate(OnnxRuntime(path), TOLERANCE)]
    if find_spec("openvino"):
        gates.append(Gate(OpenVino(path), OPENVINO_TOLERANCE, exact_pixels=False))
    return Written(path.name, tuple(gates), ONNX_USAGE)


TORCH_USAGE = """
`model.pt2` is a program of `torch.export`. It takes decoded, upright RGB images, uint8 [N, H, W, 3], all of one size,
and resizes and normalises them itself. Images that are resized already are a valid input too; their pixels stay as they
are. Outputs: `probabilities`, float32 [N, classes], calibrated; and the resized images. PyTorch executes what such a
file says: load only files that you trust. `loupe predict` refuses those that hold code.

```python
import json
import numpy as np
import torch
from PIL import Image, ImageOps

texts = {"classes": ""}
program = torch.export.load("model.pt2", extra_files=texts).module()
classes = json.loads(texts["classes"])
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.no_grad():
    probabilities = program(torch.from_numpy(np.array(image))[None])[0][0]
print(classes[probabilities.argmax()], float(probabilities.max()))
```
"""


def torch(job: Job) -> Written:
    """Program of `torch.export`, for PyTorch, its compilers and its mobile runtime."""
    path = job.folder / "model.pt2"
    path.write_bytes(torch_file(ImageProgram(job.model), job.metadata))
    return Written(path.name, (Gate(TorchProgram(path), TOLERANCE),), TORCH_USAGE)


TARGETS: dict[str, Callable[[Job], Written]] = {"onnx": onnx, "torch": torch}
