"""Results of a run that a notebook shows: explanations, images of filters, and the images of each predicted class."""

import numpy as np
import pytest
from test_displays import HOSTILE, Page, check_stands_alone

import loupe
from loupe.explain.filters import AscentSettings

NAMES = ("a", HOSTILE[0])
pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 40)
    return (random.integers(0, 80, (80, 16, 16)) + 120 * y[:, None, None]).astype(np.uint8), y


@pytest.fixture
def run(images, tmp_path):
    x, y = images
    np.savez(tmp_path / "small.npz", x=x, y=np.array(NAMES)[y])
    return loupe.train(tmp_path / "small.npz", recipe="digits", epochs=1, output=tmp_path / "runs", quiet=True)


def test_explanations_and_filters_are_lists_that_show_themselves(run, images, tmp_path):
    pytest.importorskip("captum")
    x, _ = images
    explained = run.explain(x[[0, 79], :, :, None])
    assert isinstance(explained, list) and [one.label for one in explained] == [None, None]
    page = check_stands_alone(explained.display())
    assert len(page.all("img")) == 4 and "HiResCAM" in page.words
    assert all(one.path in repr(explained) for one in explained) and explained[0].predicted in page.words
    own = Page(run.explain(count=4).display().html)
    assert "Misclassified 0" in own.words or "Misclassified 1" in own.words
    filters = run.filters(count=2, ascent=AscentSettings(steps=2))
    page = check_stands_alone(filters.display())
    assert isinstance(filters, list) and len(page.all("img")) == 3 * len(filters) and "Steps 2" in page.words
    assert all(f"{one.layer}: 2 filters of {filters.shapes[one.layer][0]}" in repr(filters) for one in filters)
    assert filters.save(tmp_path / "a.html").read_text(encoding="utf-8") == filters.display().html


def test_images_are_counted_by_predicted_class_and_below_the_threshold_unclassified(run, images):
    x, _ = images
    probability_NK = run.predict_proba(x[..., None])
    threshold = float(np.sort(probability_NK.max(1))[10])
    counts = run.class_counts(x[..., None], threshold=threshold, count=4)
    kept = probability_NK.max(1) >= threshold
    expected = [int((probability_NK.argmax(1)[kept] == k).sum()) for k in (0, 1)]
    assert counts == {**dict(zip(run.classes, expected, strict=True)), "unclassified": 10}
    page = check_stands_alone(counts.display())
    assert "70 of 80 images classified" in page.words and "70 of 80" in repr(counts) and not counts.score
    assert [image["alt"] for image in page.all("img")] == [f"image {n}, predicted unclassified" for n in (1, 2, 3, 4)]
    widths = [
        float(one["style"].split(":")[1].rstrip("%")) for one in page.all("span") if "width" in one.get("style", "")
    ]
    assert widths == pytest.approx([100 * n / max(counts.values()) for n in counts.values() if n], abs=0.01)


def test_of_the_images_of_the_run_it_is_counted_how_many_are_right(run):
    results = run.results.validation
    counts = run.class_counts()
    assert "unclassified 0" not in Page(counts.display().html).words and sum(counts.values()) == counts.labelled
    assert counts.correct / counts.labelled == pytest.approx(results.accuracy.value)
    looks = run.evaluate("test").test_looks
    run.class_counts(split="test", count=0)
    assert run.evaluate("test").test_looks == looks + 2


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"threshold": True}, {"threshold": "0.9"}, {"count": -1}])
def test_options_out_of_range_are_refused(run, wrong):
    with pytest.raises(loupe.ConfigError):
        run.class_counts(**wrong)
