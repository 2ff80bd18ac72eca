"""Near duplicates: copies of a photograph that were changed are found, other photographs of the same kind are not."""

import csv
import functools
import io
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from rich.console import Console as RichConsole
from scipy.ndimage import gaussian_filter

from loupe.cli import main
from loupe.cli.check_table import print_check
from loupe.data.audit import neighbours
from loupe.data.audit.check import check
from loupe.data.audit.near_duplicates import DISTANCE, LAYOUT, _cautions, find_near, write_csv
from loupe.data.audit.neighbours import alike
from loupe.data.audit.similarity import FREQUENCIES, SHIFT_PX, SIDE_PX, layouts, likeness
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
from loupe.report import check_page

PX, MARGIN_PX = 96, 12


@functools.cache
def photograph(seed, scene=None, at=(0, 0)):
    """Something with the spectrum of a photograph; with a `scene`, its large shapes are those of that scene.

    `at` is by how many pixels of 96 the camera points further to the right, and down.
    """

    def clouds(seed, *sizes_px):
        rng = np.random.default_rng(seed)
        side = PX + 2 * MARGIN_PX
        return sum(
            size**2 * gaussian_filter(rng.standard_normal((side, side, 3)), (size, size, 0.7)) for size in sizes_px
        )

    field = clouds(seed, 1, 2, 4, 8, 16, 32) if scene is None else clouds(scene, 8, 16, 32) + clouds(seed, 1, 2, 4)
    field = (field - field.mean()) / field.std()
    left, top = MARGIN_PX + at[0], MARGIN_PX + at[1]
    seen = field[top : top + PX, left : left + PX]
    return Image.fromarray(np.clip(128 + 50 * seen, 0, 255).astype(np.uint8))


def cropped(image, left, top, right, bottom):
    """Cut off shares of the sides, and back to the size."""
    width, height = image.size
    box = (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    return image.crop(box).resize(image.size, Image.Resampling.BICUBIC)


def as_jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def recoloured(image, *factors):
    return Image.fromarray((np.asarray(image) * factors).astype(np.uint8))


CHANGES = {
    "JPEG of quality 30": lambda seed: as_jpeg(photograph(seed), 30),
    "brighter": lambda seed: ImageEnhance.Brightness(photograph(seed)).enhance(1.35),
    "less contrast": lambda seed: ImageEnhance.Contrast(photograph(seed)).enhance(0.5),
    "grey": lambda seed: ImageOps.grayscale(photograph(seed)).convert("RGB"),
    "other colours": lambda seed: recoloured(photograph(seed), 1, 0.8, 0.6),
    "smaller": lambda seed: photograph(seed).resize((40, 40), Image.Resampling.LANCZOS),
    "one pixel of 32 to the right": lambda seed: photograph(seed, at=(3, 0)),
    "two pixels of 32 down": lambda seed: photograph(seed, at=(0, 6)),
    "mirrored": lambda seed: ImageOps.mirror(photograph(seed)),
    "mirrored, shifted, brighter, JPEG": lambda seed: as_jpeg(
        ImageEnhance.Brightness(ImageOps.mirror(photograph(seed, at=(3, -3)))).enhance(1.2), 60
    ),
    "5 % cut off each side": lambda seed: cropped(photograph(seed), 0.05, 0.05, 0.05, 0.05),
    "8 % cut off two sides": lambda seed: cropped(photograph(seed), 0.08, 0, 0, 0.08),
}


def small(*images):
    """uint8 [B, 32, 32, 3], as the search sees them."""
    return np.stack([np.asarray(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)) for image in images])


def layout_likeness(first, second):
    """Of two images' layouts; and whether the mirror image is the more alike."""
    (even, odd), (other_even, other_odd) = layouts(small(first, second))
    return float(even @ other_even + abs(odd @ other_odd)), bool(odd @ other_odd < 0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near(change):
    for seed in range(5):
        image, copy = photograph(seed), CHANGES[change](seed)
        found, mirrored = layout_likeness(image, copy)
        assert found >= LAYOUT
        assert mirrored == ("mirrored" in change)
        assert likeness(small(image), small(copy), np.array([mirrored]))[0] >= 1 - DISTANCE


def test_other_photographs_of_the_same_scene_are_not_near():
    images = small(*(photograph(seed, scene=7) for seed in range(12)))
    first, second = np.triu_indices(12, 1)
    layout = layouts(images).reshape(12, -1)
    assert np.median((layout @ layout.T)[first, second]) > LAYOUT, "else they would not be looked at closely"
    assert likeness(images[first], images[second], np.zeros(len(first), bool)).max() < 1 - DISTANCE


def test_the_same_image_has_likeness_1_and_noise_none():
    images = small(*(photograph(seed) for seed in range(3)))
    np.testing.assert_allclose(likeness(images, images, np.zeros(3, bool)), 1, atol=1e-3)
    np.testing.assert_allclose(likeness(images, images[:, :, ::-1], np.ones(3, bool)), 1, atol=1e-3)
    assert likeness(images, images[[1, 2, 0]], np.zeros(3, bool)).max() < 0.3


def test_layouts_are_the_cosine_transform_as_written_in_books():
    images = small(*(photograph(seed) for seed in range(3)))
    grey = images.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    place = np.arange(SIDE_PX)
    expected = np.zeros((3, FREQUENCIES, FREQUENCIES))
    for v in range(FREQUENCIES):
        for u in range(FREQUENCIES):
            wave = np.outer(np.cos(np.pi * v * (place + 0.5) / SIDE_PX), np.cos(np.pi * u * (place + 0.5) / SIDE_PX))
            scale = np.sqrt(0.5) ** ((u == 0) + (v == 0)) * np.sqrt(np.hypot(u, v))
            expected[:, v, u] = scale * (grey * wave).sum(axis=(1, 2))
    expected /= np.linalg.norm(expected, axis=(1, 2), keepdims=True)
    found = layouts(images)
    np.testing.assert_allclose(found[:, 0], expected[:, :, 0::2].reshape(3, -1), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, :, 1::2].reshape(3, -1), atol=1e-5)


def test_a_mirror_image_has_the_odd_part_with_the_other_sign():
    images = small(*(photograph(seed) for seed in range(3)))
    np.testing.assert_allclose(layouts(images[:, :, ::-1]), layouts(images) * [[[1], [-1]]], atol=1e-5)


def test_likeness_is_the_lower_end_of_the_best_correlation(monkeypatch):
    """Against the same with loops, float64 and no Fourier transform."""
    monkeypatch.setattr("loupe.data.audit.similarity.ZOOMS", ())

    def detail(image):
        grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        fine = grey - gaussian_filter(grey, 2, mode="nearest")
        fine /= np.sqrt(gaussian_filter(fine**2, 3, mode="nearest") + 9)
        fade = np.sqrt(np.hanning(SIDE_PX + 2)[1:-1])
        fine *= np.outer(fade, fade)
        fine -= fine.mean()
        return fine / np.linalg.norm(fine)

    def moved(image, dy, dx):
        return np.roll(image, (dy, dx), axis=(0, 1))

    pair = [detail(image) for image in small(photograph(1), as_jpeg(photograph(1, at=(-4, 2)), 20))]
    near_shifts = range(-SHIFT_PX, SHIFT_PX + 1)
    best = max((moved(pair[0], dy, dx) * pair[1]).sum() for dy in near_shifts for dx in near_shifts)
    everywhere = [(dy, dx) for dy in range(SIDE_PX) for dx in range(SIDE_PX)]
    own = [[(moved(image, *shift) * image).sum() for shift in everywhere] for image in pair]
    spread = np.sqrt(np.dot(*own) / SIDE_PX**2)
    expected = np.tanh(np.arctanh(best) - 1.96 * spread)
    images = small(photograph(1), as_jpeg(photograph(1, at=(-4, 2)), 20))
    assert likeness(images[:1], images[1:], np.zeros(1, bool))[0] == pytest.approx(expected, abs=2e-3)


def random_layouts(count, seed=0, spread=1.0):
    """Layouts around a few centres, so that there are alike ones; some are mirrored."""
    rng = np.random.default_rng(seed)
    layout = rng.standard_normal((7, 2, 18))[rng.integers(0, 7, count)] + spread * rng.standard_normal((count, 2, 18))
    layout[:, 1] *= rng.choice([-1, 1], (count, 1))
    return (layout / np.linalg.norm(layout, axis=(1, 2), keepdims=True)).astype(np.float32)


def every_pair(layout, least, identity):
    """first, second, likeness, mirrored of all pairs: every one compared as an image and as its mirror image."""
    whole = layout.reshape(len(layout), -1).astype(np.float64)
    turned = (layout * [[[1], [-1]]]).reshape(len(layout), -1).astype(np.float64)
    plain, mirror = whole @ whole.T, whole @ turned.T
    first, second = np.triu_indices(len(layout), 1)
    best = np.maximum(plain, mirror)[first, second]
    chosen = (best >= least) & (identity[first] != identity[second])
    return {
        (int(i), int(j)): (score, bool(mirror[i, j] > plain[i, j]))
        for i, j, score in zip(first[chosen], second[chosen], best[chosen], strict=True)
    }


def test_the_search_finds_exactly_what_comparing_all_finds(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 17)
    monkeypatch.setattr(neighbours, "BLOCK_COLUMNS", 23)
    layout, identity = random_layouts(300), np.arange(300)
    identity[200:210] = 200
    expected = every_pair(layout, 0.6, identity)
    found = alike(layout, identity, least=0.6, most=10**6)
    assert 500 < len(expected) == len(found) < 40_000
    for k in range(len(found)):
        score, mirrored = expected[int(found.first[k]), int(found.second[k])]
        assert found.likeness[k] == pytest.approx(score, abs=1e-5) and found.mirrored[k] == mirrored
    assert np.all(np.diff(found.likeness) <= 0) and found.least == 0.6


def test_too_many_alike_leave_the_most_alike(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 17)
    monkeypatch.setattr(neighbours, "BLOCK_COLUMNS", 23)
    layout, identity = random_layouts(300), np.arange(300)
    scores = sorted((score for score, _ in every_pair(layout, 0.6, identity).values()), reverse=True)
    found = alike(layout, identity, least=0.6, most=100)
    np.testing.assert_allclose(found.likeness, scores[:100], atol=1e-5)
    assert found.least == pytest.approx(scores[99], abs=1e-5)


@pytest.mark.slow
def test_the_search_needs_memory_for_what_it_keeps_only():
    layout = random_layouts(4000, spread=0.02)  # a seventh of all 8 million pairs, and their mirror images
    tracemalloc.start()
    found = alike(layout, np.arange(4000), least=0.85, most=20_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 20_000
    assert peak_bytes < 24 * 2**20 < 4000**2 * 4


def test_plain_images_are_near_to_nothing():
    plain = np.full((3, SIDE_PX, SIDE_PX, 3), [[[[10]]], [[[10]]], [[[200]]]], np.uint8)
    plain[1, 3, 5] = 12
    assert not layouts(plain).any()
    assert not np.isnan(likeness(plain, plain, np.zeros(3, bool))).any()


@pytest.fixture
def folder(tmp_path):
    """Train and test, cat and dog; what is planted, below."""

    def save(name, image, **how):
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, **how)

    for k in range(6):
        save(f"train/cat/{k}.png", photograph(k))
        save(f"train/dog/{k}.png", photograph(100 + k))
        save(f"test/cat/{k}.png", photograph(200 + k))
        save(f"test/dog/{k}.png", photograph(300 + k))
    save("test/cat/leak.jpg", photograph(2), quality=60)
    save("test/dog/wrong.png", ImageOps.mirror(photograph(3)))
    save("train/dog/twice.jpg", photograph(104), quality=60)
    save("train/dog/thrice.jpg", photograph(104), quality=40)
    save("train/dog/copy.png", photograph(105))  # the same bytes: a copy, which the check tells
    (tmp_path / "set" / "test" / "cat" / "0.png").write_bytes(b"damaged")
    return tmp_path / "set"


def found_in(folder):
    table = open_table(folder)
    content = content_hashes(table)
    return table, check(table, content), find_near(table, content, cache=None)


def test_what_is_planted_is_found_and_nothing_else(folder):
    table, report, found = found_in(folder)
    assert found.images == len(table) - 1 == 28
    assert {pair.paths for pair in found.pairs if pair.across} == {
        ("train/cat/2.png", "test/cat/leak.jpg"),
        ("train/cat/3.png", "test/dog/wrong.png"),
    }
    dogs = {"train/dog/4.png", "train/dog/twice.jpg", "train/dog/thrice.jpg"}
    within = [pair for pair in found.pairs if not pair.across]
    assert {frozenset(pair.paths) for pair in within} == {frozenset(dogs - {name}) for name in dogs}
    assert [pair.across for pair in found.pairs] == [True, True, False, False, False]
    assert [table.paths[pair.first] for pair in found.pairs] == [pair.paths[0] for pair in found.pairs]
    assert {pair.paths[1]: pair.mirrored for pair in found.pairs if pair.across} == {
        "test/cat/leak.jpg": False,
        "test/dog/wrong.png": True,
    }
    assert len({pair.group for pair in within}) == 1 and len({pair.group for pair in found.pairs}) == 3
    assert report.ok is False and len(report.copies) == 1


def test_counts_and_what_follows(folder):
    _, _, found = found_in(folder)
    assert found.counts() == {
        "between train and test": {"pairs": 2, "same_label": 1, "other_label": 1, "no_label": 0},
        "within train": {"pairs": 3, "same_label": 3, "other_label": 0, "no_label": 0},
    }
    assert found.leaked() == {"test": 2}
    data = json.loads(json.dumps(found.to_json()))
    assert data["pairs"][0]["images"][1]["split"] == "test" and len(data["pairs"]) == 5
    (title, lines), (inner, _) = found.findings()
    assert title.startswith("2 near-duplicate pairs between train and test (1 with different labels)")
    assert inner.startswith("3 near-duplicate pairs within train:")
    assert any("mirrored" in line for line in lines)
    assert "2 images of the test split with a near duplicate" in found.conclusions()[0]


def test_splits_that_are_not_given_leak_nothing(tmp_path):
    for k in range(3):
        (tmp_path / "set" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        photograph(k).save(tmp_path / "set" / "ab"[k % 2] / f"{k}.png")
    photograph(0).save(tmp_path / "set" / "b" / "again.jpg", quality=70)
    _, _, found = found_in(tmp_path / "set")
    assert found.counts() == {"within the set": {"pairs": 1, "same_label": 0, "other_label": 1, "no_label": 0}}
    assert found.leaked() == {} and not found.pairs[0].across


def test_no_image_that_can_be_read(tmp_path):
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(b"")
    _, _, found = found_in(tmp_path / "set")
    assert (found.images, found.pairs, found.counts()) == (0, (), {})
    assert found.conclusions() == ["Near duplicates cannot be searched in 0 images."]


def test_images_alike_by_nature_are_told_as_such(tmp_path):
    """Thirty near copies of one image: 435 pairs."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    for k in range(30):
        photograph(0).save(tmp_path / "set" / "a" / f"{k}.jpg", quality=60 + k)
    _, _, found = found_in(tmp_path / "set")
    assert len(found.pairs) == 435 and "similar by nature" in found.conclusions()[0]
    assert {pair.group for pair in found.pairs} == {1}


@pytest.mark.parametrize(("pairs", "images", "alike"), [(0, 4, False), (1, 3, False), (4, 4, False), (5, 4, True)])
def test_few_pairs_among_few_images_are_not_called_a_nature(pairs, images, alike):
    assert bool(_cautions(pairs, LAYOUT, pairs, images)) == alike


def test_rows_can_be_given_back(folder, tmp_path):
    _, _, found = found_in(folder)
    write_csv(tmp_path / "near.csv", found)
    rows = list(csv.DictReader((tmp_path / "near.csv").open(encoding="utf-8", newline="")))
    assert [(row["path_1"], row["path_2"]) for row in rows] == [pair.paths for pair in found.pairs]
    assert set(rows[0]) == {
        *(f"{name}_{side}" for name in ("path", "split", "label") for side in (1, 2)),
        *("distance", "mirrored", "group"),
    }
    assert all(0 <= float(row["distance"]) <= DISTANCE for row in rows)


def test_the_page_shows_pairs_and_escapes_names(tmp_path, monkeypatch):
    monkeypatch.setattr(check_page, "MOST_SHOWN", 2)
    hostile = "<script>alert(1)<"
    for split in ("train", "test"):
        (tmp_path / "set" / split / hostile).mkdir(parents=True)
        for k in range(3):
            name = '"><img src=x onerror=alert(1)>.jpg' if k == 0 else f"{k}.jpg"
            photograph(k).save(tmp_path / "set" / split / hostile / name, quality=90 if split == "train" else 60)
    table, report, found = found_in(tmp_path / "set")
    check_page.write_page(tmp_path / "page.html", table, report, found)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(found.pairs) == 3
    assert page.count("data:image/") == 4, "two pairs of two images"
    assert "the 2 with the smallest distance are shown" in page
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_the_terminal_shows_ten_of_each_kind(folder):
    _, report, found = found_in(folder)
    buffer = io.StringIO()
    print_check(report, RichConsole(file=buffer, width=200), found.findings())
    text = buffer.getvalue()
    assert "train/cat/2.png (train, cat) ~ test/cat/leak.jpg (test, cat)" in text
    assert text.index("near-duplicate") < text.index("without an error show")


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Runs one command; returns exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["loupe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.main()
        return end.value.code, *capsys.readouterr()

    return call


def test_the_command_shows_and_writes_near_duplicates_and_does_not_fail_for_them(terminal, folder, tmp_path):
    photograph(200).save(folder / "test" / "cat" / "0.png")
    page = tmp_path / "new" / "page.html"
    code, out, _ = terminal("check", folder, "--near", "--report", page, "--quiet")
    assert code == 0
    assert "2 near-duplicate pairs between train and test" in " ".join(out.split())
    assert "leak.jpg" in page.read_text(encoding="utf-8")
    assert len(page.with_suffix(".pairs.csv").read_text(encoding="utf-8").splitlines()) == 6
    code, out, _ = terminal("check", folder, "--near", "--json")
    assert code == 0 and json.loads(out)["near_duplicates"]["leaked"] == {"test": 2}
    code, out, _ = terminal("check", folder, "--json")
    assert code == 0 and json.loads(out)["near_duplicates"] is None


def test_a_report_needs_near_and_a_name_of_a_page(terminal, folder, tmp_path):
    code, _, err = terminal("check", folder, "--report", tmp_path / "page.html")
    assert code == 1 and "--near" in err
    code, _, err = terminal("check", folder, "--near", "--report", tmp_path / "rows.csv")
    assert code == 1 and "check.html" in err and not (tmp_path / "rows.csv").exists()
    code, _, err = terminal("check", folder, "--near", "--report", folder / "train" / "cat" / "1.png" / "page.html")
    assert code == 1 and "cannot be written" in err


@pytest.mark.slow
def test_the_known_near_duplicates_of_cifar10(real_data):
    """Barz and Denzler (2020) list 286 test images; results/near_duplicates.md has the recall."""
    table = open_table(real_data / "cifar10")
    found = find_near(table, content_hashes(table), cache=None)
    assert 450 < found.leaked()["test"] < 600
    assert found.counts()["between train and test"]["other_label"] < 10
