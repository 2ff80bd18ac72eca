"""The check finds what was planted, says when a set can be trusted, and survives hostile names."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console as RichConsole

from loupe.cli.check_table import print_check
from loupe.data import hashing
from loupe.data.audit import check as check_module
from loupe.data.audit.check import check
from loupe.data.hashing import content_hashes
from loupe.data.sources.open import open_table
from loupe.log import printable


def save(file, seed, size=(20, 16), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(file)
    return file


@pytest.fixture
def folder(tmp_path):
    """Three splits of two classes, four sound images each."""
    for s, split in enumerate(("train", "val", "test")):
        for c, name in enumerate(("cat", "dog")):
            for k in range(4):
                save(tmp_path / "set" / split / name / f"{k}.png", 100 * s + 10 * c + k)
    return tmp_path / "set"


def report_on(data, tmp_path):
    table = open_table(data)
    return check(table, content_hashes(table, cache=tmp_path / "cache"))


def text_of(report, width=200):
    buffer = io.StringIO()
    print_check(report, RichConsole(file=buffer, width=width))
    return buffer.getvalue()


def extent(least, median, most):
    return {"min": least, "median": median, "max": most}


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def test_a_sound_set(folder, tmp_path):
    report = report_on(folder, tmp_path)
    assert report.ok
    assert report.counts == {split: {"cat": 4, "dog": 4} for split in ("train", "val", "test")}
    assert (report.width_px, report.height_px) == (extent(20, 20, 20), extent(16, 16, 16))
    assert (report.formats, report.modes) == ({"PNG": 24}, {"RGB": 24})
    assert (report.damaged, report.copies, report.small, report.long) == ((), (), (), ())
    assert report.imbalance == 1
    assert "No problem that prevents training" in text_of(report)


def test_sizes_formats_and_modes(folder, tmp_path):
    save(folder / "train" / "cat" / "wide.jpg", 1, size=(90, 16))
    save(folder / "train" / "cat" / "tiny.png", 2, size=(3, 3))
    save(folder / "train" / "cat" / "grey.webp", 3)
    save(folder / "train" / "cat" / "grey.png", 3, mode="L")
    report = report_on(folder, tmp_path)
    assert (report.width_px, report.height_px) == (extent(3, 20, 90), extent(3, 16, 16))
    assert report.formats == {"PNG": 26, "JPEG": 1, "WEBP": 1}
    assert report.modes == {"RGB": 27, "L": 1}
    assert [path.rsplit("/", 1)[1] for path in report.long] == ["wide.jpg"]
    assert [path.rsplit("/", 1)[1] for path in report.small] == ["tiny.png"]
    assert report.ok


def test_damage_is_listed_with_its_reason(folder, tmp_path):
    cut = folder / "train" / "cat" / "0.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    (folder / "val" / "dog" / "0.png").write_bytes(b"")
    (folder / "val" / "dog" / "1.png").write_bytes(b"")
    report = report_on(folder, tmp_path)
    assert not report.ok
    assert {error.path: error.reason for error in report.damaged} == {
        "train/cat/0.png": "damaged PNG: truncated in chunk b'IDAT'",
        "val/dog/0.png": "the file is empty",
        "val/dog/1.png": "the file is empty",
    }
    assert report.copies == ()  # two empty files are no copies of an image
    assert sum(report.formats.values()) == 21


def test_an_image_in_two_splits_is_a_leak(folder, tmp_path):
    copy(folder / "train" / "cat" / "0.png", folder / "test" / "cat" / "copy.png")
    report = report_on(folder, tmp_path)
    assert not report.ok
    (leak,) = report.leaks
    assert set(zip(leak.paths, leak.splits, leak.labels, strict=True)) == {
        ("train/cat/0.png", "train", "cat"),
        ("test/cat/copy.png", "test", "cat"),
    }
    assert report.conflicts == ()


def test_a_copy_within_a_split_is_told_and_allowed(folder, tmp_path):
    copy(folder / "train" / "cat" / "0.png", folder / "train" / "cat" / "copy.png")
    report = report_on(folder, tmp_path)
    assert report.ok and len(report.copies) == 1
    assert "copies within a split" in text_of(report)


def test_a_copy_with_another_label_is_a_conflict(folder, tmp_path):
    copy(folder / "train" / "cat" / "0.png", folder / "train" / "dog" / "copy.png")
    report = report_on(folder, tmp_path)
    assert not report.ok
    assert [set(conflict.labels) for conflict in report.conflicts] == [{"cat", "dog"}]
    assert report.leaks == ()


def test_copies_without_given_splits_are_no_leak(tmp_path):
    for k in range(4):
        save(tmp_path / "set" / ("cat", "dog")[k % 2] / f"{k}.png", k)
    copy(tmp_path / "set" / "cat" / "0.png", tmp_path / "set" / "cat" / "copy.png")
    report = report_on(tmp_path / "set", tmp_path)
    assert report.ok and len(report.copies) == 1
    assert report.counts == {"no split": {"cat": 3, "dog": 2}}


def test_a_group_in_two_splits_is_a_leak(folder, tmp_path):
    rows = ["path,label,split,group"]
    rows += [f"train/cat/{k}.png,cat,train,{'ann' if k < 2 else 'bob'}" for k in range(4)]
    rows += [f"test/dog/{k}.png,dog,test,{'ann' if k == 0 else 'cid'}" for k in range(4)]
    rows += ["test/cat/0.png,cat,test,dan"]
    (folder / "set.csv").write_text("\n".join(rows))
    report = report_on(folder / "set.csv", tmp_path)
    assert report.split_groups == ("ann",)
    assert not report.ok


def test_imbalance_is_of_the_training_images(folder, tmp_path):
    for k in range(10, 30):
        save(folder / "train" / "cat" / f"{k}.png", 1000 + k)
    report = report_on(folder, tmp_path)
    assert report.class_sizes == {"cat": 24, "dog": 4}
    assert report.imbalance == 6
    assert report.ok and "cat has 24 images, dog has 4" in text_of(report)


def test_json_is_whole(folder, tmp_path):
    copy(folder / "train" / "cat" / "0.png", folder / "test" / "dog" / "copy.png")
    (folder / "val" / "dog" / "0.png").write_bytes(b"no image")
    data = json.loads(json.dumps(report_on(folder, tmp_path).to_json()))
    assert (data["ok"], data["images"]) == (False, 25)
    assert data["damaged"][0]["path"] == "val/dog/0.png"
    assert data["across_splits"] == data["conflicting_labels"] == data["duplicates"]
    assert {entry["split"] for entry in data["duplicates"][0]} == {"train", "test"}
    assert data["width_px"] == {"min": 20, "median": 20.0, "max": 20}


def test_a_set_with_no_image_that_can_be_read(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(b"")
    report = report_on(tmp_path / "set", tmp_path)
    assert (report.width_px, report.formats, report.ok) == (None, {}, False)
    assert "2 damaged" in text_of(report)
    assert json.dumps(report.to_json())


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m", "[bold]b[/]", "a\rb", "\u202eevil", "c\x9b2J"])
def test_names_cannot_drive_the_terminal(tmp_path, name):
    for k in range(2):
        save(tmp_path / "set" / name / f"{k}.png", k)
        save(tmp_path / "set" / "plain" / f"{k}.png", k)
    (tmp_path / "set" / name / "broken\x1b]0;title\x07.png").write_bytes(b"\x1b[2Jnot an image")
    text = text_of(report_on(tmp_path / "set", tmp_path))
    assert not set(text) & set("\x1b\r\x07\x9b\u202e")
    assert printable(name) in text


def test_long_lists_are_cut(folder, tmp_path):
    for k in range(40):
        (folder / "train" / "cat" / f"broken{k}.png").write_bytes(b"x")
    text = text_of(report_on(folder, tmp_path))
    assert "40 damaged" in text and "... and 30 more" in text
    assert text.count("not a JPEG") == 10


@pytest.mark.slow
def test_the_real_sets(real_data, tmp_path):
    for name, images in (("cats_vs_dogs", 4000), ("cifar10", 60000)):
        report = report_on(real_data / name, tmp_path)
        assert report.ok and report.images == images
        assert report.copies == ()


def test_a_list_that_is_cut_has_cases_of_all_classes(tmp_path):
    for name in ("ant", "bee", "cat", "dog"):
        for k in range(30):
            save(tmp_path / "set" / name / f"{k:02}.png", k)
            (tmp_path / "set" / name / f"broken{k:02}.png").write_bytes(b"x")
    text = text_of(report_on(tmp_path / "set", tmp_path))
    shown = [line.strip() for line in text.splitlines() if "broken" in line]
    assert len(shown) == 10 and shown == sorted(shown)
    assert {line.split("/")[0] for line in shown} == {"ant", "bee", "cat", "dog"}


def test_the_layout_that_was_understood_is_told(tmp_path):
    for split, names in (("training_set", ("Cat", "cat")), ("test_set", ("Cat", "cat"))):
        for k, name in enumerate(names):
            save(tmp_path / "set" / split / name / "1.png", 10 * len(split) + k)
    save(tmp_path / "set" / "unlabelled" / "1.png", 7)
    report = report_on(tmp_path / "set", tmp_path)
    assert report.to_json()["layout"] == [
        {"source": "test_set/", "use": "test", "classes": ["Cat", "cat"], "images": 2},
        {"source": "training_set/", "use": "train", "classes": ["Cat", "cat"], "images": 2},
        {"source": "unlabelled/", "use": "predict", "classes": [], "images": 1},
    ]
    assert report.to_json()["similar_classes"] == [["Cat", "cat"]]
    text = re.sub("[│ ]+", " ", text_of(report))
    for words in ("training_set/ train Cat and cat 2", "unlabelled/ set aside for predict 1", "'Cat' = 'cat'"):
        assert words in text


def test_the_layout_of_a_table_without_one_is_its_splits(tmp_path):
    report = report_on("digits", tmp_path)
    assert [(row.source, row.use, row.images) for row in report.layout] == [("digits", "no split", 1797)]


def test_a_long_layout_is_shortened_in_the_terminal(tmp_path):
    for k in range(40):
        save(tmp_path / "set" / f"class{k}" / "1.png", k, size=(4, 4))
    report = report_on(tmp_path / "set", tmp_path)
    assert len(report.layout) == 40
    assert "... and 32 more class 32" in re.sub("[│ ]+", " ", text_of(report))


def counted_looks(monkeypatch):
    """Rows that the check asks for, in place of a count in child processes."""
    asked = []
    real = check_module.in_parallel

    def counting(table, work, *, rows, **others):
        asked.extend(rows)
        return real(table, work, rows=rows, **others)

    monkeypatch.setattr(check_module, "in_parallel", counting)
    return asked


def test_a_hundred_thousand_class_names_of_three_images_decode_three(tmp_path, monkeypatch):
    for k in range(3):
        save(tmp_path / f"{k}.png", k, size=(20, 16 + k))
    lines = [f"{i % 3}.png,name {i:06d}" for i in range(100_000)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    hashed, asked = [], counted_looks(monkeypatch)
    real = hashing._hash
    monkeypatch.setattr(hashing, "_hash", lambda table, i, *others: hashed.append(i) or real(table, i, *others))
    report = report_on(tmp_path / "list.csv", tmp_path)
    assert (sorted(hashed), asked) == ([0, 1, 2], [0, 1, 2])
    assert (report.images, len(report.class_sizes), report.formats) == (100_000, 100_000, {"PNG": 100_000})
    assert report.height_px == extent(16, 17, 18)
    assert [len(copies.paths) for copies in report.conflicts] == [33_334, 33_333, 33_333]


def test_an_error_names_each_copy_of_a_damaged_image(folder, tmp_path, monkeypatch):
    asked = counted_looks(monkeypatch)
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    for name in ("x.png", "y.png"):
        (folder / "train" / "cat" / name).write_bytes(whole[: len(whole) // 2])
    report = report_on(folder, tmp_path)
    assert [error.path for error in report.damaged] == ["train/cat/x.png", "train/cat/y.png"]
    assert len({error.reason for error in report.damaged}) == 1
    assert len(asked) == report.images - 1
