"""A small trained run for the tests of the server."""

from pathlib import Path

import pytest

import loupe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Path:
    """Folder of a run on the digits."""
    output = tmp_path_factory.mktemp("served")
    run = loupe.train("digits", epochs=1, settings={"precision": "fp32"}, device="cpu", output=output, quiet=True)
    return run.path


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory) -> list[Path]:
    """Files of 60 digits as PNG."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{number:02}.png" for number in range(60)]
    for path, image in zip(paths, load_digits().images, strict=False):
        Image.fromarray((image * 15.9375).astype("uint8")).save(path)
    return paths
