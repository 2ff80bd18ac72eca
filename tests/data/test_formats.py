"""Every format is recognised by content and by suffix, decoded where its decoder is installed, and never lost."""

import io
import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import loupe
from loupe.cli.main import app
from loupe.data import formats
from loupe.data.audit.check import check
from loupe.data.formats import FORMATS, format_of_suffix, image_suffixes, reader_of, sniff
from loupe.data.hashing import content_hashes
from loupe.data.pixels.decode import decode
from loupe.data.sources.folders import from_paths
from loupe.data.sources.open import open_table
from loupe.data.unread import MISNAMED
from loupe.errors import DataError, ImageError
from loupe.report.run_page import write_page

RGB_HW3 = np.random.default_rng(3).integers(0, 256, (24, 40, 3), dtype=np.uint8)
GREY_HW = RGB_HW3[..., 0]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
JXL = b"\xff\x0a" + bytes(range(200))
PILLOW = {"JPEG 2000": "JPEG2000", "PNM": "PPM"}
"""Names in Pillow that differ from ours."""


def encode(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, PILLOW.get(name, name), **options)
    return buffer.getvalue()


@pytest.fixture
def no_heif(monkeypatch):
    """An installation without pillow-heif."""
    caches = (image_suffixes, reader_of)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def photos(tmp_path):
    """Two classes: 12 PNG of cats; of dogs 6 PNG and 6 that nothing reads."""
    folder = tmp_path / "photos"
    for name, readable in (("cat", 12), ("dog", 6)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            if number < readable:
                level = 40 if name == "cat" else 200
                pixels = np.random.default_rng(number + level).integers(level, level + 50, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
            else:
                (folder / name / f"{number}.JXL").write_bytes(JXL)
    return folder


def test_no_suffix_has_two_formats():
    suffixes = [suffix for known in FORMATS.values() for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)
    assert all(format_of_suffix(suffix) == name for name, known in FORMATS.items() for suffix in known.suffixes)


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "JPEG 2000", "PNM", "QOI", "PCX", "SGI", "DDS", "TGA"])
def test_colours_are_those_that_were_saved(name):
    options = {"irreversible": False} if name == "JPEG 2000" else {}
    data = encode(Image.fromarray(RGB_HW3), name, **options)
    assert sniff(data) == name
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), RGB_HW3)


@pytest.mark.parametrize("name", ["JPEG", "WebP", "AVIF"])
def test_formats_with_loss_are_close(name):
    if not FORMATS[name].is_readable:
        pytest.skip(f"this Pillow has no {name}")
    smooth = Image.fromarray(RGB_HW3[:3, :3]).resize((40, 24), Image.Resampling.BICUBIC)
    data = encode(smooth, name, quality=95)
    assert sniff(data) == name
    assert np.abs(np.asarray(decode(data, "x")).astype(int) - np.asarray(smooth)).mean() < 6


def test_heif_is_what_its_plug_in_decodes():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(RGB_HW3)).save(buffer, quality=-1)
    data = buffer.getvalue()
    assert sniff(data) == "HEIF" and ".heic" in image_suffixes()
    with pillow_heif.HeifImageFile(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(np.asarray(decode(data, "x")), np.asarray(opened.convert("RGB")))


def test_heif_without_its_plug_in_says_what_to_install(no_heif):
    assert sniff(HEIC) == "HEIF" and ".heic" not in image_suffixes()
    with pytest.raises(ImageError, match=r"loupe-vision\[heif\]"):
        decode(HEIC, "a.heic")


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ([b"avif", b"mif1", b"avif"], "AVIF"),
        ([b"mif1", b"mif1", b"avif", b"miaf"], "AVIF"),
        ([b"heic", b"mif1", b"heic"], "HEIF"),
        ([b"mif1", b"mif1", b"heic"], "HEIF"),
        ([b"isom", b"isom", b"mp42"], None),
    ],
)
def test_brands_tell_avif_heif_and_films_apart(brands, expected):
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    assert sniff((len(box) + 4).to_bytes(4, "big") + box + bytes(50)) == expected


@pytest.mark.parametrize("magic", ["P2", "P5"])
@pytest.mark.parametrize("maximum", [15, 255, 4095, 65535])
def test_portable_grey_maps_are_scaled_by_their_maximum(magic, maximum):
    levels = np.linspace(0, maximum, 12).astype(np.uint16)
    body = levels.astype(">u2" if maximum > 255 else "u1").tobytes() if magic == "P5" else " ".join(map(str, levels))
    data = f"{magic}\n12 1\n{maximum}\n".encode() + (body if isinstance(body, bytes) else body.encode())
    grey = np.asarray(decode(data, "x"))[0, :, 0]
    assert np.abs(grey - levels.astype(float) * 255 / maximum).max() <= 1.01


def test_portable_bit_maps_are_black_and_white():
    np.testing.assert_array_equal(np.asarray(decode(b"P1\n3 1\n1 0 1\n", "x"))[0, :, 0], [0, 255, 0])


@pytest.mark.parametrize("name", ["BMP", "TGA", "DDS"])
def test_an_alpha_of_zeros_in_an_unused_byte_is_opaque(name):
    clear = Image.fromarray(np.dstack([RGB_HW3, np.zeros_like(GREY_HW)]), "RGBA")
    data = bitfields_bmp(clear) if name == "BMP" else encode(clear, name)
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), RGB_HW3)


def test_an_alpha_that_is_used_stays_transparent():
    alpha_HW = np.zeros_like(GREY_HW)
    alpha_HW[0, 0] = 255
    half = Image.fromarray(np.dstack([RGB_HW3, alpha_HW]), "RGBA")
    pixels = np.asarray(decode(bitfields_bmp(half), "x"))
    np.testing.assert_array_equal(pixels[0, 0], RGB_HW3[0, 0])
    assert (pixels[1:] == 255).all()
    everywhere = np.asarray(decode(encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG"), "x"))
    assert (everywhere == 255).all()


def bitfields_bmp(image):
    """BMP of 32 bits with a mask for alpha, as `rgb32bf-abgr.bmp` of bmpsuite: Pillow writes none."""
    width, height = image.size
    pixels = np.asarray(image)[::-1, :, ::-1].tobytes()  # bottom up; alpha, blue, green, red
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF << 24, 0xFF << 16, 0xFF << 8, 0xFF))
    size = [(108).to_bytes(4, "little"), width.to_bytes(4, "little"), height.to_bytes(4, "little")]
    header = b"".join([*size, b"\1\0\x20\0\3\0\0\0", len(pixels).to_bytes(4, "little"), bytes(16), masks, bytes(52)])
    start = 14 + len(header)
    return (
        b"BM" + (start + len(pixels)).to_bytes(4, "little") + bytes(4) + start.to_bytes(4, "little") + header + pixels
    )


def test_a_class_that_cannot_be_read_fails_the_check(photos):
    table = open_table(photos)
    assert len(table) == 18
    assert [(group.label, group.format, len(group.paths)) for group in table.unread] == [("dog", "JPEG XL", 6)]
    report = check(table, content_hashes(table))
    assert not report.ok and report.lost == ("dog: 6 of 12 images",)
    assert report.to_json()["lost_classes"] == ["dog: 6 of 12 images"]
    done = CliRunner().invoke(app, ["check", str(photos), "--json", "--quiet"])
    assert done.exit_code == 1 and json.loads(done.stdout)["unread"][0]["class"] == "dog"


def test_a_tenth_is_a_finding_that_does_not_fail(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(10):
        Image.fromarray(np.roll(RGB_HW3, number, axis=0)).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "x.jxl").write_bytes(JXL)
    report = check(table := open_table(tmp_path), content_hashes(table))
    assert report.ok and report.unread[0].paths == ("a/x.jxl",)


def test_a_whole_class_is_named_although_it_is_gone(photos):
    for file in (photos / "dog").glob("*.png"):
        file.unlink()
    table = open_table(photos)
    assert table.classes == ("cat",)
    assert check(table, content_hashes(table)).lost == ("dog: 6 of 6 images",)


def test_split_folders_keep_the_class(photos, tmp_path):
    photos.rename(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.fromarray(RGB_HW3).save(tmp_path / "test" / "cat" / "1.png")
    assert [group.label for group in open_table(tmp_path).unread] == ["dog"]


def test_images_without_a_suffix_are_told_from_other_files(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(RGB_HW3).save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "photo").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    (tmp_path / "a" / "notes.txt").write_text("P1 is no image here")
    (tmp_path / "a" / "README").write_text("read me")
    table = open_table(tmp_path)
    assert [(group.format, group.paths) for group in table.unread] == [(MISNAMED, ("a/photo",))]
    assert any(".txt" in note for note in table.notes)


def test_nothing_but_unreadable_images_is_an_error_with_the_remedy(tmp_path, no_heif):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.heic").write_bytes(HEIC)
    for given in (open_table, from_paths):
        with pytest.raises(DataError, match=r"1 HEIF image .*loupe-vision\[heif\]"):
            given(tmp_path)
    with pytest.raises(DataError, match="1 HEIF image"):
        from_paths(str(tmp_path / "a" / "*.heic"))


def test_a_quiet_training_warns_records_and_shows_what_it_left_out(photos, tmp_path, bare, caplog, capsys):
    with caplog.at_level(logging.WARNING, logger="loupe"):
        run = loupe.train(photos, recipe="digits", epochs=1, output=tmp_path, name="r", device="cpu", quiet=True)
    assert "6 JPEG XL images" in capsys.readouterr().err + caplog.text
    (unread,) = run.results.unread
    assert (unread.label, unread.format, unread.images) == ("dog", "JPEG XL", 6)
    assert "6 images of class dog left out" in write_page(run.path).read_text()


def test_signatures_need_no_more_than_the_first_bytes():
    for name in ("PNG", "TGA", "PCX", "JPEG 2000"):
        data = encode(Image.fromarray(RGB_HW3), name)
        assert sniff(data[: formats.SIGNATURE_BYTES]) == name
