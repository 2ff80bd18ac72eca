"""A small run on photographs of many sizes, and its export."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import loupe
from loupe.export.export import export_model

SIZES = [(96, 80), (80, 96), (33, 120), (200, 40), (64, 64), (31, 31)]


def save_varied(folder: Path, each: int) -> Path:
    """JPEG and PNG files of two classes: tall, wide, small, grey, with alpha, and turned by EXIF."""
    random = np.random.default_rng(0)
    for level, name in enumerate(["dark", "<script>bright"]):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            coarse = random.integers(20 + 110 * level, 100 + 110 * level, (5, 7, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize(SIZES[number % len(SIZES)])
            if number % 5 == 1:
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = 6
                image.save(folder / name / f"{number:02}.jpg", exif=exif)
            elif number % 5 == 2:
                image.putalpha(200)
                image.save(folder / name / f"{number:02}.png")
            elif number % 5 == 3:
                image.convert("L").save(folder / name / f"{number:02}.png")
            else:
                image.save(folder / name / f"{number:02}.jpg")
    return folder


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
    pytest.importorskip("onnxruntime")
    return export_model(run, "onnx")
