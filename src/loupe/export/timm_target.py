"""Target `timm`: a folder that timm and transformers load."""

from loupe.export.job import Job, Written

USAGE = """
timm loads this folder, and transformers does: `AutoModelForImageClassification.from_pretrained(".")`. On the Hugging
Face hub, its name is `hf-hub:USER/NAME` for timm and `USER/NAME` for transformers. The network takes prepared tensors,
float32 [N, 3, {height}, {width}], and gives logits. Divided by the temperature, {temperature:.6g}, their softmax is
calibrated.

The comparison below is of tensors that Loupe has prepared. timm and transformers have preprocessing of their own, whose
pixels need not be equal.

```python
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_model_data_config

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.no_grad():
    logits = model(transform(image)[None])[0]
probabilities = torch.softmax(logits / {temperature!r}, dim=0)
print(model.pretrained_cfg["label_names"][int(probabilities.argmax())], float(probabilities.max()))
```
"""


def write(job: Job) -> Written:
    """Write the folder, to be compared in timm, and in transformers where it is installed.

    Raises:
        ConfigError: timm has no such network.
    """
    from loupe.export import timm_folder, timm_runner  # imported lazily: timm imports slowly

    timm_folder.write(job.model, job.run.config.network, job.folder, job.licence)
    size = job.model.preprocessing.size
    usage = USAGE.format(height=size.height_px, width=size.width_px, temperature=job.model.temperature)
    return Written(None, timm_runner.gates(job.model, job.folder), usage, {"library_name": "timm"})
