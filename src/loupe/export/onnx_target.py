"""Target `onnx`: one ONNX file, for ONNX Runtime, OpenVINO and everything else that reads ONNX."""

from importlib.util import find_spec

from loupe.export.job import OPENVINO_TOLERANCE, TOLERANCE, Job, Written
from loupe.export.onnx_file import onnx_file
from loupe.export.parity import Gate
from loupe.export.program import ImageProgram
from loupe.export.runners import OnnxRuntime, OpenVino

USAGE = """
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


def write(job: Job) -> Written:
    """Write the file, to be compared in ONNX Runtime and, where it is installed, in OpenVINO."""
    path = job.folder / "model.onnx"
    path.write_bytes(onnx_file(ImageProgram(job.model), job.metadata))
    gates = [Gate(OnnxRuntime(path), TOLERANCE)]
    if find_spec("openvino"):
        gates.append(Gate(OpenVino(path), OPENVINO_TOLERANCE, exact_pixels=False))
    return Written(path.name, tuple(gates), USAGE, {"library_name": "onnx"})
