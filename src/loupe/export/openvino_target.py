"""Target `openvino`: a network in OpenVINO's own files, whose pixels are exact though OpenVINO lacks 64-bit floats."""

from typing import Any

from loupe.errors import ConfigError
from loupe.export.job import TOLERANCE, Job, Written
from loupe.export.onnx_file import INPUT, OUTPUTS, onnx_file
from loupe.export.parity import Gate
from loupe.export.program import ImageProgram
from loupe.export.resize_in_fp32 import resize_in_fp32
from loupe.export.runners import OpenVino
from loupe.models.openvino_import import core, openvino

USAGE = """
`model.xml` and `model.bin` take `images`, uint8 [N, H, W, 3]: decoded, upright RGB images, all of one size. They resize
and normalise them themselves. Images that are resized already are a valid input too; their pixels stay as they are.
Outputs: `probabilities`, float32 [N, classes], calibrated; `pixels`, the resized images.

OpenVINO computes in bf16 where a processor has it, unless it is asked for f32 as below. The pixels are the same; the
probabilities are not. It has no operator for errors: check the size of images before.

```python
import json
import numpy as np
import openvino
from PIL import Image, ImageOps

core = openvino.Core()
model = core.read_model("model.xml")
classes = json.loads(model.get_rt_info(["loupe", "classes"]).astype(str))
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
probabilities = compiled(np.asarray(image)[None])["probabilities"][0]
print(classes[probabilities.argmax()], probabilities.max())
```
"""


def write(job: Job) -> Written:
    """Write the network, converted from ONNX, to be compared in OpenVINO."""
    try:
        openvino()
    except ImportError:
        raise ConfigError("this needs OpenVINO: pip install openvino") from None
    program = ImageProgram(job.model, resizing=resize_in_fp32)
    model = core().read_model(onnx_file(program, {}))
    model.reshape({INPUT: openvino().PartialShape([-1, (1, -1), (1, -1), 3])})  # an empty image is an error
    _keep_precision(model)
    for key, text in job.metadata.items():
        model.set_rt_info(text, ["loupe", key])
    path = job.folder / "model.xml"
    openvino().save_model(model, path, compress_to_fp16=False)
    return Written(path.name, (Gate(OpenVino(path), TOLERANCE),), USAGE)


def _keep_precision(model: Any) -> None:
    """Mark the operations that resize, so that they are computed in 32 bits where others are in bf16 or fp16."""
    waiting, seen = [model.output(OUTPUTS[1]).get_node()], set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        node.get_rt_info()["precise_0"] = ""  # the name that all versions of OpenVINO read
        waiting += [source.get_source_output().get_node() for source in node.inputs()]
