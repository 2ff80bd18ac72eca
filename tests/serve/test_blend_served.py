"""A blend behind the service: it predicts, and has no map of evidence."""

import io

import numpy as np
import pytest
import torch
from colours import picture
from PIL import Image
from running import application, service_of
from starlette.testclient import TestClient

from loupe.config.recipe import Preprocessing
from loupe.models import bundle
from loupe.models.build import build
from loupe.models.catalog import network


def test_a_blend_is_served_and_says_why_it_has_no_map(tmp_path):
    pixels = Preprocessing(size_px=16, load_px=16, pixel_definition=2)
    spec = network("digits-cnn+fast-cnn").model_copy(update={"combine": "probabilities"})
    model = build(spec, pixels, ("a", "b", "c"), seed=0).eval()
    bundle.save(tmp_path / "blend", model, spec, "fp32")
    data = picture((10, 200, 90), size=(16, 16))
    rgb_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    with torch.no_grad():
        wanted_K = model(torch.tensor(rgb_HWC / 255.0, dtype=torch.float32).permute(2, 0, 1)[None])[0].softmax(dim=0)
    with TestClient(application(service_of({"blend": tmp_path / "blend"}), 80), base_url="http://127.0.0.1") as client:
        options = {"content": data, "headers": {"content-type": "image/png"}}
        found = client.post("/predict", params={"model": "blend", "top": 3}, **options).json()["images"][0]["top"]
        why = client.post("/explain", params={"model": "blend"}, **options).json()
    by_class = {one["class"]: one["probability"] for one in found}
    assert [by_class[name] for name in "abc"] == pytest.approx(wanted_K.tolist(), abs=1e-5)
    assert why["map"] is None and "blend" in why["why"]
