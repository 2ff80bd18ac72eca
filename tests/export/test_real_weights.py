"""Networks with real pretrained weights, on real photographs: the gate of the export, from the files on."""

import numpy as np
import pytest

from loupe.config.network import BackboneSpec
from loupe.data.sources.folders import from_paths
from loupe.export.export import reference_of
from loupe.export.parity import Gate, compare
from loupe.export.program import ImageProgram
from loupe.export.resize_in_fp32 import resize_in_fp32
from loupe.export.runners import OnnxRuntime
from loupe.export.samples import Samples
from loupe.models.build import build
from loupe.models.pretrained import native_preprocessing

pytest.importorskip("onnxruntime")
from loupe.export.onnx_file import onnx_file

WEIGHTS = {
    "mobilenetv1_075": "mobilenetv1_075.keras_in1k",
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k",
}
IMAGES = 12


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_photographs_have_the_same_pixels_and_classes(name, real_data, tmp_path):
    spec = BackboneSpec(backbone=name, weights=str(real_data / "weights" / f"{WEIGHTS[name]}.safetensors"))
    model = build(spec, native_preprocessing(spec), ("cat", "dog"), seed=0).eval()
    (tmp_path / "model.onnx").write_bytes(onnx_file(ImageProgram(model, resizing=resize_in_fp32).eval(), {}))
    table = from_paths([str(real_data / "cats_vs_dogs" / "val")])
    rows = np.linspace(0, len(table) - 1, IMAGES, dtype=int).tolist()
    samples = Samples(table, rows, model.preprocessing, "photographs")
    gate = Gate(OnnxRuntime(tmp_path / "model.onnx"), 1e-4)
    (parity,) = compare("onnx", [gate], samples, reference_of(model), "PyTorch, fp32").engines
    assert parity.images == parity.same_top1 == IMAGES and parity.differing_pixel_values == 0
