"""A small run on photographs of many sizes, and its export."""

from pathlib import Path

import pytest

import loupe
from builders import save_varied
from loupe.export.export import export_model


@pytest.fixture(scope="session")
def varied(tmp_path_factory) -> Path:
    return save_varied(tmp_path_factory.mktemp("varied"), 15)


@pytest.fixture(scope="session")
def run(varied, tmp_path_factory) -> loupe.Run:
    """A small network whose images are resized to 24 px, of which it sees the centre of 20."""
    settings = {"input.size_px": 20, "input.load_px": 24, "input.interpolation": "bicubic", "precision": "fp32"}
    output = tmp_path_factory.mktemp("runs")
    return loupe.train(
        varied, recipe="small-images", epochs=1, settings=settings, device="cpu", output=output, quiet=True
    )


@pytest.fixture(scope="session")
def exported(run) -> Path:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return export_model(run, "onnx")
