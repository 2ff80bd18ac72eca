"""Resizing in PyTorch operations: bit for bit the pixels of the decoder, for every size, filter and way to fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.config.size import Size
from loupe.data.pixels.decode import resized
from loupe.export.resize import FILTERS, resize
from loupe.export.resize_in_fp32 import resize_in_fp32

RNG = np.random.default_rng(0)


def differing(pixels_HWC: np.ndarray, size: Size, mode: str, interpolation: str) -> int:
    """Number of values in which one of the two ways to resize differs from the decoder."""
    expected = resized(Image.fromarray(pixels_HWC), size, mode, interpolation, 2)
    image = torch.from_numpy(pixels_HWC)[None]
    ways = (resize(image, size, mode, interpolation), resize_in_fp32(image, size, mode, interpolation))
    return sum(int((found[0].numpy() != expected).sum()) for found in ways)


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize("size", [Size(32, 32), Size(48, 96), Size(9, 7)], ids=str)
def test_pixels_are_those_of_the_decoder(mode, interpolation, size):
    for height, width in [
        (375, 500),
        (500, 375),
        (28, 28),
        (1, 1),
        (333, 1000),
        (1000, 33),
        (40, 3),
        (2, 900),
        (96, 192),
    ]:
        pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert differing(pixels, size, mode, interpolation) == 0, (height, width)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["crop", "pad", "squash"]),
    st.sampled_from(sorted(FILTERS)),
    st.sampled_from(["noise", "black and white", "white"]),
)
def test_any_size_to_any_size(sides, size, mode, interpolation, content):
    pixels = np.random.default_rng(1).integers(0, 256, (*sides, 3), dtype=np.uint8)
    if content == "black and white":  # filters with negative lobes leave the range, and are clipped
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    elif content == "white":
        pixels[:] = 255
    assert differing(pixels, Size(*size), mode, interpolation) == 0


def test_images_of_a_batch_do_not_mix():
    images = RNG.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    together = resize(torch.from_numpy(images), Size(20, 30), "squash", "bicubic")
    alone = [resize(torch.from_numpy(image)[None], Size(20, 30), "squash", "bicubic")[0] for image in images]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.slow
def test_a_photograph_of_twelve_megapixels():
    pixels = RNG.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    for interpolation in sorted(FILTERS):
        assert differing(pixels, Size(224, 224), "crop", interpolation) == 0
