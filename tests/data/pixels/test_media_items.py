"""Pictures of AVIF and HEIF files are counted by the headers of their streams, whatever the file claims."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

import bombs
from loupe.data.pixels.coded_size import hevc_pictures, nal_units
from loupe.data.pixels.decode import decode
from loupe.data.pixels.media_items import Pictures, pictures
from loupe.errors import ImageError

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")

# The sequence header that x265 writes for 1920 x 1080 pixels.
X265 = bytes.fromhex("420101037000000300900000030000030078a003c08010e596ea4929ae6e021a0c0800000300c8000003000840")
PICTURE = b"\x28\x01\xaf"  # the start of the first slice


def saved(mode, size, **options):
    out = io.BytesIO()
    Image.new(mode, size).save(out, "AVIF", **options)
    return out.getvalue()


@needs_avif
@pytest.mark.parametrize(("mode", "decoded"), [("RGB", 64 * 48), ("L", 64 * 48), ("RGBA", 2 * 64 * 48)])
def test_a_file_of_pillow_has_the_pixels_that_it_says(mode, decoded):
    assert pictures(saved(mode, (64, 48))) == Pictures(held=64 * 48, decoded=decoded, planes=1.5)


@needs_avif
def test_planes_are_those_of_the_stream():
    assert pictures(saved("RGB", (64, 48), subsampling="4:4:4")).planes == 3
    assert pictures(saved("RGB", (64, 48), subsampling="4:2:0", save_all=True)).planes == 1.5


@needs_avif
def test_of_an_animation_the_first_picture_counts():
    others = [Image.new("RGB", (64, 48), (20 * k, 0, 0)) for k in range(1, 6)]
    assert pictures(saved("RGB", (64, 48), save_all=True, append_images=others)).held == 64 * 48


@needs_avif
def test_of_an_animation_with_sound_the_pictures_count():
    others = [Image.new("RGB", (64, 48), (20 * k, 0, 0)) for k in range(1, 6)]
    data = saved("RGB", (64, 48), save_all=True, append_images=others)
    table = [
        bombs.box(b"stsd", bytes(7) + b"\1", bombs.box(b"mp4a", bytes(28))),
        bombs.box(b"stsz", bytes(11) + b"\1" + b"\0\0\0\x10"),
        bombs.box(b"stco", bytes(7) + b"\1" + b"\0\0\0\x30"),
    ]
    sound = bombs.box(b"moov", bombs.box(b"trak", bombs.box(b"mdia", bombs.box(b"minf", bombs.box(b"stbl", *table)))))
    assert pictures(data + sound) == pictures(data)


@needs_avif
@pytest.mark.parametrize(
    ("options", "held", "decoded"),
    [
        ({}, 200 * 100, 200 * 100),
        ({"copies": 3}, 3 * 200 * 100, 3 * 200 * 100),
        ({"cells": 2}, 64 * 64 + 200 * 100, 64 * 64 + 4 * 200 * 100),
        ({"overlays": 2}, 2 * 64 * 64 + 200 * 100, 3 * 64 * 64 + 4 * 200 * 100),
    ],
)
def test_pictures_are_counted_by_their_streams(options, held, decoded):
    assert pictures(bombs.media(200, 100, **options)) == Pictures(held, decoded, 1.5)


@needs_avif
@pytest.mark.parametrize(
    "data",
    [
        bombs.media(64, 64, copies=40_000),
        bombs.media(64, 64, pieces=60_000),
        bombs.media(64, 64, overlays=30),
        bombs.media(64, 64, turns=100),
        bombs.media(64, 64).replace(b"av01", b"unci"),
    ]
    if features.check("avif")
    else [],
    ids=["pictures", "pieces", "overlays", "turns", "kind"],
)
def test_what_an_image_does_not_need_is_refused(data):
    with pytest.raises(ImageError) as told:
        decode(data, "x")
    assert told.value.path == "x"


@needs_avif
@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_a_damaged_file_has_pictures_or_one_error(draws):
    data = bytearray(bombs.media(16, 16, cells=2))
    for _ in range(draws.draw(st.integers(1, 4))):
        place = draws.draw(st.integers(8, len(data) - 1))
        data[place] = draws.draw(st.integers(0, 255))
    try:
        found = pictures(bytes(data[: draws.draw(st.integers(len(data) // 2, len(data)))]))
    except ValueError:
        return
    assert found.held > 0 and found.decoded > 0


def exponential(number):
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def sequence(width, height, *, sub_layers=0, chroma=1, window=(), depth=8):
    """A sequence header of HEVC up to the depth, bit by bit; each sub-layer has a profile and a level."""
    bits = f"0000{sub_layers:03b}1" + "0" * 96 + "11" * sub_layers + "00" * (8 - sub_layers if sub_layers else 0)
    bits += "0" * 96 * sub_layers + exponential(0) + exponential(chroma) + ("0" if chroma == 3 else "")
    bits += exponential(width) + exponential(height) + ("1" if window else "0") + "".join(map(exponential, window))
    bits += 2 * exponential(depth - 8) + "1"
    return b"\x42\1" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize(
    ("header", "pixels", "planes"),
    [
        (X265, 1920 * 1080, 1.5),
        (sequence(64, 48, chroma=0), 64 * 48, 1),
        (sequence(8192, 4320, sub_layers=2, window=(0, 3, 0, 20), depth=10), 8192 * 4320, 3),
        (sequence(30000, 20000, chroma=3, depth=12), 30000 * 20000, 6),
    ],
    ids=["x265", "grey", "sub-layers", "4:4:4"],
)
def test_pictures_of_hevc_have_the_size_of_their_sequence_header(header, pixels, planes):
    assert hevc_pictures([header, PICTURE, PICTURE]) == (pixels, planes, 2)
    assert hevc_pictures([header]) == (pixels, planes, 0)


def test_a_size_beyond_any_picture_is_refused():
    with pytest.raises(EOFError):
        hevc_pictures([sequence(2**40, 2**1000), PICTURE])


def test_units_have_their_lengths_before_them():
    assert nal_units(b"\0\0\0\3" + PICTURE + b"\0\0\0\2ab", 4) == [PICTURE, b"ab"]
    assert nal_units(b"\3" + PICTURE, 1) == [PICTURE]
    with pytest.raises(ValueError, match="100,000"):
        nal_units(b"\2ab" * 100_001, 1)


def test_a_heif_file_of_another_size_is_counted_by_its_stream():
    pytest.importorskip("pillow_heif").register_heif_opener()
    assert pictures(bombs.media(200, 104, kind="HEIF")) == Pictures(200 * 104, 200 * 104, 1.5)
    assert pictures(bombs.media(200, 104, kind="HEIF", cells=2)) == Pictures(
        64 * 64 + 200 * 104, 64 * 64 + 4 * 200 * 104, 1.5
    )
    with pytest.raises(ImageError):
        decode(bombs.media(64, 64, kind="HEIF", copies=60_000), "x")
