"""Displays in a real browser: they fit their frames, can be read in light and dark, and ask for nothing."""

from dataclasses import asdict, replace

import numpy as np
import pytest

import loupe
from browsers import CONTRASTS, GROUNDS, chromium
from builders import comparison_content, make_run, simulated
from loupe.comparison.finished import FinishedComparison
from loupe.evaluate.predictions import write_splits
from loupe.evaluate.results import results_of
from loupe.notebook import run_parts
from loupe.notebook.differences import differences
from loupe.recipes.published.experiments import EXPERIMENTS
from loupe.rundir import RunDirectory

pytestmark = pytest.mark.slow
WIDTH_PX = 900  # of the output of a cell


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> dict[str, str]:
    """What a notebook shows, by a name."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 6)
    data = (random.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), y)
    published = asdict(EXPERIMENTS["simple-cnn"])
    run = RunDirectory(make_run(tmp_path_factory.mktemp("runs") / "run", published=published))
    results = results_of(run)
    shown = {
        "data": loupe.show((data, data)),
        "preview": loupe.preview(data, recipe="deep-cnn"),
        "layers": loupe.layers(data, recipe="simple-cnn"),
        "comparison": FinishedComparison.of(comparison_content(), run.path),
    }
    others = [RunDirectory(make_run(run.path.parent / f"without normalisation {number}")) for number in range(5)]
    for number, one in enumerate([run, *others]):
        validation = simulated(np.random.default_rng(number), images=40, classes=3)
        write_splits(one.file("predictions.csv"), {"val": replace(validation, label=np.arange(40) % 3)})
    shown["differences"] = differences(run, others)
    for name in ("curves", "confusion", "published"):
        shown[name] = getattr(run_parts, name)(run, results)
    return {name: one._repr_html_() for name, one in shown.items()}


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize(
    "name", ["data", "preview", "layers", "comparison", "curves", "confusion", "published", "differences"]
)
def test_a_display_fits_its_frame_and_can_be_read(browser, frames, name, scheme):
    asked: list[str] = []
    context = browser.new_context(viewport={"width": WIDTH_PX, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(f"<body style='margin: 0'>{frames[name]}</body>")
    [inside] = [frame for frame in page.frames if frame != page.main_frame]
    inside.wait_for_selector("main")
    assert inside.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    root = "document.documentElement"
    height, room, width = inside.evaluate(f"[{root}.scrollHeight, innerHeight, {root}.scrollWidth]")
    assert height <= room and width <= WIDTH_PX, f"{name}: {height} px high in {room} px"
    filled = inside.evaluate("document.querySelector('main').getBoundingClientRect().height")
    assert filled > 0.6 * room, f"{name}: {filled:.0f} px in a frame of {room} px"
    assert inside.evaluate(CONTRASTS) == {}
    assert not [url for url in asked if not url.startswith(("data:image/", "about:"))]
    context.close()
