"""Target `onnx`: one ONNX file, for ONNX Runtime, OpenVINO and everything else that reads ONNX."""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from loupe.data.pixels.decode import UInt8Array
from loupe.export.job import TOLERANCE, Job, Written
from loupe.export.onnx_file import onnx_file
from loupe.export.onnx_precision import in_fp16, in_int8
from loupe.export.parity import Gate, in_colour
from loupe.export.program import ImageProgram
from loupe.export.resize_in_fp32 import resize_in_fp32
from loupe.export.runners import OnnxRuntime, OpenVino
from loupe.export.samples import Samples
from loupe.runs.run import Run

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


LOWER_USAGE = """
The network is computed in {precision}, and the images are resized in full precision. What was compared with the run is
its accuracy and not each probability: choose thresholds anew.
"""
CALIBRATION_IMAGES = 300


def write(job: Job) -> Written:
    """Write the file, to be compared in ONNX Runtime and, in fp32 where it is installed, in OpenVINO."""
    path, options = job.folder / "model.onnx", job.options
    file = onnx_file(ImageProgram(job.model, resizing=resize_in_fp32), job.metadata)
    if options.precision != "fp32":
        path.write_bytes(in_fp16(file) if options.precision == "fp16" else in_int8(file, calibration_batches(job.run)))
        gate = Gate(OnnxRuntime(path), 1.0, max_loss=options.max_loss_points / 100)
        return Written(path.name, (gate,), USAGE + LOWER_USAGE.format(precision=options.precision))
    path.write_bytes(file)
    gates = [Gate(OnnxRuntime(path), TOLERANCE)]
    if find_spec("openvino"):
        gates.append(Gate(OpenVino(path), TOLERANCE))
    return Written(path.name, tuple(gates), USAGE, {"library_name": "onnx"})


def calibration_batches(run: Run) -> Iterator[UInt8Array]:
    """Prepared training images of a run, drawn by its seed, in batches.

    Raises:
        DataError: they are missing or have changed.
    """
    own, split = run.own_images()
    rows_N = split.rows("train")
    drawn_N = np.random.default_rng([run.results.seed, 3]).permutation(rows_N)[:CALIBRATION_IMAGES]
    for chunk in Samples(own.table, drawn_N.tolist(), run.preprocessing, "training images").chunks():
        yield np.stack([in_colour(sample.pixels_HWC) for sample in chunk])
