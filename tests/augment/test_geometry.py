"""The warp against SciPy, Keras's geometry, NumPy's padding and whole-pixel arithmetic."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from loupe.augment import geometry
from loupe.augment.geometry import Fill
from loupe.config.size import Size, SizePx

FILLS: tuple[Fill, ...] = ("nearest", "constant", "reflect", "wrap")
CVAL = 77.0


def images(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Random uint8 images [B, C, H, W], channels-last."""
    batch, channels, height, width = shape
    return torch.from_numpy(rng.integers(0, 256, (batch, height, width, channels), np.uint8)).permute(0, 3, 1, 2)


def keras_parameters(rng: np.random.Generator, batch: int, side: int, strength: float = 1.0) -> dict[str, np.ndarray]:
    """Parameters as Keras draws them, up to half-turns and shifts by the whole side."""

    def symmetric(bound: float) -> np.ndarray:
        return rng.uniform(-bound * strength, bound * strength, batch)

    return {
        "rotation_degrees_B": symmetric(180),
        "row_shift_px_B": symmetric(side),
        "column_shift_px_B": symmetric(side),
        "shear_degrees_B": symmetric(60),
        "row_zoom_B": rng.uniform(0.4, 2.5, batch) ** strength,
        "column_zoom_B": rng.uniform(0.4, 2.5, batch) ** strength,
    }


def keras_style(image: np.ndarray, parameters: dict[str, float], fill: Fill) -> np.ndarray:
    """One image [H, W, C] as Keras transforms it: 3 x 3 matrices, moved to the centre, SciPy for each channel."""
    theta = np.deg2rad(parameters["rotation_degrees_B"])
    shear = np.deg2rad(parameters["shear_degrees_B"])
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, parameters["row_shift_px_B"]], [0, 1, parameters["column_shift_px_B"]], [0, 0, 1]])
    shearing = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([parameters["row_zoom_B"], parameters["column_zoom_B"], 1])
    row, column = image.shape[0] / 2 - 0.5, image.shape[1] / 2 - 0.5
    to_centre = np.array([[1, 0, row], [0, 1, column], [0, 0, 1]])
    matrix = to_centre @ rotation @ shift @ shearing @ zoom @ np.linalg.inv(to_centre)
    return scipy_warp(image, matrix[:2], fill)


def scipy_warp(image: np.ndarray, matrix: np.ndarray, fill: Fill, size: tuple[int, int] | None = None) -> np.ndarray:
    channels = [
        ndimage.affine_transform(channel, matrix[:, :2], matrix[:, 2], output_shape=size, order=1, mode=fill, cval=CVAL)
        for channel in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    return np.stack(channels, axis=-1)


def off_seam(matrix: np.ndarray, height: int, width: int, fill: Fill) -> np.ndarray:
    """Where the exact position is over 0.001 px from a jump of `constant` or `wrap`, which float32 may step over."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    clear = np.ones((height, width), bool)
    for axis, side in enumerate((height, width)):
        position = matrix[axis, 0] * rows + matrix[axis, 1] * columns + matrix[axis, 2]
        if fill == "constant":
            clear &= (np.abs(position) > 1e-3) & (np.abs(position - side + 1) > 1e-3)
        if fill == "wrap" and side > 1:
            clear &= np.abs(position / (side - 1) - np.round(position / (side - 1))) * (side - 1) > 1e-3
    return clear


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", [1, 2, 3, 8, 31, 32, 150, (20, 33), (33, 20), (1, 7), (90, 12)], ids=str)
def test_the_warp_is_keras_with_scipy(fill: Fill, size: SizePx) -> None:
    height, width = Size.of(size)
    side = min(height, width)
    rng = np.random.default_rng(side)
    batch = 4 if side > 100 else 24
    x = images(rng, batch, 3, height, width)
    parameters = keras_parameters(rng, batch, side)
    map_B23 = geometry.keras_map(Size.of(size), **parameters)
    warped = geometry.warp(x, map_B23, fill=fill, fill_value=CVAL).permute(0, 2, 3, 1).numpy()
    for b in range(batch):
        expected = keras_style(
            x[b].permute(1, 2, 0).numpy(), {key: value[b] for key, value in parameters.items()}, fill
        )
        clear = off_seam(map_B23[b], height, width, fill)
        assert clear.mean() > 0.9 or side < 4
        np.testing.assert_allclose(warped[b][clear], expected[clear], atol=0.05)


@pytest.mark.parametrize("fill", FILLS)
def test_any_map_of_an_oblong_image_to_another_size(fill: Fill) -> None:
    rng = np.random.default_rng(5)
    x = images(rng, 12, 1, 9, 14)
    map_B23 = rng.normal(size=(12, 2, 3)) * [[[1, 1, 6]]]
    warped = geometry.warp(x, map_B23, size_px=(7, 20), fill=fill, fill_value=CVAL)
    assert warped.shape == (12, 1, 7, 20)
    for b in range(12):
        expected = scipy_warp(x[b].permute(1, 2, 0).numpy(), map_B23[b], fill, (7, 20))
        np.testing.assert_allclose(warped[b, 0], expected[..., 0], atol=0.05)


def test_the_directions_of_shift_and_rotation() -> None:
    """By hand: a map leads from result to source, so a row shift of 1 moves the picture up; 90 degrees, clockwise."""
    zero, one = np.zeros(1), np.ones(1)
    off = {"rotation_degrees_B": zero, "row_shift_px_B": zero, "column_shift_px_B": zero}
    off |= {"shear_degrees_B": zero, "row_zoom_B": one, "column_zoom_B": one}
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 2] = 100
    up = geometry.warp(x, geometry.keras_map(Size.of(3), **(off | {"row_shift_px_B": one})))
    assert up[0, 0].argmax() == 2
    quarter = geometry.warp(x, geometry.keras_map(Size.of(3), **(off | {"rotation_degrees_B": 90 * one})))
    assert quarter[0, 0].argmax() == 7
    np.testing.assert_array_equal(geometry.warp(x, geometry.keras_map(Size.of(3), **off)), x)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("side", [1, 2, 5, 16, 33])
def test_whole_pixels_are_exact_and_equal_the_interpolated_ones(fill: Fill, side: int) -> None:
    rng = np.random.default_rng(side)
    batch = 40
    x = images(rng, batch, 3, side, side)
    shift = rng.integers(-2 * side, 2 * side + 1, (batch, 2)).astype(float)
    flips = rng.random((batch, 2)) < 0.5
    flip = geometry.flip_map(Size.of(side), vertical_B=flips[:, 0], horizontal_B=flips[:, 1])
    map_B23 = geometry.compose(flip, geometry.box_map(np.ones((batch, 2)), shift))
    fast = geometry.warp(x, map_B23, fill=fill, fill_value=CVAL, whole_pixels=True)
    general = geometry.warp(x, map_B23, fill=fill, fill_value=CVAL)
    np.testing.assert_array_equal(fast, general.round())
    for b in range(batch):
        np.testing.assert_array_equal(
            fast[b].permute(1, 2, 0), scipy_warp(x[b].permute(1, 2, 0).numpy(), map_B23[b], fill)
        )


@pytest.mark.parametrize(
    ("fill", "numpy_mode"), [("nearest", "edge"), ("reflect", "symmetric"), ("constant", "constant")]
)
def test_a_shift_is_a_crop_of_the_padded_image(fill: Fill, numpy_mode: str) -> None:
    x = images(np.random.default_rng(0), 9, 3, 12, 12)
    shift = np.stack(np.meshgrid([-4, 0, 3], [-2, 1, 4]), axis=-1).reshape(9, 2).astype(float)
    moved = geometry.warp(x, geometry.box_map(np.ones((9, 2)), shift), fill=fill, fill_value=0, whole_pixels=True)
    for b, (row, column) in enumerate(shift.astype(int)):
        padded = np.pad(x[b].numpy(), [(0, 0), (4, 4), (4, 4)], mode=numpy_mode)
        np.testing.assert_array_equal(moved[b], padded[:, 4 + row : 16 + row, 4 + column : 16 + column])


def test_flips_come_after_the_warp_and_cost_nothing_in_sharpness() -> None:
    rng = np.random.default_rng(1)
    x = images(rng, 8, 3, 15, 15)
    affine = geometry.keras_map(Size.of(15), **keras_parameters(rng, 8, 15))
    flips = rng.random((8, 2)) < 0.5
    both = geometry.compose(affine, geometry.flip_map(Size.of(15), vertical_B=flips[:, 0], horizontal_B=flips[:, 1]))
    together, warped = geometry.warp(x, both), geometry.warp(x, affine)
    for b, (vertical, horizontal) in enumerate(flips):
        axes = [axis for axis, turned in ((1, vertical), (2, horizontal)) if turned]
        np.testing.assert_allclose(together[b], warped[b].flip(axes), atol=0.02)


@pytest.mark.parametrize("fill", FILLS)
def test_bits_do_not_depend_on_batch_threads_or_layout(fill: Fill) -> None:
    rng = np.random.default_rng(2)
    threads = torch.get_num_threads()
    for side in (13, 32):
        x = images(rng, 128, 3, side, side)
        map_B23 = geometry.keras_map(Size.of(side), **keras_parameters(rng, 128, side, strength=0.2))
        whole = geometry.warp(x, map_B23, fill=fill)
        singles = torch.cat([geometry.warp(x[b : b + 1], map_B23[b : b + 1], fill=fill) for b in range(128)])
        assert torch.equal(whole, singles)
        assert torch.equal(whole, geometry.warp(x.contiguous(), map_B23, fill=fill))
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                assert torch.equal(whole, geometry.warp(x, map_B23, fill=fill))
        finally:
            torch.set_num_threads(threads)


def test_samples_average_what_a_shrinking_map_would_skip() -> None:
    """Stripes of one pixel, halved: read once they alias to black or white, sampled twice they are grey."""
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 200
    halve = geometry.box_map(np.full((1, 2), 2.0), np.full((1, 2), 0.0))
    centred = geometry.box_map(np.full((1, 2), 2.0), np.full((1, 2), 0.5))
    assert geometry.warp(stripes, halve, size_px=(16, 16)).unique().tolist() == [200]
    once = geometry.warp(stripes, centred, size_px=(16, 16), samples=2)
    np.testing.assert_allclose(once, 100, atol=1e-2)
    x = images(np.random.default_rng(0), 2, 3, 32, 32).float()
    np.testing.assert_allclose(
        geometry.warp(x, centred.repeat(2, 0), size_px=(16, 16), samples=2),
        torch.nn.functional.avg_pool2d(x, 2),
        atol=1e-2,
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_positions_at_the_edge_need_no_padding_that_metal_lacks(mode: str) -> None:
    """Far outside, just outside, on the outermost centres and inside; whole pixels are the same to the bit."""
    rng = np.random.default_rng(4)
    height, width = 5, 8
    x = images(rng, 2, 3, height, width).float()
    rows_px = rng.uniform(-2 * height, 3 * height, (2, 40, 30))
    columns_px = rng.uniform(-2 * width, 3 * width, (2, 40, 30))
    rows_px[:, 0, :9], columns_px[:, :9, 0] = np.arange(-2, 7), np.arange(0, 9)
    if mode == "nearest":
        rows_px, columns_px = rows_px.round(), columns_px.round()
    planes = [(2 * at + 1) / side - 1 for at, side in ((columns_px, width), (rows_px, height))]
    position_B2HW = torch.from_numpy(np.stack(planes, axis=1).astype(np.float32))

    def sampled(position: torch.Tensor, padding: str) -> torch.Tensor:
        grid = position.permute(0, 2, 3, 1)
        return torch.nn.functional.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)

    ours = sampled(geometry.clamp_to_edge(position_B2HW, (width, height)), "zeros")
    wanted = sampled(position_B2HW, "border")
    assert (sampled(position_B2HW, "zeros") - wanted).abs().max() > 100, "the positions do lie outside"
    np.testing.assert_allclose(ours, wanted, atol=0 if mode == "nearest" else 1e-3)
