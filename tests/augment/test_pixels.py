"""Crops, normalisation, brightness, cutout, mixup and cutmix against arithmetic and NumPy."""

import numpy as np
import pytest
import torch
from scipy import stats

from loupe.augment import geometry, pixels
from loupe.config.size import Size

N = 4000


def draws(count: int, size: int = N, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, size)))


def batch(size: int, side: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(size, side, side, 3).permute(0, 3, 1, 2)


def test_padded_crops_reach_every_offset_equally_often() -> None:
    row, column = draws(2)
    map_B23 = pixels.padded_crop_map(3, row_B=row, column_B=column)
    np.testing.assert_array_equal(map_B23[:, :, :2], np.broadcast_to(np.eye(2), (N, 2, 2)))
    table = np.zeros((7, 7))
    np.add.at(table, tuple((map_B23[:, :, 2] + 3).astype(int).T), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_resized_crops_lie_inside_and_have_the_area_and_ratio_drawn() -> None:
    area_B, ratio_B, row_B, column_B = draws(4)
    map_B23 = pixels.resized_crop_map(
        Size.of(256), Size.of(224), (0.08, 1.0), area_B=area_B, ratio_B=ratio_B, row_B=row_B, column_B=column_B
    )
    height, width = 224 * map_B23[:, 0, 0], 224 * map_B23[:, 1, 1]
    corner = map_B23[:, :, 2] + 0.5 - np.stack([height, width], 1) / 448  # outer side of the first pixel, from 0
    assert corner.min() > -1e-9
    assert (corner[:, 0] + height).max() < 256 + 1e-9 and (corner[:, 1] + width).max() < 256 + 1e-9
    np.testing.assert_allclose(height * width / 256**2, 0.08 + 0.92 * area_B)
    ratio = width / height
    assert 0.75 - 1e-9 < ratio.min() < 0.76 and 1.32 < ratio.max() < 4 / 3 + 1e-9
    assert stats.kstest(np.log(ratio[area_B < 0.6]), "uniform", (np.log(0.75), np.log(16 / 9))).pvalue > 1e-3


def test_a_resized_crop_of_the_whole_is_the_whole() -> None:
    x = batch(2, 32)
    one = np.ones(2) * 0.3
    whole = pixels.resized_crop_map(
        Size.of(32), Size.of(32), (1.0, 1.0), area_B=one, ratio_B=one, row_B=one, column_B=one
    )
    np.testing.assert_allclose(geometry.warp(x, whole), x, atol=1e-5)


@pytest.mark.parametrize(
    ("load", "size", "area", "samples"),
    [
        (32, 32, (0.5, 1.0), 1),
        (256, 224, (0.08, 1.0), 1),
        (96, 64, (0.1, 1.0), 1),
        (97, 64, (0.1, 1.0), 2),
        (128, 32, (0.1, 1.0), 3),
        (128, 32, (0.01, 0.02), 1),
    ],
)
def test_samples_for_resized_crops(load: int, size: int, area: tuple[float, float], samples: int) -> None:
    assert pixels.resized_crop_samples(Size.of(load), Size.of(size), area) == samples


def test_normalising_is_arithmetic_in_both_layouts() -> None:
    x = torch.randint(0, 256, (5, 7, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
    expected = (x.numpy() / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    normal = pixels.normalise(x, mean, std)
    np.testing.assert_allclose(normal, expected, atol=2e-6)
    assert normal.is_contiguous(memory_format=torch.channels_last)
    planar = x.float().contiguous()
    before = planar.clone()
    assert torch.equal(pixels.normalise(planar, mean, std), normal)
    assert torch.equal(planar, before)


def test_brightness_multiplies_and_clips() -> None:
    x = torch.full((3, 3, 2, 2), 100.0)
    np.testing.assert_allclose(pixels.brighten(x, np.array([0.5, 1.0, 3.0]))[:, 0, 0, 0], [50, 100, 255])


@pytest.mark.parametrize("size", [Size(16, 16), Size(16, 29), Size(29, 16)], ids=str)
@pytest.mark.parametrize("side", [1, 4, 5, 16])
def test_cutout_is_a_square_about_a_uniform_pixel(side: int, size: Size) -> None:
    row, column = draws(2, 500)
    x = torch.ones(500, *size, 3).permute(0, 3, 1, 2)
    pixels.cut_out(x, side, row_B=row, column_B=column)
    expected = np.ones((500, 3, *size))
    for b in range(500):
        top, left = int(row[b] * size[0]) - side // 2, int(column[b] * size[1]) - side // 2
        expected[b, :, max(top, 0) : top + side, max(left, 0) : left + side] = 0
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_beta_draws_have_the_beta_distribution(alpha: float) -> None:
    weight = pixels.beta_quantile(draws(1)[0], alpha)
    assert stats.kstest(weight, "beta", (alpha, alpha)).pvalue > 1e-3


def test_blending_is_arithmetic_and_exact_at_its_ends() -> None:
    x, partner = batch(4, 6), batch(4, 6, seed=1)
    weight = np.array([0.0, 0.3, 0.8, 1.0])
    mixed = pixels.blend(x, partner, weight)
    w = weight[:, None, None, None]
    np.testing.assert_allclose(mixed, w * x.numpy() + (1 - w) * partner.numpy(), atol=1e-6)
    assert torch.equal(mixed[3], x[3]) and torch.equal(mixed[0], partner[0])
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [Size(5, 5), Size(32, 32), Size(9, 31), Size(40, 24)], ids=str)
def test_cutmix_pastes_a_box_and_its_weight_is_the_share_that_is_left(size: Size) -> None:
    weight, row, column = draws(3, 200)
    weight[:3] = 1.0, 0.0, 1e-9
    box_B4, kept_B = pixels.cutmix_boxes(size, weight, row_B=row, column_B=column)
    x, partner = (make(200, *size, 3).permute(0, 3, 1, 2) for make in (torch.zeros, torch.ones))
    pasted = pixels.paste(x, partner, box_B4)
    np.testing.assert_allclose(1 - pasted.numpy().mean((1, 2, 3)), kept_B, atol=1e-6)
    for b, (top, bottom, left, right) in enumerate(box_B4):
        assert pasted[b, :, top:bottom, left:right].all() and kept_B[b] >= weight[b] - 1e-12
    inner = (box_B4[:, 0] > 0) & (box_B4[:, 1] < size[0]) & (box_B4[:, 2] > 0) & (box_B4[:, 3] < size[1])
    height, width = (np.floor(side * np.sqrt(1 - weight)) for side in size)
    np.testing.assert_allclose(kept_B[inner], (1 - height * width / (size[0] * size[1]))[inner])
    assert kept_B[0] == 1


def test_pasting_copies_bits() -> None:
    x, partner = batch(8, 9), batch(8, 9, seed=1)
    box_B4, _ = pixels.cutmix_boxes(Size.of(9), np.full(8, 0.6), row_B=draws(1, 8)[0], column_B=draws(1, 8, seed=1)[0])
    pasted = pixels.paste(x, partner, box_B4)
    assert ((pasted == x) | (pasted == partner)).all()
    assert pasted.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("loaded", "size", "first"), [(8, 4, 2), (9, 4, 2), (5, 5, 0), (3, 2, 0)])
def test_the_centre_crop(loaded: int, size: int, first: int) -> None:
    x = torch.arange(loaded * loaded).view(1, 1, loaded, loaded)
    cropped = pixels.centre_crop(x, Size.of(size))
    assert cropped.shape == (1, 1, size, size)
    assert cropped[0, 0, 0, 0] == first * (loaded + 1)


def test_the_centre_crop_of_a_rectangle() -> None:
    x = torch.arange(9 * 14).view(1, 1, 9, 14)
    assert torch.equal(pixels.centre_crop(x, Size(4, 9)), x[:, :, 2:6, 2:11])
    assert torch.equal(pixels.centre_crop(x, Size(9, 5)), x[:, :, :, 4:9])
