"""Target `torch`: a program of `torch.export`, for PyTorch, its compilers and its mobile runtime."""

from loupe.export.job import TOLERANCE, Job, Written
from loupe.export.parity import Gate
from loupe.export.program import ImageProgram
from loupe.export.torch_file import torch_file
from loupe.export.torch_runner import TorchProgram

USAGE = """
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


def write(job: Job) -> Written:
    """Write the program, to be compared in PyTorch."""
    path = job.folder / "model.pt2"
    path.write_bytes(torch_file(ImageProgram(job.model), job.metadata))
    return Written(path.name, (Gate(TorchProgram(path), TOLERANCE),), USAGE)
