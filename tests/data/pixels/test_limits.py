"""No image file takes more than 512 MB or 5 s, whatever its header claims, and large photographs still decode."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bombs
from child_processes import start
from loupe.data.pixels import decoding, limits
from loupe.data.pixels.decode import decode, finish, load, open_header
from loupe.data.pixels.limits import MAX_BYTES, MAX_SECONDS, check_decoding, decoding_bytes
from loupe.data.pixels.pixel_cache import KnownDamage
from loupe.data.pixels.store import DamagedImages, open_store
from loupe.data.sources.open import from_paths
from loupe.errors import ImageError

MEASURE = """
import ctypes, json, sys, time
import bombs
from loupe.data.pixels.decode import load
from loupe.errors import ImageError

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

settings = {"load_px": 224, "resize": sys.argv[2], "interpolation": "lanczos"}
load(bombs.jpeg(64, 64), "warm", **settings)
for name, expression in json.loads(sys.argv[1]).items():
    data = eval(expression, vars(bombs))
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, began, reason = memory("VmRSS"), time.process_time(), None
    try:
        load(data, name, **settings)
    except ImageError as error:
        reason = error.reason
    print(json.dumps([name, memory("VmHWM") - before, time.process_time() - began, reason]), flush=True)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory as Linux has them")


def measured(expressions, resize="crop"):
    child = start(MEASURE, json.dumps(expressions), resize)
    out, _ = child.communicate(timeout=300)
    assert child.returncode == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row[0] for row in rows] == list(expressions)
    return rows


@pytest.mark.slow
@needs_proc
def test_a_bomb_is_a_damaged_image_within_the_limits():
    for name, peak, seconds, reason in measured(bombs.BOMBS):
        assert peak < MAX_BYTES and seconds < MAX_SECONDS, name
        assert reason is not None or name in bombs.READ, name


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("resize", ["crop", *(pytest.param(way, marks=pytest.mark.slow) for way in ("pad", "squash"))])
def test_very_unequal_sides_are_no_bomb_in_resizing(side, resize):
    size = {"width": 8, "height": 8} | {side: 6_000_000 if resize == "squash" else 2_000_000}
    data = bombs.png(**size, colour=0)
    try:
        assert load(data, "x", load_px=32, resize=resize, interpolation="lanczos").shape == (32, 32, 3)
    except ImageError as error:
        assert "memory" in error.reason and (resize, side) == ("squash", "height")


LARGE = {
    "a camera of 108 megapixels": (bombs.jpeg, (12000, 9000), {}),
    "a telephone's panorama": (bombs.jpeg, (16000, 3800), {}),
    "a progressive photograph of 48 megapixels": (bombs.jpeg, (8064, 6048), {"scans": 10}),
    "a screenshot of 8K": (bombs.png, (7680, 4320), {}),
    "a scan in 16 bits of A4 at 600 dpi": (bombs.png, (4960, 7016), {"colour": 0, "bits": 16}),
    "a photograph of 48 megapixels as AVIF": (bombs.media, (8064, 6048), {"claimed": (8064, 6048)}),
    "a scan in black and white of A3 at 600 dpi": (bombs.png, (9921, 7016), {"colour": 0, "bits": 1}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "AVIF" in name else []) for name in LARGE]
)
def test_large_photographs_are_within_the_limits(name):
    make, size, options = LARGE[name]
    data = make(*size, **options)
    image = open_header(data, name)
    check_decoding(image, image.size, data, stretched=False)


@needs_proc
@pytest.mark.slow
def test_the_largest_images_that_are_read_stay_within_the_limits():
    largest = {
        "png rgba": "png(6200, 6200)",
        "png rgb": "png(11000, 11000, colour=2)",
        "png rgb 16": "png(11000, 11000, colour=2, bits=16)",
        "png grey": "png(10000, 10000, colour=0)",
        "png grey 16": "png(6500, 6500, colour=0, bits=16)",
        "jpeg": "jpeg(12000, 10000)",
        "jpeg scans": "jpeg(4000, 4000, scans=150)",
        "jpeg coefficients": "jpeg(8500, 8500, scans=11)",
        "jpeg sequential scans": "sequential_jpeg(3000, 3000, 150)",
        "jpeg 2000": "jpeg2000(4500, 4500)",
        "jpeg 2000 tiles": "jpeg2000(190, 190, tile=1)",
        "jpeg 2000 precincts": "jpeg2000(450, 450, precincts=b'\\0')",
        "jpeg 2000 blocks": "jpeg2000(2000, 2000, block=0)",
        "avif": "media(8000, 5000, (8000, 5000))",
        "avif of another size": "media(8000, 5000)",
        "avif pictures": "media(2000, 1500, copies=12)",
    }
    for name, peak, seconds, reason in measured(largest):
        assert (reason, peak < MAX_BYTES, seconds < MAX_SECONDS) == (None, True, True), (name, peak, seconds, reason)


@needs_proc
@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 0}),
        ("WEBP", "RGB", {}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
        ("JPEG", "RGB", {"progressive": True}),
    ],
)
def test_the_estimate_is_no_less_than_what_is_taken(format, mode, options, monkeypatch):
    out = io.BytesIO()
    Image.new(mode, (3000, 3000)).save(out, format, **options)
    needed = []
    monkeypatch.setattr(limits, "_check_memory", lambda size, _: needed.append(size))
    monkeypatch.setattr(limits, "_USUAL_PIXELS", 1000)
    data = out.getvalue()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    finish(open_header(data, "x"), data, "x")
    assert _resident("VmHWM") - before < 1.1 * needed[-1] + 2**23


def _resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def test_a_rotation_counts_only_where_the_metadata_ask_for_it():
    size = (9000, 8000)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.new("RGB", size).save(turned, "JPEG", exif=exif)
    assert decoding_bytes(open_header(bombs.jpeg(*size), "x")) < MAX_BYTES
    assert decoding_bytes(open_header(turned.getvalue(), "x")) > MAX_BYTES
    with pytest.raises(ImageError, match="memory"):
        decode(turned.getvalue(), "x")
    assert decode(turned.getvalue(), "x", at_least_px=224).size == (1000, 1125)


def test_sixteen_bit_range_by_table_is_the_formula():
    from loupe.data.pixels.decode import _scaled_table, scale_levels

    level = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(_scaled_table((100, 4095))[level], scale_levels(level, (100, 4095)))


@pytest.fixture
def two_images(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path in paths:
        Image.new("RGB", (64, 64)).save(path)
    return tmp_path, from_paths(paths)


def opened(table, cache):
    images = decoding.EncodedImages(table, 640, "crop", "bilinear")
    return open_store(images, ["0" * 64, "1" * 64], budget_bytes=2**30, cache=cache)


@pytest.mark.parametrize("lacking", [True, False])
def test_damage_is_remembered_only_where_memory_was_enough(two_images, tmp_path, monkeypatch, lacking):
    folder, table = two_images
    monkeypatch.setattr("loupe.data.pixels.store.SMALL_BYTES", 0)
    monkeypatch.setattr(decoding, "can_allocate", lambda size: not lacking)
    calls = []

    def broken(data, path, **settings):
        calls.append(path)
        raise ImageError(path, "broken data stream when reading image file")

    intact = decoding.load
    monkeypatch.setattr(decoding, "load", broken)
    with pytest.raises(DamagedImages):
        opened(table, folder / "cache")
    records = list((folder / "cache").rglob("damaged.json"))
    monkeypatch.setattr(decoding, "load", intact)
    if lacking:
        assert records == [] and len(opened(table, folder / "cache")) == 2
    else:
        assert len(KnownDamage.read(records[0]).damaged) == 2 and len(calls) == 2
        with pytest.raises(DamagedImages):
            opened(table, folder / "cache")


@pytest.mark.parametrize("how", ["flipped", "no checksum", "garbage", "other images"])
def test_a_list_of_damaged_images_that_is_not_its_own_is_made_again(two_images, monkeypatch, caplog, how):
    folder, table = two_images
    monkeypatch.setattr("loupe.data.pixels.store.SMALL_BYTES", 0)
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(DamagedImages):
        opened(table, folder / "cache")
    (file,) = (folder / "cache").rglob("damaged.json")
    intact = file.read_text()
    content = json.loads(intact)
    if how == "flipped":
        content["damaged"][0]["index"] = 0
        file.write_text(json.dumps(content))
    elif how == "no checksum":
        del content["crc32"]
        file.write_text(json.dumps(content))
    elif how == "garbage":
        file.write_text("{")
    else:
        KnownDamage(damaged=({"index": 7, "reason": "no image"},)).write(file)
    for warnings in (1, 1):
        with pytest.raises(DamagedImages) as told:
            opened(table, folder / "cache")
        assert list(told.value.indices) == [1]
        assert caplog.text.count("decoded again") == warnings
    assert file.read_text() == intact


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_memory_that_the_process_may_not_have_is_seen():
    code = """
import resource
from loupe.data.memory import can_allocate
print(can_allocate(2**20))
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
print(can_allocate(2**33))
"""
    out, _ = start(code).communicate(timeout=60)
    assert out.split() == ["True", "False"]
