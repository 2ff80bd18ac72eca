"""Conclusions of `loupe check` on few, unequal and faulty images: bounds that follow from the counts."""

from dataclasses import replace

import pytest

from loupe.data.audit.check_report import CheckReport, Copies
from loupe.data.audit.findings import findings
from loupe.errors import ImageError
from loupe.report.check_conclusions import conclusions

FINE = "No problem that prevents training."


def report(**counts: dict[str, int]) -> CheckReport:
    """Report on images with these counts of classes in each split; `drawn` is no split."""
    named = {"no split" if split == "drawn" else split: row for split, row in counts.items()}
    images = sum(sum(row.values()) for row in named.values())
    return CheckReport("set", images, named, None, None, {}, {}, (), (), (), (), ())


def pair(*splits: str, labels: tuple[str, ...] = ("a", "a")) -> Copies:
    return Copies(tuple(f"{split}.png" for split in splits), splits, labels)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"drawn": {"a": 20, "b": 20}}, "4 test images (10 % of 40, the default) without an error show an accuracy"),
        ({"drawn": {"a": 20, "b": 20}}, "above 0.472 (95 % confidence); 29 show 0.9."),
        ({"drawn": {"a": 50, "b": 1}}, "1 class with 1 image (b): trained on, never evaluated."),
        ({"drawn": {"a": 5, "b": 5, "c": 5}}, "2 test images (10 % of 15"),
        ({"train": {"a": 99, "b": 99}, "test": {"a": 1, "b": 0}}, "The split test has no images of b: results say"),
        ({"train": {"a": 99, "b": 99}, "test": {"a": 1, "b": 0}}, "1 test image without an error shows"),
        ({"train": {"a": 9, "b": 9, "c": 0}, "val": {"a": 9, "b": 9, "c": 9}}, "train has no images of c: they cannot"),
    ],
)
def test_what_few_images_cannot_show_is_said(counts, says):
    found = conclusions(report(**counts))
    assert found.problems == () and found.sentences[0] == FINE
    assert any(says in sentence for sentence in found.cautions), found


def test_many_images_have_no_cautions():
    assert conclusions(report(drawn={"a": 145, "b": 145})).sentences == [FINE]
    assert conclusions(report(drawn={"a": 140, "b": 140})).cautions


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"drawn": {"a": 40}}, "All 40 training images are of a."),
        ({"drawn": {"a": 1, "b": 0}}, "The 1 training image is of a."),
        ({"drawn": {"no label": 7}}, "No image for training has a label."),
        ({"test": {"a": 4, "b": 4}}, "No image for training has a label."),
        ({}, "No image for training has a label."),
    ],
)
def test_what_cannot_be_trained_on_is_not_called_fine(counts, says):
    found = conclusions(report(**counts))
    assert len(found.problems) == 1 and found.problems[0].startswith(says)
    assert found.cautions == ()


def test_leaks_bound_the_error_of_the_accuracy():
    whole = report(train={"a": 99, "b": 99}, val={"a": 20, "b": 20}, test={"a": 100, "b": 100})
    found = conclusions(replace(whole, copies=(pair("train", "test"),)))
    assert found.problems == (
        "1 of 200 test images is in an earlier split too: the test accuracy may be up to 0.5 points too high.",
    )
    found = conclusions(replace(whole, copies=(pair("val", "test", "test", labels=("a",) * 3), pair("train", "val"))))
    assert [sentence.split(":")[0] for sentence in found.problems] == [
        "1 of 40 validation images is in an earlier split too",
        "2 of 200 test images are in an earlier split too",
    ]


def test_damage_and_two_labels_are_counted():
    whole = report(train={"a": 99, "b": 99}, test={"a": 20, "b": 20})
    found = conclusions(replace(whole, damaged=(ImageError("a/1.png", "cut off"),)))
    assert found.problems == ("Training stops at 1 damaged image, unless with --skip-damaged.",)
    found = conclusions(replace(whole, copies=(pair("train", "train", labels=("a", "b")),)))
    assert found.problems == ("2 files with equal content have different labels: not all of them are right.",)


@pytest.mark.parametrize(("rare", "weights"), [(0, False), (1, False), (9, False), (10, True), (33, True)])
def test_weights_are_proposed_for_classes_that_have_images(rare, weights):
    [(title, lines)] = findings(report(drawn={"common": 100, "rare": rare}))
    assert ("class_weights" in title) == weights and lines[0].startswith("common has 100 images, rare has")
