"""The augmenter: one contract for every specification, and each part against arithmetic of its own."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import RandomResizedCrop

from loupe.augment import random
from loupe.augment.pipeline import Augmenter, Draw, evaluation_view
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.config.size import Size, SizePx
from loupe.errors import LoupeError

SPECS = {
    "nothing": AugmentSpec(),
    "deep-cnn": AugmentSpec(rotation_degrees=15, width_shift=0.1, height_shift=0.1, horizontal_flip=True),
    "flip and crop": AugmentSpec(horizontal_flip=True, crop_padding_px=4),
    "flip in turn": AugmentSpec(horizontal_flip="alternate"),
    "upside down": AugmentSpec(vertical_flip=True, fill="reflect"),
    "every move": AugmentSpec(
        rotation_degrees=40, width_shift=0.2, height_shift=0.3, shear_degrees=20, zoom=(0.7, 1.3), crop_padding_px=2
    ),
    "constant": AugmentSpec(rotation_degrees=40, fill="constant", fill_value=127.5),
    "wrap": AugmentSpec(width_shift=0.5, fill="wrap"),
    "resized crop": AugmentSpec(random_resized_crop=(0.3, 1.0), horizontal_flip=True),
    "resized crop, turned": AugmentSpec(random_resized_crop=(0.3, 1.0), rotation_degrees=20, brightness=(0.8, 1.2)),
    "brightness": AugmentSpec(brightness=(0.5, 1.5)),
    "cutout": AugmentSpec(cutout_px=7),
}
SIZES: list[tuple[SizePx, SizePx]] = [
    (17, 17),
    (16, 21),
    (16, 40),
    ((12, 21), (12, 21)),
    ((21, 12), (25, 19)),
    ((12, 20), 24),
]
RECTANGLES: list[SizePx] = [32, (20, 33), (33, 20), (8, 64)]
INDEX = np.array([3, 0, 40, 41, 2**33, 7, 8, 9, 10, 11, 12, 13], np.int64)


def preprocessing(size: SizePx, load: SizePx) -> Preprocessing:
    return Preprocessing(size_px=size, load_px=load, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def images(count: int, size: SizePx, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *Size.of(size), 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normal(x: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] grey levels, normalised as `preprocessing` says."""
    return (x / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_contract_of_every_specification(spec: AugmentSpec, sizes: tuple[SizePx, SizePx]) -> None:
    size, load = sizes
    augmenter = Augmenter(spec, preprocessing(size, load), seed=5)
    x = images(len(INDEX), load)
    before = x.clone()
    view = augmenter.train(x, INDEX, epoch=2)
    assert torch.equal(x, before)
    assert view.shape == (len(INDEX), 3, *Size.of(size)) and view.dtype == torch.float32
    assert view.is_contiguous(memory_format=torch.channels_last)
    levels = (view.permute(0, 2, 3, 1).numpy() * [0.2, 0.25, 0.3] + [0.5, 0.4, 0.3]) * 255
    assert levels.min() > -0.01 and levels.max() < 255.01

    assert torch.equal(augmenter.train(x, INDEX, epoch=2), view)
    order = np.random.default_rng(1).permutation(len(INDEX))
    assert torch.equal(augmenter.train(x[order], INDEX[order], epoch=2), view[order])
    singles = [augmenter.train(x[b : b + 1], INDEX[b : b + 1], epoch=2) for b in range(len(INDEX))]
    assert torch.equal(torch.cat(singles), view)
    assert augmenter.train(x[:0], INDEX[:0], epoch=2).shape == (0, 3, *Size.of(size))
    if spec != AugmentSpec():
        assert not torch.equal(augmenter.train(x, INDEX, epoch=3), view)
        assert not torch.equal(augmenter.train(x, INDEX + 1, epoch=2), view)
        assert not torch.equal(Augmenter(spec, preprocessing(size, load), seed=6).train(x, INDEX, epoch=2), view)


@pytest.mark.parametrize("name", ["deep-cnn", "flip and crop", "cutout", "resized crop"])
def test_bits_are_the_same_in_a_large_batch_and_with_any_number_of_threads(name: str) -> None:
    augmenter = Augmenter(SPECS[name], preprocessing(32, 32), seed=0)
    x, index = images(256, 32), np.arange(256)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        views = torch.cat([augmenter.train(x[b : b + 1], index[b : b + 1], 0) for b in range(256)])
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            assert torch.equal(augmenter.train(x, index, 0), views)
            assert torch.equal(augmenter.train(x[:100], index[:100], 0), views[:100])
    finally:
        torch.set_num_threads(threads)


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    for size, load in SIZES:
        x, settings = images(5, load), preprocessing(size, load)
        view = evaluation_view(x, settings)
        assert torch.equal(Augmenter(AugmentSpec(), settings, 0).train(x, np.arange(5), 0), view)
        (height, width), (loaded_height, loaded_width) = Size.of(size), Size.of(load)
        top, left = (loaded_height - height) // 2, (loaded_width - width) // 2
        expected = normal(x.permute(0, 2, 3, 1).numpy()[:, top : top + height, left : left + width])
        np.testing.assert_allclose(view.permute(0, 2, 3, 1), expected, atol=5e-6)


@pytest.mark.parametrize("size", RECTANGLES, ids=str)
def test_a_view_is_what_keras_would_make_of_the_same_draws(size: SizePx) -> None:
    """From the uniform numbers alone: Keras's parameters, SciPy's warp, the flip after it, then normalisation."""
    spec = AugmentSpec(
        rotation_degrees=15, width_shift=0.1, height_shift=0.2, shear_degrees=10, zoom=(0.8, 1.1), horizontal_flip=True
    )
    x, (height, width) = images(64, size), Size.of(size)
    view = Augmenter(spec, preprocessing(size, size), seed=9).train(x, np.arange(64), 4).permute(0, 2, 3, 1).numpy()
    u = random.uniform(9, 4, np.arange(64), list(range(len(Draw))))
    flipped = u[:, Draw.HORIZONTAL_FLIP] < 0.5
    assert 10 < flipped.sum() < 54
    for b in range(64):
        theta, shear = np.deg2rad((2 * u[b, Draw.ROTATION] - 1) * 15), np.deg2rad((2 * u[b, Draw.SHEAR] - 1) * 10)
        tx, ty = (2 * u[b, Draw.ROW_SHIFT] - 1) * 0.2 * height, (2 * u[b, Draw.COLUMN_SHIFT] - 1) * 0.1 * width
        zx, zy = 0.8 + 0.3 * u[b, Draw.ROW_ZOOM], 0.8 + 0.3 * u[b, Draw.COLUMN_ZOOM]
        matrix = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
        matrix = matrix @ [[1, 0, tx], [0, 1, ty], [0, 0, 1]]
        matrix = matrix @ [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]] @ np.diag([zx, zy, 1])
        centre = np.array([height - 1, width - 1]) / 2
        offset = matrix[:2, 2] + centre - matrix[:2, :2] @ centre
        channels = [
            ndimage.affine_transform(channel.astype(float), matrix[:2, :2], offset, order=1, mode="nearest")
            for channel in x[b].numpy()
        ]
        expected = np.stack(channels, -1)[:, ::-1] if flipped[b] else np.stack(channels, -1)
        np.testing.assert_allclose(view[b], normal(expected), atol=0.05 / 255 / 0.2)


@pytest.mark.parametrize("size", [16, (12, 21), (21, 12)], ids=str)
def test_flip_and_crop_are_numpy_flips_and_pads(size: SizePx) -> None:
    spec = AugmentSpec(horizontal_flip=True, vertical_flip=True, crop_padding_px=3, fill="reflect")
    x, (height, width) = images(50, size), Size.of(size)
    view = Augmenter(spec, preprocessing(size, size), seed=1).train(x, np.arange(50), 0)
    u = random.uniform(1, 0, np.arange(50), list(range(len(Draw))))
    for b in range(50):
        image = x[b].numpy()
        image = image[:, :, ::-1] if u[b, Draw.HORIZONTAL_FLIP] < 0.5 else image
        image = image[:, ::-1] if u[b, Draw.VERTICAL_FLIP] < 0.5 else image
        padded = np.pad(image, [(0, 0), (3, 3), (3, 3)], mode="symmetric")
        top, left = int(u[b, Draw.CROP_ROW] * 7), int(u[b, Draw.CROP_COLUMN] * 7)
        expected = torch.from_numpy(padded[None, :, top : top + height, left : left + width].copy())
        assert torch.equal(view[b : b + 1], evaluation_view(expected, preprocessing(size, size)))


def test_a_larger_image_is_cropped_to_its_centre_before_it_is_moved() -> None:
    x = images(6, 40)
    for spec in (SPECS["deep-cnn"], SPECS["flip and crop"]):
        large = Augmenter(spec, preprocessing(16, 40), seed=2).train(x, np.arange(6), 0)
        centre = x[:, :, 12:28, 12:28].clone(memory_format=torch.channels_last)
        small = Augmenter(spec, preprocessing(16, 16), seed=2).train(centre, np.arange(6), 0)
        assert torch.equal(large, small)
        wide = Augmenter(spec, preprocessing((12, 30), 40), seed=2).train(x, np.arange(6), 0)
        centre = x[:, :, 14:26, 5:35].clone(memory_format=torch.channels_last)
        own = Augmenter(spec, preprocessing((12, 30), (12, 30)), seed=2).train(centre, np.arange(6), 0)
        assert torch.equal(wide, own)


def test_resized_crops_of_a_ramp_read_where_they_should() -> None:
    """On a horizontal ramp each value is its position: rows agree, columns step evenly, and nothing lies outside."""
    ramp = torch.arange(40, dtype=torch.uint8).repeat(20, 3, 40, 1).contiguous(memory_format=torch.channels_last)
    settings = Preprocessing(size_px=16, load_px=40)
    view = Augmenter(AugmentSpec(random_resized_crop=(0.2, 0.6)), settings, 0).train(ramp, np.arange(20), 0) * 255
    assert (view[:, :, :1] - view).abs().max() < 1e-3
    inner = view[:, 0, 0, 1:-1].diff(dim=1)
    assert (inner - inner.mean(1, keepdim=True)).abs().max() < 1e-2
    width = inner.mean(1) * 16
    assert 40 * np.sqrt(0.2 * 0.75) - 0.1 < width.min() and width.max() < 40 * np.sqrt(0.6 * 4 / 3) + 0.1


@pytest.mark.parametrize(
    ("size", "load"), [((24, 40), (24, 40)), ((40, 24), (46, 28)), ((24, 40), 40), ((16, 64), 64)], ids=str
)
def test_resized_crops_of_rectangles_are_torchvisions_with_ratios_of_the_input(size: SizePx, load: SizePx) -> None:
    """Crops have the area that was drawn, and the proportions of the input times 3/4 to 4/3 if such crops fit."""
    (height, width), (loaded_height, loaded_width) = Size.of(size), Size.of(load)
    rows = torch.arange(loaded_height)[:, None].expand(loaded_height, loaded_width)
    columns = torch.arange(loaded_width).expand(loaded_height, loaded_width)
    ramps = torch.stack([rows, columns, columns * 0]).to(torch.uint8)[None].repeat(400, 1, 1, 1)
    settings = Preprocessing(size_px=size, load_px=load)
    spec, low, high = AugmentSpec(random_resized_crop=(0.15, 0.4)), 0.15, 0.4
    view = (
        Augmenter(spec, settings, 0).train(ramps.contiguous(memory_format=torch.channels_last), np.arange(400), 0) * 255
    )
    u = random.uniform(0, 0, np.arange(400), list(range(len(Draw))))
    step_row = (view[:, 0, height // 2 + 1] - view[:, 0, height // 2])[:, width // 2].numpy()
    step_column = (view[:, 1, :, width // 2 + 1] - view[:, 1, :, width // 2])[:, height // 2].numpy()
    crop_height, crop_width = step_row * height, step_column * width
    area = low + (high - low) * u[:, Draw.RESIZED_AREA]
    np.testing.assert_allclose(crop_height * crop_width / (loaded_height * loaded_width), area, rtol=2e-2)
    assert crop_height.max() < loaded_height + 0.05 and crop_width.max() < loaded_width + 0.05
    stretch = (crop_width / crop_height) / (width / height)
    fits = (loaded_width / loaded_height) / (width / height)
    least, most = (np.clip(bound, fits * area, fits / area) for bound in (3 / 4, 4 / 3))
    assert (stretch > least - 0.03).all() and (stretch < most + 0.03).all()
    if fits == 1:
        ratio = tuple(bound * width / height for bound in (3 / 4, 4 / 3))
        torch.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(ramps[0], [0.15, 0.4], list(ratio))[2:] for _ in range(4000)], np.float64
        )
        assert stats.ks_2samp(np.log(theirs[:, 1] / theirs[:, 0]), np.log(crop_width / crop_height)).statistic < 0.12
        assert stats.ks_2samp(theirs.prod(1), crop_height * crop_width).statistic < 0.12


def test_adding_an_augmentation_does_not_change_the_draws_of_another() -> None:
    settings, x = preprocessing(16, 16), images(8, 16)
    plain = Augmenter(AugmentSpec(horizontal_flip=True), settings, 0).train(x, np.arange(8), 0)
    more = Augmenter(AugmentSpec(horizontal_flip=True, cutout_px=4, brightness=(1.0, 1.0)), settings, 0)
    cut = more.train(x, np.arange(8), 0)
    assert torch.equal(cut[cut != 0], plain[cut != 0])
    assert len({draw.value for draw in Draw}) == len(Draw.__members__)


def test_partners_come_from_the_whole_training_set_whatever_the_batch() -> None:
    augmenter = Augmenter(AugmentSpec(mixup_alpha=0.2), preprocessing(16, 16), seed=0)
    population, index = np.arange(100, 150), np.arange(5000)
    partners = augmenter.partners(index, 3, population)
    assert stats.chisquare(np.bincount(partners - 100, minlength=50)).pvalue > 1e-3
    np.testing.assert_array_equal(augmenter.partners(index[::-3], 3, population), partners[::-3])
    assert (augmenter.partners(index, 4, population) != partners).mean() > 0.9
    with pytest.raises(ValueError, match="at least one"):
        augmenter.partners(index, 3, population[:0])


@pytest.mark.parametrize("size", [12, (7, 18)], ids=str)
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing(mixup: float, cutmix: float, size: SizePx) -> None:
    """Images of ones and partners of zeros: the mean of what comes out is the weight that is reported."""
    count = 2000
    augmenter = Augmenter(AugmentSpec(mixup_alpha=mixup, cutmix_alpha=cutmix), preprocessing(size, size), seed=3)
    x, partner = (make(count, *Size.of(size), 3).permute(0, 3, 1, 2) for make in (torch.ones, torch.zeros))
    mixed, weight = augmenter.mix(x, partner, np.arange(count), 1)
    assert weight.shape == (count,) and weight.dtype == torch.float32
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), weight, atol=1e-6)
    flat = (mixed.amax((1, 2, 3)) - mixed.amin((1, 2, 3))) < 1e-6
    boxed = ((mixed == 0) | (mixed == 1)).all(3).all(2).all(1)
    assert (flat | boxed).all()
    if mixup and cutmix:
        chosen = random.uniform(3, 1, np.arange(count), Draw.MIX_CHOICE) < 0.5
        assert 0.45 < chosen.mean() < 0.55
        assert boxed[chosen].all() and flat[~chosen].all()
    singles = [augmenter.mix(x[b : b + 1], partner[:1], np.array([b]), 1) for b in range(20)]
    assert torch.equal(torch.cat([one for one, _ in singles]), mixed[:20])
    assert torch.equal(torch.cat([one for _, one in singles]), weight[:20])
    if not cutmix:
        assert stats.kstest(weight.numpy(), "beta", (mixup, mixup)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cutout_px": 17}, "at most 16"),
        ({"crop_padding_px": 16}, "at most 15"),
        ({"fill_value": 3.0}, "constant"),
    ],
)
def test_nonsense_is_refused_with_the_remedy(settings: dict[str, float], told: str) -> None:
    with pytest.raises(LoupeError, match=told):
        Augmenter(AugmentSpec.model_validate(settings), preprocessing(16, 16), 0)
    with pytest.raises(LoupeError, match=told):
        Augmenter(AugmentSpec.model_validate(settings), preprocessing((40, 16), (40, 16)), 0)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    augmenter = Augmenter(AugmentSpec(), preprocessing(16, 20), 0)
    with pytest.raises(ValueError, match=r"\[B, 3, 20, 20\]"):
        augmenter.train(images(2, 16), np.arange(2), 0)
    with pytest.raises(ValueError, match="uint8"):
        evaluation_view(images(2, 20).float(), preprocessing(16, 20))
    with pytest.raises(ValueError, match="as many indices"):
        augmenter.train(images(2, 20), np.arange(3), 0)
    with pytest.raises(ValueError, match="mixup_alpha and cutmix_alpha"):
        augmenter.mix(images(2, 16).float(), images(2, 16).float(), np.arange(2), 0)
    with pytest.raises(LoupeError, match="seed"):
        Augmenter(AugmentSpec(), preprocessing(16, 20), -1)


def test_alternating_flips_show_each_image_both_ways_in_turn() -> None:
    settings, x, index = preprocessing(16, 16), images(400, 16), np.arange(400)
    augmenter = Augmenter(AugmentSpec(horizontal_flip="alternate"), settings, seed=3)
    plain = evaluation_view(x, settings)
    views = [augmenter.train(x, index, epoch) for epoch in range(4)]
    flipped = [(view == plain.flip(3)).all(dim=(1, 2, 3)) for view in views]
    assert torch.equal(flipped[0], ~flipped[1])
    assert torch.equal(flipped[0], flipped[2]) and torch.equal(flipped[1], flipped[3])
    assert torch.equal(flipped[0], (views[0] != plain).any(dim=3).any(dim=2).any(dim=1))
    assert 150 < flipped[0].sum() < 250
    other = Augmenter(AugmentSpec(horizontal_flip="alternate"), settings, seed=4).train(x, index, 0)
    assert not torch.equal(other, views[0])


def test_alternating_flips_leave_other_draws_and_the_first_epoch_as_they_are() -> None:
    settings, x, index = preprocessing(16, 16), images(20, 16), np.arange(20)
    specs = [AugmentSpec(horizontal_flip=flip, crop_padding_px=2, cutout_px=3) for flip in (True, "alternate")]
    random_flips, alternating = (Augmenter(spec, settings, seed=3) for spec in specs)
    assert torch.equal(random_flips.train(x, index, 0), alternating.train(x, index, 0))
    assert not torch.equal(random_flips.train(x, index, 1), alternating.train(x, index, 1))


@pytest.mark.parametrize("size", [16, (12, 20)], ids=str)
def test_a_resolution_reduces_the_augmented_views_by_means_of_whole_pixels(size: SizePx) -> None:
    settings, x, index = preprocessing(size, size), images(6, size), np.arange(6)
    spec = AugmentSpec(crop_padding_px=2, cutout_px=3, brightness=(0.8, 1.2))
    whole = Augmenter(spec, settings, seed=3).train(x, index, 1)
    half = Augmenter(spec.model_copy(update={"resolution": 0.5}), settings, seed=3).train(x, index, 1)
    height, width = Size.of(size)
    blocks = whole.reshape(6, 3, height // 2, 2, width // 2, 2)
    torch.testing.assert_close(half, blocks.mean(dim=(3, 5)))
    assert half.is_contiguous(memory_format=torch.channels_last)
    levels = Augmenter(AugmentSpec(resolution=0.75), settings, seed=3).train(x * 0 + 100, index, 1)
    assert levels.shape[2:] == (height * 3 // 4, width * 3 // 4)
    torch.testing.assert_close(levels.flatten(2).amax(2), levels.flatten(2).amin(2))
