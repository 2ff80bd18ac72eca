"""The decoder's rules, one by one, and that nothing but ImageError leaves it whatever the bytes are."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, ImageOps
from torchvision.transforms import CenterCrop

from image_files import CUT_OFF, FILES, encode, gradient
from loupe.config.size import Size
from loupe.data.formats import sniff
from loupe.data.pixels.decode import decode, load, resized
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.errors import ImageError, LoupeError

RNG = np.random.default_rng(7)
RGB_HW3 = RNG.integers(0, 256, (23, 37, 3), dtype=np.uint8)
GREY_HW = RNG.integers(0, 256, (23, 37), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "WebP": {"lossless": True}, "BMP": {}, "TIFF": {}}


def decoded(data, **options):
    image = decode(data, "x", **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits, colour, width, height, rows, *extra):
    """A PNG written by hand, for what Pillow cannot write: `rows` are the bytes of the samples of each row."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_give_the_pixels_that_were_saved(format):
    data = encode(Image.fromarray(RGB_HW3), format, **LOSSLESS[format])
    assert sniff(data) == format
    np.testing.assert_array_equal(decoded(data), RGB_HW3)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_becomes_three_equal_channels(format):
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(GREY_HW), format)), np.dstack([GREY_HW] * 3))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_is_black_and_white(format):
    bits_HW = GREY_HW > 127
    expected = np.dstack([bits_HW.astype(np.uint8) * 255] * 3)
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(bits_HW), format)), expected)


def test_jpeg_is_what_pillow_decodes():
    data = encode(Image.fromarray(RGB_HW3), "JPEG")
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


def test_the_format_is_told_by_content():
    data = encode(Image.fromarray(RGB_HW3), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(data, "cat.jpg")), RGB_HW3)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF"])
def test_palette_is_looked_up(format):
    image = Image.fromarray(RGB_HW3).quantize(16)
    np.testing.assert_array_equal(decoded(encode(image, format)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(format):
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    pixels = decoded(encode(image, format, transparency=1))
    np.testing.assert_array_equal(pixels[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90], [255, 255, 255]])


def test_a_transparent_colour_is_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    np.testing.assert_array_equal(decoded(encode(image, "PNG", transparency=(4, 5, 6)))[0], [[1, 2, 3], [255] * 3])


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WebP", "RGBA"), ("TIFF", "RGBA"), ("TIFF", "LA")]
)
def test_alpha_is_laid_over_white(format, mode):
    alpha_HW = RNG.integers(1, 256, GREY_HW.shape, dtype=np.uint8)
    colour = RGB_HW3 if mode == "RGBA" else np.dstack([GREY_HW])
    image = Image.fromarray(np.dstack([colour, alpha_HW]), mode)
    options = {"lossless": True, "exact": True} if format == "WebP" else {}
    share = alpha_HW[..., None] / 255.0
    expected = colour * share + 255.0 * (1 - share)
    assert np.abs(decoded(encode(image, format, **options)) - expected).max() <= 1


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    levels = np.array([[0, 255, 256, 1000, 32768, 65279, 65280, 65535]], dtype=np.uint16)
    for data in (
        encode(Image.fromarray(levels), "PNG"),
        encode(Image.fromarray(levels), "TIFF"),
        png(16, 0, 8, 1, [levels.astype(">u2").tobytes()]),
    ):
        pixels = decoded(data)[0]
        np.testing.assert_array_equal(pixels[:, 0], levels[0] // 256)
        assert np.abs(pixels[:, 1] - levels[0] * 255.0 / 65535).max() <= 1


def test_sixteen_bit_grey_equals_the_same_in_colour():
    levels_HW = RNG.integers(0, 2**16, (5, 9), dtype=np.uint16)
    grey = png(16, 0, 9, 5, [row.astype(">u2").tobytes() for row in levels_HW])
    colour = png(16, 2, 9, 5, [np.repeat(row, 3).astype(">u2").tobytes() for row in levels_HW])
    np.testing.assert_array_equal(decoded(grey), decoded(colour))


def test_a_transparent_level_of_sixteen_bits_is_white():
    levels = np.array([[40000, 40001, 0]], dtype=np.uint16)
    data = png(16, 0, 3, 1, [levels.astype(">u2").tobytes()], png_chunk(b"tRNS", struct.pack(">H", 40001)))
    np.testing.assert_array_equal(decoded(data)[0, :, 0], [156, 255, 0])
    colours = np.array([[1000, 2000, 3000], [50000, 60000, 65535]], dtype=">u2")
    clear = png_chunk(b"tRNS", colours[0].tobytes())
    np.testing.assert_array_equal(
        decoded(png(16, 2, 2, 1, [colours.tobytes()], clear))[0], [[255] * 3, [195, 234, 255]]
    )


def tiff(bits, photometric, width, height, body, sample_format=1):
    """A bare little-endian TIFF of one strip and one sample, for what Pillow cannot write."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(body)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_twelve_bits_are_scaled_and_white_can_be_zero():
    packed = bytes([0xFF, 0xF8, 0x00])  # two samples: 4095 and 2048
    np.testing.assert_array_equal(decoded(tiff(12, 1, 2, 1, packed))[0, :, 0], [255, 128])
    levels = np.array([0, 65535], dtype="<u2").tobytes()
    np.testing.assert_array_equal(decoded(tiff(16, 0, 2, 1, levels))[0, :, 0], [255, 0])


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_pixels_without_a_stated_range_are_refused(dtype):
    data = encode(Image.fromarray(np.ones((4, 4), dtype=dtype)), "TIFF")
    with pytest.raises(ImageError, match="no defined range; convert"):
        decode(data, "x")


def test_cmyk_is_converted():
    cmyk_HW4 = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    ink = cmyk_HW4.astype(float) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    image = Image.fromarray(cmyk_HW4, "CMYK")
    assert np.abs(decoded(encode(image, "TIFF")) - expected).max() <= 1


def test_cmyk_jpeg_is_read_as_inverted_with_and_without_adobes_marker():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encode(red, "JPEG", quality=95)  # Pillow writes it inverted, as Adobe does
    at = data.index(b"\xff\xee")
    bare = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    for each in (data, bare):
        assert np.abs(decoded(each).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF"])
def test_orientation_is_applied(format, orientation):
    upright = np.asarray(gradient(32, 16))
    to_stored = {  # the inverse of what a viewer does, in NumPy's terms
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(to_stored[orientation](upright)))
    options = {"lossless": True} if format == "WebP" else {}
    pixels = decoded(encode(stored, format, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < (5 if format == "JPEG" else 1e-9)


def test_a_damaged_block_of_metadata_counts_as_upright():
    data = encode(gradient(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format", ["GIF", "WebP", "PNG", "TIFF"])
def test_the_first_frame_of_several(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WebP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decoded(data)[4, 4], [255, 0, 0])


def test_the_pixel_limit_is_checked_before_decoding():
    wide = png(8, 0, MAX_PIXELS + 1, 1, [])
    with pytest.raises(ImageError, match="exceeds the limit"):
        decode(wide, "bomb.png")
    # Within the limit, the same file fails for what it lacks.
    with pytest.raises(ImageError, match=r"truncated|broken|damaged"):
        decode(png(8, 0, 1000, 1000, []), "short.png")


def test_pillows_globals_are_neither_used_nor_changed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decoded(encode(Image.fromarray(RGB_HW3), "PNG")).shape == RGB_HW3.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_process_that_lets_truncated_images_pass_is_told(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(LoupeError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encode(Image.fromarray(RGB_HW3), "PNG"), "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not a JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
        (b"%PDF-1.4", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged PNG header"),
        (b"\xff\xd8\xff\xe0", "damaged JPEG header"),
    ],
)
def test_what_is_no_image_is_named_with_its_reason(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, "folder/cat.jpg")
    assert caught.value.path == "folder/cat.jpg"
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", CUT_OFF)
def test_a_cut_off_file_is_an_error(name, kept):
    data = FILES[name]
    with pytest.raises(ImageError):
        decode(data[: int(kept * len(data))], "x")


@pytest.mark.parametrize("position", range(33, 400, 13))
def test_any_changed_byte_of_a_png_is_noticed(position):
    data = bytearray(FILES["PNG"])
    data[position] ^= 0x10
    with pytest.raises(ImageError):
        decode(bytes(data), "x")


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FILES)), st.data())
def test_nothing_but_image_error_leaves_whatever_the_bytes(name, draw):
    data = bytearray(FILES[name])
    # Most of what can go wrong is in the first bytes.
    reach = draw.draw(st.sampled_from([64, 700, len(data)]))
    for _ in range(draw.draw(st.integers(1, 12))):
        data[draw.draw(st.integers(0, min(reach, len(data)) - 1))] = draw.draw(st.integers(0, 255))
    start = draw.draw(st.sampled_from([0, 0, 0, 1, 100]))
    try:
        pixels = load(bytes(data[start:]), "x", load_px=16, resize="pad", interpolation="bilinear")
    except ImageError:
        return
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


@settings(max_examples=100, deadline=5000)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"BM", b"RIFF"]), st.binary()
)
def test_a_signature_before_any_bytes(signature, rest):
    with pytest.raises(ImageError):
        decode(signature + rest, "x")


# --- resizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_an_image_of_the_size_keeps_its_pixels(resize, interpolation):
    pixels = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resized(Image.fromarray(pixels), Size.of(20), resize, interpolation), pixels)


@pytest.mark.parametrize(("width", "height"), [(33, 20), (20, 33), (20, 20), (200, 31)])
def test_a_crop_or_pad_that_needs_no_scaling_moves_no_pixel(width, height):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    side, top, left = min(width, height), (height - min(width, height)) // 2, (width - min(width, height)) // 2
    square = resized(Image.fromarray(pixels), Size.of(side), "crop", "bicubic")
    np.testing.assert_array_equal(square, pixels[top : top + side, left : left + side])
    longer = max(width, height)
    expected = np.zeros((longer, longer, 3), dtype=np.uint8)
    top, left = (longer - height) // 2, (longer - width) // 2
    expected[top : top + height, left : left + width] = pixels
    np.testing.assert_array_equal(resized(Image.fromarray(pixels), Size.of(longer), "pad", "bicubic"), expected)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (90, 500), (40, 30)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_crop_is_a_resize_of_the_shorter_side_then_a_centre_crop(width, height, interpolation):
    image = gradient(width, height)
    scale = 64 / min(width, height)
    size = round(width * scale), round(height * scale)
    scaled = np.asarray(image.resize(size, getattr(Image.Resampling, interpolation.upper())))
    top, left = (size[1] - 64) // 2, (size[0] - 64) // 2
    square = resized(image, Size.of(64), "crop", interpolation)
    assert np.abs(square.astype(int) - scaled[top : top + 64, left : left + 64]).max() <= 3


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    square = resized(Image.fromarray(stripes), Size.of(32), "squash", "bilinear")
    assert np.abs(square[:, 2:-2].astype(int) - 127).max() <= 2  # the mean of the stripes, not some of them


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 999), (999, 1), (7, 3)])
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_odd_sizes_give_squares(width, height, resize):
    square = resized(Image.new("RGB", (width, height), "white"), Size.of(16), resize, "bilinear")
    assert square.shape == (16, 16, 3) and square.flags.c_contiguous
    assert square.max() == 255


SIZES = [Size(24, 40), Size(40, 24), Size(64, 16), Size(8, 50), Size(33, 33)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_an_image_of_the_size_keeps_its_pixels_and_others_take_the_size(resize, size):
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resized(Image.fromarray(pixels), size, resize, "bicubic"), pixels)
    for width, height in ((1, 1), (1, 999), (999, 1), (7, 3), (300, 200)):
        white = resized(Image.new("RGB", (width, height), "white"), size, resize, "bilinear")
        assert white.shape == (*size, 3) and white.flags.c_contiguous
        assert white.max() == 255 and (resize == "pad" or white.min() == 255)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (90, 500), (48, 30)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_crop_to_a_rectangle_is_timms_resize_then_torchvisions_centre_crop(width, height, size, interpolation):
    from timm.data.transforms import ResizeKeepRatio

    image = gradient(width, height)
    theirs = np.asarray(CenterCrop(tuple(size))(ResizeKeepRatio(tuple(size), interpolation=interpolation)(image)))
    ours = resized(image, size, "crop", interpolation)
    # They round the scaled size to whole pixels; the gradient is steep where an image is enlarged.
    slope = max(np.abs(np.diff(theirs.astype(int), axis=axis)).max() for axis in (0, 1))
    assert np.abs(ours.astype(int) - theirs).max() <= 3 + slope


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (90, 500), (48, 30)])
def test_pad_and_squash_to_a_rectangle_are_pillows(width, height, size):
    image = gradient(width, height)
    inner = ImageOps.contain(image, (size.width_px, size.height_px), Image.Resampling.BILINEAR)
    expected = Image.new("RGB", (size.width_px, size.height_px))
    expected.paste(inner, ((size.width_px - inner.width) // 2, (size.height_px - inner.height) // 2))
    # Pillow chooses the order of the two passes, which are rounded each.
    assert np.abs(resized(image, size, "pad", "bilinear").astype(int) - np.asarray(expected)).max() <= 1
    squashed = image.resize((size.width_px, size.height_px), Image.Resampling.BICUBIC)
    assert np.abs(resized(image, size, "squash", "bicubic").astype(int) - np.asarray(squashed)).max() <= 1


def test_a_crop_to_a_rectangle_that_needs_no_scaling_moves_no_pixel():
    pixels = RNG.integers(0, 256, (24, 75, 3), dtype=np.uint8)
    cropped = resized(Image.fromarray(pixels), Size(24, 40), "crop", "bicubic")
    np.testing.assert_array_equal(cropped, pixels[:, 17:57])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_as_sharp_for_a_rectangle_whichever_way_it_is_stored(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = gradient(1603, 1201)
    data = encode(image, "JPEG", quality=95, exif=exif)
    stored = decode(data, "x")
    full = resized(stored, Size(60, 100), "squash", "bilinear").astype(int)
    reduced = load(data, "x", load_px=(60, 100), resize="squash", interpolation="bilinear")
    assert reduced.shape == (60, 100, 3) and np.abs(full - reduced).max() <= 3
    least = decode(data, "x", at_least_px=100)
    assert least.size < stored.size and min(least.size) >= 200


# --- reduction while decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("px", "sides"), [(100, (1600, 1200)), (200, (800, 600)), (301, (1600, 1200)), (601, (1600, 1200))]
)
def test_a_large_jpeg_is_reduced_to_no_less_than_twice_the_side(px, sides):
    image = decode(encode(gradient(*sides), "JPEG"), "x", at_least_px=px)
    factor = sides[0] / image.width
    assert factor in (1, 2, 4, 8)
    assert factor == 1 or min(image.size) >= 2 * px
    assert factor == 8 or min(sides) / (2 * factor) < 2 * px  # and not less reduced than it may be


def test_a_reduced_jpeg_gives_nearly_the_same_square():
    data = encode(gradient(1603, 1201), "JPEG", quality=95)
    full = resized(decode(data, "x"), Size.of(64), "crop", "bilinear").astype(int)
    reduced = load(data, "x", load_px=64, resize="crop", interpolation="bilinear")
    assert np.abs(full - reduced).max() <= 3


# --- definitions of the pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(60, 300), (300, 60), (97, 131)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_definition_2_resizes_the_width_and_then_the_height(width, height, interpolation):
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    method = getattr(Image.Resampling, interpolation.upper())
    expected = image.resize((32, height), method).resize((32, 40), method)
    np.testing.assert_array_equal(resized(image, Size(40, 32), "squash", interpolation, 2), expected)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_definitions_differ_by_rounding_alone(resize):
    image = Image.fromarray(RNG.integers(0, 256, (700, 90, 3), dtype=np.uint8))
    first, second = (resized(image, Size.of(32), resize, "bicubic", definition).astype(int) for definition in (1, 2))
    assert np.abs(first - second).max() <= 2


def test_definition_2_decodes_a_large_jpeg_whole():
    data = encode(gradient(1603, 1201), "JPEG", quality=95)
    how = {"load_px": 64, "resize": "crop", "interpolation": "bilinear"}
    whole = resized(decode(data, "x"), Size.of(64), "crop", "bilinear", 2)
    np.testing.assert_array_equal(load(data, "x", **how, definition=2), whole)
    assert (load(data, "x", **how, definition=1) != whole).any()
