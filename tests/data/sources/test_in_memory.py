"""Images in memory: every form of the same pixels is the same image, and what could mean two things is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loupe.data.hashing import content_hashes
from loupe.data.pixels.decode import decode
from loupe.data.sources.in_memory import local_path
from loupe.data.sources.inference_inputs import table_of
from loupe.data.sources.open import from_arrays, open_table
from loupe.errors import DataError

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (5, 7), np.uint8)
RGBA = np.concatenate([RGB, RANDOM.integers(0, 256, (5, 7, 1), np.uint8)], axis=2)
BATCH = RANDOM.integers(0, 256, (6, 5, 7, 3), np.uint8)


def pixels(images) -> np.ndarray:
    """Decoded pixels [N, H, W, 3] of a table, or of what is given to predict."""
    table = images if hasattr(images, "encoded") else table_of(images)
    return np.stack([np.asarray(decode(table.encoded(i), table.paths[i])) for i in range(len(table))])


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


FORMS = {
    "array": lambda x, _: x,
    "list of an array": lambda x, _: [x],
    "batch": lambda x, _: x[None],
    "list of a batch": lambda x, _: [x[None]],
    "tuple": lambda x, _: (x,),
    "generator": lambda x, _: (one for one in [x]),
    "object array": lambda x, _: np.array([Image.fromarray(x), None], dtype=object)[:1],
    "nested list": lambda x, _: [x.tolist()],
    "tensor": lambda x, _: torch.from_numpy(x),
    "tensor with gradients": lambda x, _: (torch.from_numpy(x) / 255).requires_grad_(),
    "bfloat16": lambda x, _: torch.from_numpy(x).to(torch.bfloat16) if x.max() < 200 else torch.from_numpy(x).float(),
    "float16": lambda x, _: (x / 255).astype(np.float16),
    "float32 to 1": lambda x, _: (x / 255).astype(np.float32),
    "float64 to 255": lambda x, _: x.astype(np.float64),
    "int64": lambda x, _: x.astype(np.int64),
    "big-endian": lambda x, _: x.astype(">i4"),
    "strided": lambda x, _: np.repeat(x, 2, axis=1)[:, ::2],
    "fortran": lambda x, _: np.asfortranarray(x),
    "PIL": lambda x, _: Image.fromarray(x),
    "bytes": lambda x, _: png(x),
    "bytearray": lambda x, _: [bytearray(png(x))],
    "memoryview": lambda x, _: memoryview(png(x)),
    "file object": lambda x, _: io.BytesIO(png(x)),
    "path": lambda x, file: file,
    "text": lambda x, file: str(file),
    "array of texts": lambda x, file: np.array([str(file)]),
    "URL": lambda x, file: file.as_uri(),
    "URL of this host": lambda x, file: "file://localhost" + file.as_uri().removeprefix("file://"),
    "folder": lambda x, file: file.parent,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("image", [GREY, RGB, RGBA], ids=["grey", "RGB", "RGBA"])
def test_every_form_of_an_image_has_its_pixels(tmp_path, form, image):
    (tmp_path / "set of one").mkdir()
    file = tmp_path / "set of one" / "a b#1%.png"
    file.write_bytes(png(image))
    (found,) = pixels(FORMS[form](image, file))
    np.testing.assert_array_equal(found, np.asarray(decode(png(image), "")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_pil_images_of_any_mode_are_as_their_files(mode):
    image = Image.fromarray(RGB).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG")
    np.testing.assert_array_equal(pixels(image)[0], np.asarray(decode(buffer.getvalue(), "")))


def test_a_list_may_be_mixed_and_keeps_its_order(tmp_path):
    for k in range(2):
        Image.fromarray(BATCH[k]).save(tmp_path / f"{k}.png")
    mixed = [
        tmp_path,
        BATCH[2],
        torch.from_numpy(BATCH[3:5] / 255),
        Image.fromarray(BATCH[5]),
        png(RGB),
        str(tmp_path / "0.png"),
        (tmp_path / "1.png").as_uri(),
        io.BytesIO(png(BATCH[0])),
    ]
    table = table_of(mixed)
    np.testing.assert_array_equal(pixels(table), [*BATCH, RGB, BATCH[0], BATCH[1], BATCH[0]])
    assert len(set(table.paths)) == len(table)


def test_training_reads_what_prediction_reads(tmp_path):
    Image.fromarray(BATCH[4]).save(tmp_path / "4.png")
    given = [BATCH[0], Image.fromarray(BATCH[1]), png(BATCH[2]), torch.from_numpy(BATCH[3]), tmp_path / "4.png", RGB]
    table = open_table((given, [*"ababab"]))
    np.testing.assert_array_equal(pixels(table), [*BATCH[:5], RGB])
    assert table.labels.tolist() == [0, 1] * 3
    assert table.paths[0] == "arrays#0" and table.paths[4].endswith("4.png")


def test_the_same_pixels_are_the_same_image_whatever_they_are_given_as():
    labels = [0, 1, 0, 1, 0, 1]
    expected = content_hashes(from_arrays(BATCH, labels))
    for images in (
        (BATCH / 255).astype(np.float32),
        torch.from_numpy(BATCH),
        [*BATCH],
        [Image.fromarray(one) for one in BATCH],
        [BATCH[0], Image.fromarray(BATCH[1]), *torch.from_numpy(BATCH[2:])],
    ):
        assert content_hashes(from_arrays(images, labels)) == expected
    assert content_hashes(table_of(BATCH)) == expected


def test_images_of_different_sizes_are_trained_on():
    table = from_arrays([GREY, RGB[:3], RGB], ["a", "b", "a"])
    assert [decode(table.encoded(i), "").size for i in range(3)] == [(7, 5), (7, 3), (7, 5)]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (RGB.transpose(2, 0, 1), r"x\.transpose\(1, 2, 0\)"),
        (RGBA.transpose(2, 0, 1), r"x\.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB).permute(2, 0, 1), r"x\.permute\(1, 2, 0\)"),
        ([torch.from_numpy(RGB).permute(2, 0, 1)] * 2, r"image 0.*x\.permute\(1, 2, 0\)"),
        (BATCH.transpose(0, 3, 1, 2), r"x\.transpose\(0, 2, 3, 1\)"),
        (torch.zeros(2, 1, 8, 8), r"x\.permute\(0, 2, 3, 1\)"),
        (torch.zeros(2, 4, 8, 8), r"x\.permute\(0, 2, 3, 1\)"),
    ],
)
def test_channels_that_come_first_are_refused_with_the_transposition(images, message):
    with pytest.raises(DataError, match=message):
        table_of(images)
    transposed = torch.from_numpy(RGB).permute(2, 0, 1).permute(1, 2, 0)
    np.testing.assert_array_equal(pixels(transposed)[0], RGB)


def test_grey_images_in_a_batch_need_no_channel():
    grey = RANDOM.integers(0, 256, (5, 8, 9), np.uint8)
    np.testing.assert_array_equal(pixels(grey)[..., 0], grey)
    np.testing.assert_array_equal(pixels(grey[:1])[..., 0], grey[:1])
    np.testing.assert_array_equal(pixels(grey[:3, ..., None])[..., 0], grey[:3])
    with pytest.raises(DataError, match="3 grey images"):
        table_of(grey[:3])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((5, 7, 3), np.nan), "finite"),
        (np.full((5, 7, 3), np.inf), "finite"),
        (np.linspace(-1, 1, 105).reshape(5, 7, 3), "-1 to 1"),
        (np.full((5, 7, 3), 256), "256"),
        (np.full((5, 7, 3), 65535, np.uint16), "65535"),
        (np.full((5, 7, 3), 1.02), "0 to 1 or 0 to 255"),
        (np.zeros((5, 7, 3), complex), "complex"),
        ([np.full((5, 7), 0.5), np.full((5, 7), 200.5)], "image 0 has floats from 0 to 1, and .*image 1"),
    ],
)
def test_values_that_are_no_pixels_or_of_either_range_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        table_of(images)
    with pytest.raises(DataError, match=message):
        from_arrays(images if isinstance(images, list) else images[None], [0, 1][: len(images)])


def test_ranges_of_floats_are_told_apart():
    halves = np.array([[0.0, 127.5], [200.4, 255.0]])
    np.testing.assert_array_equal(pixels(halves)[0, ..., 0], [[0, 128], [200, 255]])
    np.testing.assert_array_equal(pixels(np.array([[0.0, 0.5], [1.0, 0.1]]))[0, ..., 0], [[0, 128], [255, 26]])
    np.testing.assert_array_equal(pixels(np.array([[0.0, 2.0], [3.0, 1.0]]))[0, ..., 0], [[0, 2], [3, 1]])
    np.testing.assert_array_equal(pixels(np.array([[False, True]]))[0, ..., 0], [[0, 255]])
    np.testing.assert_array_equal(pixels([np.zeros((5, 7)), np.full((5, 7), 255.0)])[:, 0, 0, 0], [0, 255])


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [None],
        [RGB, None],
        3,
        1.5,
        True,
        object(),
        {"a.png"},
        {"image": RGB},
        [],
        [[]],
        (),
        np.zeros((0, 5, 7, 3), np.uint8),
        np.uint8(1),
        np.zeros(5, np.uint8),
        np.zeros((1, 2, 3, 4, 5), np.uint8),
        np.zeros((5, 7, 2), np.uint8)[None],
        np.array(["2020"], "datetime64[D]"),
        [{"bytes": png(RGB)}],
        [[RGB.tolist(), [1]]],
        io.StringIO("text"),
        Image.new("F", (4, 4)),
        Image.new("RGB", (0, 4)),
        lambda: RGB,
        int,
    ],
    ids=lambda wrong: type(wrong).__name__,  # the same in every process: no addresses
)
def test_what_is_no_image_is_refused_with_what_is_allowed(wrong):
    with pytest.raises(DataError, match="image"):
        table_of(wrong)
    with pytest.raises(DataError):
        open_table((wrong, [0]))


def test_files_in_text_mode_closed_or_read_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(RGB))
    with (tmp_path / "a.png").open(encoding="latin-1") as file, pytest.raises(DataError, match="binary mode"):
        table_of(file)
    with pytest.raises(DataError, match="closed"):
        table_of(file)
    with (tmp_path / "a.png").open("rb") as read:
        np.testing.assert_array_equal(pixels(read)[0], RGB)
        with pytest.raises(DataError, match=r"seek\(0\)"):
            table_of([read])


def test_urls_name_files_of_this_machine(tmp_path):
    assert local_path("file:///a%20b/c%23.png") == str(Path("/a b/c#.png"))
    assert local_path(str(Path("file:///a/b.png"))) == str(Path("/a/b.png"))
    assert local_path("a/file:1.png") == "a/file:1.png"
    with pytest.raises(DataError, match="host 'elsewhere'"):
        table_of("file://elsewhere/a.png")
    with pytest.raises(DataError, match="--to OUT"):
        table_of("https://example.org/a.png")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(RGB).save(tmp_path / "photos" / name / "1.png")
    assert open_table((tmp_path / "photos").as_uri()).classes == ("a", "b")


def test_bytes_that_are_no_image_are_damaged():
    table = table_of([png(RGB), b"raw pixels", b""])
    assert table.paths == ("image 0", "image 1", "image 2")
    assert [table.encoded(i) for i in (1, 2)] == [b"raw pixels", b""]
