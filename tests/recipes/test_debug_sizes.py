"""Every recipe at a size that runs in seconds."""

import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

import loupe
from loupe.config.network import BackboneSpec
from loupe.recipes.catalog import RECIPES, recipe

pytestmark = pytest.mark.usefixtures("bare")

# A size at which each recipe runs in seconds, and learns.
DEBUG_PX = {"digits": 8, "photographs": 48, "photographs-plain": 48, "catsdogs-cnn": 48, "catsdogs-cnn-quick": 48}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if recipe(name).experiment else []) for name in RECIPES]
)
def test_every_recipe_learns_at_its_debug_size(name, tmp_path):
    size, stages = DEBUG_PX.get(name, 16), range(len(recipe(name).stages))
    extra = {"input.size_px": size, "split.validation": 20, "split.choose": "stratified", "split.test": 0.1}
    if recipe(name).stages[0].augment.crop_padding_px:
        extra["stages.0.augment.crop_padding_px"] = 1
    if isinstance(recipe(name).model, BackboneSpec):  # of random weights, and at a size that ends in seconds
        extra |= {"model.backbone": "test_resnet", "model.weights": "none", "input.size_px": 32, "input.load_px": 32}
    for number in stages:
        batch = 40 if name == "fast" else 16  # its optimizer takes 0.1 s for a step
        short = {"epochs": 2, "batch_size": batch, "augment.horizontal_flip": False}
        extra |= {f"stages.{number}.{key}": value for key, value in short.items()}
    bunch = load_digits()
    done = loupe.train(
        ((bunch.images[:160] * 15.9375).astype(np.uint8), bunch.target[:160]),
        recipe=name,
        settings=extra,
        precision="fp32",
        output=tmp_path,
        device="cpu",
        quiet=True,
    )
    rows = [line.split(",") for line in (done.path / "metrics.csv").read_text().splitlines()[1:]]
    # A random backbone has nothing that a second stage could refine: the first has to learn, every one to run.
    losses = [float(row[3]) for row in rows if row[1] == "1"]
    assert losses[-1] < losses[0]
    assert len(rows) == 2 * len(stages)
    shutil.rmtree(tmp_path)
