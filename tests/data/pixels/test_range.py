"""Range of pixel values: 16-bit and 12-bit grey, values settled from training images, and what cannot be scaled."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import loupe
from loupe.config.recipe import InputSpec, Preprocessing
from loupe.data.audit.check import check
from loupe.data.audit.findings import findings
from loupe.data.hashing import content_hashes
from loupe.data.pixels.decode import decode, scale_levels, stored_levels
from loupe.data.pixels.prepare import used_levels
from loupe.data.sources.open import open_table
from loupe.errors import DataError, ImageError
from loupe.models import bundle

RANDOM = np.random.default_rng(5)


def encoded(level_HW, format="PNG", dtype=np.uint16):
    buffer = io.BytesIO()
    Image.fromarray(level_HW.astype(dtype)).save(buffer, format)
    return buffer.getvalue()


def dark_folder(folder, high=250, each=12, dtype=np.uint16):
    """16-bit PNG of two classes, the second brighter, with values from 3 to `high`."""
    for c, name in enumerate(("dim", "lit")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            level_HW = RANDOM.integers(3 + c * high // 2, high // 2 + c * high // 2 + 1, (8, 8))
            level_HW[0, :2] = 3, high
            (folder / name / f"{number}.png").write_bytes(encoded(level_HW, dtype=dtype))
    return folder


@given(st.integers(0, 65534), st.integers(1, 65535), st.lists(st.integers(0, 65535), min_size=1))
def test_levels_are_scaled_linearly_and_rounded(low, span, values):
    high = min(65535, low + span)
    level = np.array(values, np.uint16)
    exact = 255 * (np.clip(level.astype(float), low, high) - low) / (high - low)
    assert np.abs(scale_levels(level, (low, high)) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_keep_all_grey_levels(format):
    level_HW = np.arange(4096).reshape(64, 64)
    data = encoded(level_HW, format)
    assert len(np.unique(np.asarray(decode(data, "x")))) == 16
    scaled = np.asarray(decode(data, "x", levels=(0, 4095)))[..., 0]
    assert len(np.unique(scaled)) == 256
    np.testing.assert_allclose(scaled, level_HW * 255 / 4095, atol=0.5)
    assert stored_levels(data, "x") == ((0, 4095), 16)


def test_white_is_zero_is_inverted_before_it_is_scaled():
    level_HW = np.array([[0, 100, 200]])
    buffer = io.BytesIO()
    Image.fromarray(level_HW.astype(np.uint16)).save(buffer, "TIFF", tiffinfo={262: 0})
    data = buffer.getvalue()
    assert stored_levels(data, "x") == ((65335, 65535), 16)
    np.testing.assert_array_equal(np.asarray(decode(data, "x", levels=(65335, 65535)))[0, :, 0], [255, 128, 0])


def test_eight_bits_are_stretched_and_transparency_stays_white():
    pixels = np.array([[[10, 60, 110, 255], [10, 10, 10, 0]]], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    shown = np.asarray(decode(buffer.getvalue(), "x", levels=(10, 110)))
    np.testing.assert_array_equal(shown[0], [[0, 128, 255], [255, 255, 255]])


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ImageError, match="8 bits per channel"):
        decode(encoded(np.zeros((2, 2)), dtype=np.uint8), "x", levels=(0, 4095))
    row = struct.pack(">3H", 1, 2, 3)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    wide_colour = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert decode(wide_colour, "x").size == (1, 1)
    for data in (wide_colour, b"P6\n1 1\n4095\n" + row):
        with pytest.raises(ImageError, match="16 bits with colour"):
            decode(data, "x", levels=(0, 255))


@pytest.mark.parametrize("wrong", [[5, 5], [9, 3], [-1, 4], [0, 65536], "some", [1]])
def test_a_range_is_two_values_low_before_high(wrong):
    with pytest.raises(ValidationError):
        InputSpec(range=wrong)


def test_recipes_and_bundles_of_before_have_the_full_range():
    assert InputSpec().range == "full"
    assert Preprocessing.model_validate({"size_px": 8, "load_px": 8}).range is None


def test_used_is_settled_from_the_training_images_alone(tmp_path):
    table = open_table(dark_folder(tmp_path / "d"))
    (tmp_path / "d" / "dim" / "0.png").write_bytes(encoded(np.array([[0, 60000]])))
    rest = [i for i, path in enumerate(table.paths) if path != "dim/0.png"]
    assert used_levels(table, np.array(rest)) == (3, 250)


def test_depths_that_differ_are_refused(tmp_path):
    folder = dark_folder(tmp_path / "d")
    (folder / "dim" / "8bit.png").write_bytes(encoded(np.array([[0, 60]]), dtype=np.uint8))
    table = open_table(folder)
    with pytest.raises(DataError, match="1 of 8 bits and 24 of 16 bits"):
        used_levels(table, np.arange(len(table)))


@pytest.mark.usefixtures("bare")
def test_a_run_with_the_used_range_sees_records_and_ships_it(tmp_path):
    folder = dark_folder(tmp_path / "d", each=30)
    options = {"recipe": "digits", "output": tmp_path / "runs", "device": "cpu", "quiet": True, "precision": "fp32"}
    blind = loupe.train(folder, epochs=1, name="full", **options)
    assert np.ptp(blind.predict_proba(folder), axis=0).max() == 0  # all images are black
    run = loupe.train(folder, epochs=8, name="used", settings=["input.range=used"], **options)
    assert run.recipe.input.range == (3, 250)
    assert bundle.BundleConfig.read(run.path / "model" / "config.json").preprocessing.range == (3, 250)
    assert np.ptp(run.predict_proba(folder), axis=0).max() > 0.5
    repeated = options | {"recipe": run.path / "recipe.yaml"}
    again = loupe.train(folder, epochs=8, name="again", **repeated)
    np.testing.assert_array_equal(again.predict_proba(folder), run.predict_proba(folder))


def test_check_finds_blank_images_unused_bits_and_one_colour(tmp_path):
    folder = dark_folder(tmp_path / "d")
    (folder / "dim" / "flat.png").write_bytes(encoded(np.full((4, 4), 77)))
    report = check(table := open_table(folder), content_hashes(table))
    assert not report.ok
    assert len(report.blank) == 24 and report.one_colour == ("dim/flat.png",)
    (depth,) = report.depths
    assert (depth.bits, depth.images, depth.low, depth.high, depth.grey_levels) == (16, 25, 3, 250, 1)
    assert any("input.range=used" in title for title, _ in findings(report))
    assert report.to_json()["depths"] == [{"bits": 16, "images": 25, "low": 3, "high": 250}]


def test_a_fine_texture_is_not_taken_for_one_colour(tmp_path):
    (tmp_path / "a").mkdir()
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)  # the mean of every 8 x 8 block is grey
    Image.fromarray(checks).save(tmp_path / "a" / "1.jpg", quality=100)
    Image.new("RGB", (256, 256), (90, 90, 90)).save(tmp_path / "a" / "2.jpg")
    report = check(table := open_table(tmp_path), content_hashes(table))
    assert report.one_colour == ("a/2.jpg",) and report.ok


def test_sixteen_bits_that_are_used_are_no_finding(tmp_path):
    table = open_table(dark_folder(tmp_path / "d", high=65535))
    report = check(table, content_hashes(table))
    assert report.ok and not report.blank and not any("unused" in title for title, _ in findings(report))
