"""The part of a run's page about confidence: what it says is what results.json holds."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from builders import predictions, run_results, simulated
from loupe.evaluate import calibration, metrics, selective
from loupe.evaluate.groups import by_group
from loupe.evaluate.results import RunResults
from loupe.report import confidence, texts
from loupe.report.template import render


class Partial(HTMLParser):
    """What a browser would find in the part."""

    def __init__(self, results, calibrated=False) -> None:
        super().__init__()
        self.text, self.ids, self.labels, self.tags = "", [], [], set()
        shown = {"confidence": confidence.shown(results), "calibrated": calibrated}
        self.source = render("confidence.html", shown)
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.labels += [found["aria-label"]] if tag == "svg" and "aria-label" in found else []

    def handle_data(self, data):
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.replace("\xa0", " ").split())


def results(parts):
    fitted = calibration.fit_temperature(parts["val"]) if "val" in parts else calibration.Temperature()
    content = run_results("run", ("a", "b", "c"), None)
    blocks = {"calibration": calibration.report(fitted, parts), "selective": selective.report(fitted.value, parts)}
    return RunResults.model_validate({key: value for key, value in content.items() if key != "schema"} | blocks)


@pytest.fixture(scope="module")
def whole():
    random = np.random.default_rng(0)
    parts = [simulated(random, 1200, 3, skill=3.0) for _ in range(2)]
    parts = [predictions(part.label, 9 * part.logits_NK) for part in parts]
    return results({"val": parts[0], "test": parts[1]})


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time, and these tests look at the words."""
    monkeypatch.setattr("loupe.report.figures.chart", lambda draw, *, label, width_px, height_px: "<svg></svg>")


def test_it_says_and_draws_what_the_results_hold(whole):
    page, compared = Partial(whole), whole.calibration.test
    assert len(page.labels) == 4 and len(page.ids) == len(set(page.ids))
    assert "the network is overconfident" in page.words and ": better." in page.words
    assert f"from {texts.number(compared.ece.before)} to {texts.number(compared.ece.after)}" in page.words
    assert "1,200 test images in 15 bins" in page.words
    for row in compared.bins.after:
        assert not row.images or f"{row.confidence:.2f}: {row.accuracy:.2f}" in page.labels[0]
    assert f"{whole.selective.test.points[-1].risk:.3f} at 1.00" in page.labels[2]
    for row in whole.selective.thresholds:
        shown = "cannot be promised" if row.threshold is None else f"{row.threshold:.4f}"
        assert shown in page.words
    assert "var(--first)" in page.source and not re.search(r"#0a0b0\d", page.source)


def test_points_of_the_diagram_lie_at_their_confidence_and_accuracy(whole):
    """The line's corners are the bins, by one scale for each axis."""
    svg = confidence.reliability(whole.calibration.temperature, whole.calibration.test, "test").wide
    paths = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float) for path in re.findall(r' d="([^"]*)"', svg)]
    rows = [row for row in whole.calibration.test.bins.after if row.images >= confidence.FEWEST_IN_LINE]
    wanted = np.array([(row.confidence, row.accuracy) for row in rows])
    lines = [path for path in paths if len(path) == len(rows)]
    assert len(rows) > 3
    assert any(all(abs(np.corrcoef(wanted.T, line.T)[axis, 2 + axis]) > 1 - 1e-9 for axis in (0, 1)) for line in lines)


def test_without_validation_there_is_no_threshold_and_no_temperature(undrawn):
    part = simulated(np.random.default_rng(1), 300, 3)
    words = Partial(results({"test": part})).words
    assert "No temperature was fitted: there are no validation images" in words
    assert "No threshold was chosen: there are no validation images" in words
    assert "not calibrated" in words and "By group" not in words
    assert "from loupe predict are not calibrated" in words and "are calibrated" not in words


def test_without_test_images_validation_stands_in_by_its_name(undrawn):
    page = Partial(results({"val": predictions(np.arange(60) % 3, 5 * np.eye(3)[np.arange(60) % 3])}))
    assert "60 validation images in 15 bins" in page.words and "No temperature was fitted: " in page.words
    assert "Coverage, test" not in page.words


def test_a_run_without_these_figures_has_no_such_part(whole):
    for old in (whole.model_copy(update={"calibration": None, "selective": None}), results({})):
        assert confidence.shown(old) is None
    assert not render("confidence.html", {"confidence": None}).strip()


def test_pictures_are_said_to_be_calibrated_where_they_are(whole, undrawn):
    said = "below pictures on this page and from loupe predict are calibrated"
    assert said in Partial(whole, calibrated=True).words and said not in Partial(whole).words


def test_groups_are_shown_lowest_first_with_hostile_names_as_text(whole, undrawn):
    part = simulated(np.random.default_rng(3), 90, 3)
    named = by_group(part, ["<script>b</script>"] * 40 + ["a"] * 46 + ["few"] * 4)
    test = metrics.evaluate(part).model_copy(update={"per_group": named})
    page = Partial(whole.model_copy(update={"test": test}))
    rows = sorted(named.rows, key=lambda row: row.accuracy.value)
    places = [page.words.index(row.group) for row in rows]
    assert places == sorted(places) and "script" not in page.tags
    assert "1 group is left out, with fewer than five images" in page.words


@pytest.mark.parametrize(
    ("images", "right", "says"),
    [
        (1, 1, "on 1 test image. No image is misclassified"),
        (4, 4, "on 4 test images. No image is misclassified"),
        (4, 0, "on 4 test images. All images are misclassified"),
        (4, 2, "on 4 test images. All have the same confidence"),
    ],
)
def test_what_few_images_cannot_show_of_confidence_is_said(images, right, says, undrawn):
    label = np.arange(images) % 3
    guess = np.where(np.arange(images) < right, label, (label + 1) % 3)
    part = predictions(label, 2 * np.eye(3)[guess])
    words = Partial(results({"val": part, "test": part})).words
    assert says in words and "No temperature was fitted" in words
    assert f"needs 29 validation images without an error; there {'is' if images == 1 else 'are'} {images}" in words
    assert "These validation images guarantee no precision" in words or right


def test_a_calibration_error_by_chance_is_told_from_a_real_one(undrawn, whole):
    random = np.random.default_rng(0)
    few = simulated(random, 12, 3)
    assert "no evidence of an error" in Partial(results({"val": few, "test": few})).words
    compared = whole.calibration.test
    assert compared.ece.before > calibration.chance_error(compared.bins.before) > 0


@pytest.mark.slow
def test_the_error_of_a_calibrated_network_is_below_that_of_chance_in_95_of_100_draws():
    """400 draws of 50 images from probabilities that are true."""
    random = np.random.default_rng(1)
    below = []
    for _ in range(400):
        log_p = np.log(random.dirichlet(np.ones(3), 50))
        label = np.array([random.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in log_p])
        part = predictions(label, log_p)
        error = metrics.calibration_error(np.exp(part.log_probabilities_NK), part.label)
        below.append(error <= calibration.chance_error(calibration.reliability(part, 1.0)))
    assert 0.92 <= np.mean(below) <= 0.98


def test_the_change_of_a_few_losses_has_students_interval():
    losses = np.array([-0.2, -0.1, -0.3, 0.05])
    change = calibration._mean(losses)
    low, high = calibration.change_interval(change, 4)
    expected = stats.t.interval(0.95, 3, losses.mean(), stats.sem(losses))
    assert (low, high) == pytest.approx(expected, rel=1e-6)
    assert change.high < 0 < high, "the normal interval of 4 images is too short"
    assert calibration.change_interval(calibration._mean(losses[:1]), 1) is None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.9, 1.4, "0.900 to 1.400"), (0.0, 7e16, "below 0.001 to above 1,000"), (0.5, 1e6, "0.500 to above 1,000")],
)
def test_the_interval_of_a_temperature_ends_where_none_is_searched(low, high, says):
    assert texts.temperature_span(low, high) == says
