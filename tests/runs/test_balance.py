"""Logit adjustment in the loss and in solved heads, and the note on unbalanced classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import loupe
from loupe.config.overrides import override
from loupe.config.recipe import Stage
from loupe.data.sources.arrays import from_arrays
from loupe.data.splits.split import Split
from loupe.evaluate.history import read_history
from loupe.evaluate.predictions import read_splits
from loupe.recipes.catalog import recipe
from loupe.runs.balance_note import balance_note
from loupe.training import losses
from loupe.training.strengths import WEAKEST_TRIED


def test_the_loss_is_that_of_the_logits_with_the_log_prior():
    logits_BK, y_B = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    prior_K = torch.tensor([0.7, 0.2, 0.1])
    loss = losses.build(Stage(epochs=1), None, prior_K.log())
    weighted_BK = prior_K * logits_BK.exp()
    expected_B = -(weighted_BK / weighted_BK.sum(dim=1, keepdim=True))[torch.arange(8), y_B].log()
    assert torch.allclose(loss(logits_BK, y_B), expected_B, atol=1e-6)
    plain_B = losses.build(Stage(epochs=1), None)(logits_BK, y_B)
    assert torch.equal(plain_B, F.cross_entropy(logits_BK, y_B, reduction="none"))


@pytest.fixture(scope="module")
def unbalanced():
    """120 striped images of 16 px in three classes of 80, 30 and 10."""
    rng, y = np.random.default_rng(0), np.repeat([0, 1, 2], [80, 30, 10])
    stripes = np.sin(np.arange(16)[None, :, None] * (y[:, None, None] + 1)) * 60 + 128
    x = np.clip(stripes + rng.normal(0, 40, (120, 16, 16)), 0, 255).astype(np.uint8)
    return np.repeat(x[..., None], 3, axis=3), y


def trained(unbalanced, output, name, recipe_name, **settings):
    more = {"split.seed": 0, "frozen_precision": "fp32", "input.size_px": 32} | settings
    options = {"model": "test_efficientnet", "weights": "none"} if recipe_name == "features" else {}
    run = loupe.train(
        unbalanced, recipe=recipe_name, settings=more, name=name, output=output, device="cpu", precision="fp32",
        quiet=True, **options,
    )  # fmt: skip
    return run, read_splits(run.directory.file("predictions.csv"))["val"]


def test_a_solved_head_is_adjusted_by_the_log_prior(unbalanced, tmp_path):
    one = {"stages.0.epochs": 1}
    plain, before = trained(unbalanced, tmp_path, "plain", "features", **one)
    adjusted, after = trained(unbalanced, tmp_path, "adjusted", "features", **one, logit_adjustment=0.5)
    split = [line.split(",") for line in plain.directory.file("split.csv").read_text().splitlines()[1:]]
    counts_K = np.array([sum(row[1] == str(k) and row[2] == "train" for row in split) for k in range(3)])
    shift_K = before.logits_NK - after.logits_NK
    assert np.allclose(shift_K, 0.5 * np.log(counts_K / counts_K.sum()), atol=1e-4)
    assert adjusted.recipe.logit_adjustment == 0.5


def test_the_strength_of_a_solved_head_is_that_of_the_highest_macro_f1_where_that_is_monitored(unbalanced, tmp_path):
    run, _ = trained(unbalanced, tmp_path, "by-f1", "features", monitor="val_macro_f1")
    history = read_history(run.directory)
    best = max(history, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))
    (stage,) = run.results.stages
    assert stage.l2_strength == best["l2_strength"]
    weaker = [row for row in history if row["l2_strength"] < best["l2_strength"]]
    assert len([row for row in weaker if row["val_macro_f1"] < best["val_macro_f1"]]) >= 4 or min(
        row["l2_strength"] for row in history
    ) == pytest.approx(WEAKEST_TRIED)


def test_unbalanced_classes_are_told_unless_the_recipe_has_settings_for_them():
    y = np.repeat([0, 1, 2], [31, 20, 10])
    table = from_arrays(np.random.default_rng(0).integers(0, 256, (61, 4, 4, 3), dtype=np.uint8), y, name="x")
    rows = np.arange(61)
    split, none = Split(rows, rows[:0], rows[:0]), rows[:0]
    note = balance_note(table, split, recipe("features"))
    assert note is not None and "31 training images of 0, 10 of 2" in note
    assert balance_note(table, Split(rows[1:], none, none), recipe("features")) is None
    for setting in ("class_weights=balanced", "logit_adjustment=1"):
        assert balance_note(table, split, override(recipe("features"), [setting])) is None
