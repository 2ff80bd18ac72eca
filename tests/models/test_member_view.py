"""Views of the members of a blend: crops, resized parts, grey and normalisation, beside PyTorch's own functions."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError
from loupe.models.member_view import shared_input, view


def pixels(size_px, load_px=None, **more) -> Preprocessing:
    return Preprocessing(size_px=size_px, load_px=load_px or size_px, **more)


def images(channels: int, *size: int) -> torch.Tensor:
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size_px", [16, (30, 20), 64])
def test_another_size_is_resized_as_with_antialiasing(interpolation, size_px):
    own, shared = pixels(size_px, interpolation=interpolation), pixels((45, 30) if size_px == (30, 20) else 40)
    x_BCHW = images(3, *shared.size)
    wanted = interpolate(x_BCHW, size=tuple(own.size), mode=interpolation, antialias=True)
    torch.testing.assert_close(view(own, shared)(x_BCHW), wanted, rtol=1e-4, atol=1e-4)


def test_members_share_the_finest_resolution_and_the_widest_view():
    lite0, lite2, whole = pixels(224, 256), pixels(260, 292, interpolation="bicubic"), pixels(32)
    shared = shared_input(["one", "two"], [lite0, lite2])
    assert (shared.size_px, shared.load_px, shared.interpolation) == (260, 292, "bicubic")
    assert len(view(lite2, shared)) == 0
    shared = shared_input(["one", "two", "three"], [lite0, lite2, whole])
    assert (shared.size_px, shared.load_px) == (292, 292)
    x_BCHW = images(3, 292, 292)
    torch.testing.assert_close(view(lite2, shared)(x_BCHW), x_BCHW[:, :, 16:276, 16:276], rtol=0, atol=0)


def test_a_member_sees_its_part_of_the_image():
    """Coordinates of the pixels, as values: resizing keeps them to a tenth of a pixel."""
    own, shared = pixels(224, 256), pixels(260, 292)
    across_HW = (torch.arange(260) + 0.5 + 16).expand(260, 260) / 292
    seen_HW = view(own, shared)(across_HW[None, None])[0, 0]
    wanted_HW = ((torch.arange(224) + 0.5 + 16) / 256).expand(224, 224)
    torch.testing.assert_close(seen_HW[:, 2:-2], wanted_HW[:, 2:-2], rtol=0, atol=0.1 / 292)


def test_a_grey_member_sees_pillows_grey_in_its_own_normalisation():
    own = pixels(8, channels=1, mean=(0.3,) * 3, std=(0.2,) * 3)
    shared = pixels(8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    rgb_HWC = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    grey_HW = np.asarray(Image.fromarray(rgb_HWC).convert("L")) / 255
    x_HWC = (rgb_HWC / 255 - np.array(shared.mean)) / np.array(shared.std)
    seen = view(own, shared)(torch.tensor(x_HWC, dtype=torch.float32).permute(2, 0, 1)[None])
    assert seen.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(seen[0, 0].numpy(), (grey_HW - 0.3) / 0.2, atol=0.6 / 255 / 0.2)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (pixels(16, resize="pad"), "input.resize=crop"),
        (pixels(16, range=(0, 4095)), "input.range"),
        (pixels((16, 24)), "other shapes"),
        (pixels(8, interpolation="nearest"), "nearest"),
    ],
)
def test_inputs_that_cannot_be_shared_are_refused(other, named):
    with pytest.raises(ConfigError, match=named):
        shared_input(["one", "two"], [pixels(16), other])
