"""Remedies for a recipe that needs validation images: never one that is set already, or that cannot draw any."""

import re

import numpy as np
import pytest

import loupe
from loupe.config.overrides import override
from loupe.config.recipe import SplitSpec
from loupe.data.splits.split import Split
from loupe.errors import ConfigError, DataError
from loupe.recipes.catalog import recipe
from loupe.runs.check_split import check_split

ROWS = np.arange(4)
NONE = Split(ROWS, ROWS[:0], ROWS[:0])


def some(spec: SplitSpec) -> Split:
    return Split(ROWS[:3], ROWS[3:], ROWS[:0])


def refused(spec: SplitSpec) -> Split:
    raise DataError("no image can be drawn")


@pytest.mark.parametrize(
    ("name", "settings", "redraw", "remedy"),
    [
        ("features", ["stages.0.epochs=11", "split.validation=0"], some, "Give --set split.validation=0.1"),
        ("features", ["stages.0.epochs=11", "split.validation=0"], refused, "--set stages.0.epochs=1"),
        ("features", ["stages.0.epochs=11", "split.validation=0"], lambda spec: NONE, "--set stages.0.epochs=1"),
        (
            "features",
            ["stages.0.epochs=11"],
            some,
            "--set stages.0.epochs=1",
        ),  # a split of the caller's own, without any
        ("digits", ["stages.0.patience_epochs=3"], refused, "--set stages.0.patience_epochs=null"),
        ("digits", ["stages.0.schedule=plateau"], refused, "--set stages.0.schedule=constant"),
    ],
)
def test_the_remedy_is_one_that_helps(name, settings, redraw, remedy):
    wanted = override(recipe(name), settings)
    with pytest.raises(ConfigError) as raised:
        check_split(wanted, NONE, redraw)
    assert str(raised.value).endswith(remedy)
    if "stages" in remedy:
        changes = re.findall(r"--set (\S+)", str(raised.value))
        check_split(override(wanted, changes), NONE, redraw)
    check_split(wanted, some(wanted.split), redraw)


def test_the_remedy_trains_two_images(tmp_path):
    """Two classes of one image: nothing can be validated on, and the message says how to do without."""
    x, y = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]), np.array(["a", "b"])
    settings = {"split.validation": 0, "split.test": 0, "stages.0.patience_epochs": 2}
    more = {"recipe": "digits", "epochs": 1, "output": tmp_path, "device": "cpu", "quiet": True}
    with pytest.raises(ConfigError, match=r"do without: --set stages\.0\.patience_epochs=null"):
        loupe.train((x, y), settings=settings, **more)
    run = loupe.train((x, y), settings=settings | {"stages.0.patience_epochs": None}, **more)
    assert run.results.validation is None and run.results.diagnosis.next is None
