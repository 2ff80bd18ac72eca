"""Losses against the same formulas in float64 and by hand, and their choice in a recipe."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import loupe
from loupe.config import overrides
from loupe.config.loss import CrossEntropy, Focal
from loupe.config.recipe import Stage
from loupe.errors import LoupeError
from loupe.recipes.catalog import recipe
from loupe.training import losses

WEIGHTS = [0.5, 1.0, 3.0]


def logits(images: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 3, (images, 3))).float()


def by_hand(logits_BK: torch.Tensor, share_BK: np.ndarray, weights: list[float], gamma: float) -> np.ndarray:
    """Focal loss as Lin et al. write it, one number after another in float64."""
    rows = []
    for row, shares in zip(logits_BK.double().tolist(), share_BK.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        p = [math.exp(value) / total for value in row]
        rows.append(-sum(s * w * (1 - q) ** gamma * math.log(q) for s, w, q in zip(shares, weights, p, strict=True)))
    return np.array(rows)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_that_of_its_formula(gamma, weights):
    y_B, weights_K = torch.arange(7) % 3, None if weights is None else torch.tensor(weights)
    found_B = losses.focal(logits(), y_B, class_weights_K=weights_K, gamma=gamma)
    expected_B = by_hand(logits(), np.eye(3)[y_B], weights or [1.0] * 3, gamma)
    np.testing.assert_allclose(found_B, expected_B, rtol=2e-5)


def test_focal_loss_of_mixed_targets_is_that_of_its_formula():
    share_BK = np.random.default_rng(1).dirichlet([1, 1, 1], 7)
    found_B = losses.focal(logits(), torch.from_numpy(share_BK).float(), class_weights_K=torch.tensor(WEIGHTS))
    np.testing.assert_allclose(found_B, by_hand(logits(), share_BK, WEIGHTS, 2.0), rtol=2e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_focal_loss_without_gamma_is_cross_entropy(mixed):
    target = torch.arange(7) % 3
    if mixed:
        target = losses.target(target, target.flip(0), torch.linspace(0, 1, 7), 3)
    weights_K = torch.tensor(WEIGHTS)
    found_B = losses.focal(logits(), target, class_weights_K=weights_K, gamma=0.0)
    expected_B = losses.cross_entropy(logits(), target, class_weights_K=weights_K)
    torch.testing.assert_close(found_B, expected_B)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_of_focal_loss_is_that_of_finite_differences_and_finite_for_certain_images(gamma):
    x_BK = logits().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.focal(x, torch.arange(7) % 3, gamma=gamma), (x_BK,))
    certain_BK = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    losses.focal(certain_BK, torch.tensor([0, 0]), gamma=gamma).sum().backward()
    gradient_BK = certain_BK.grad
    assert gradient_BK is not None
    np.testing.assert_allclose(gradient_BK, [[0, 0, 0], [-1, 1, 0]], atol=1e-6)


def test_targets_are_classes_or_the_shares_of_both_images():
    y_B, partner_B = torch.tensor([0, 1]), torch.tensor([2, 1])
    assert losses.target(y_B, None, None, 3) is y_B
    mixed_BK = losses.target(y_B, partner_B, torch.tensor([0.75, 0.5]), 3)
    np.testing.assert_allclose(mixed_BK, [[0.75, 0, 0.25], [0, 1, 0]])
    assert losses.hits(torch.tensor([[2.0, 0, 1], [2.0, 0, 1]]), mixed_BK) == 1
    assert losses.hits(torch.tensor([[2.0, 0, 1], [2.0, 0, 1]]), y_B) == 1


def test_a_stage_builds_the_loss_that_it_names():
    y_B, weights_K = torch.arange(7) % 3, torch.tensor(WEIGHTS)
    smooth = losses.build(Stage(epochs=1, label_smoothing=0.2), weights_K)(logits(), y_B)
    expected_B = F.cross_entropy(logits(), y_B, weights_K, reduction="none", label_smoothing=0.2)
    assert torch.equal(smooth, expected_B), "to the bit"
    focused = losses.build(Stage(epochs=1, loss=Focal(gamma=1.5)), weights_K)(logits(), y_B)
    assert torch.equal(focused, losses.focal(logits(), y_B, class_weights_K=weights_K, gamma=1.5))


def test_a_recipe_names_its_loss_in_short_or_with_parameters():
    plain = recipe("deep-cnn")
    assert plain.stages[0].loss == CrossEntropy()
    assert overrides.override(plain, ["stages.0.loss=focal"]).stages[0].loss == Focal(gamma=2.0)
    changed = overrides.override(plain, ["stages.0.loss=focal", "stages.0.loss.gamma=0.5"])
    assert changed.stages[0].loss == Focal(gamma=0.5)
    assert overrides.parse(changed.model_dump(mode="json"), "again") == changed


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["stages.0.loss=focl"], "Did you mean focal"),
        (["stages.0.loss={name: focal, gama: 1}"], "Did you mean gamma"),
        (["stages.0.loss={name: focal, gamma: -1}"], "greater than or equal to 0"),
        (["stages.0.label_smoothing=0.1", "stages.0.loss=focal"], "label_smoothing"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(settings, says):
    with pytest.raises(LoupeError) as caught:
        overrides.override(recipe("deep-cnn"), settings)
    assert says in str(caught.value)


def test_a_solved_head_takes_no_other_loss_than_cross_entropy():
    with pytest.raises(LoupeError, match="focal"):
        overrides.override(recipe("features"), ["stages.0.loss=focal"])


def test_a_network_learns_by_focal_loss_from_mixed_images_and_class_weights(tmp_path, bare):
    bunch = load_digits()
    done = loupe.train(
        ((bunch.images[:300] * 15.9375).astype(np.uint8), bunch.target[:300]),
        recipe="digits",
        settings={
            "stages.0.label_smoothing": 0,
            "stages.0.loss": "focal",
            "stages.0.augment.mixup_alpha": 0.2,
            "class_weights": "balanced",
        },
        epochs=6,
        precision="fp32",
        output=tmp_path,
        device="cpu",
        quiet=True,
    )
    rows = [line.split(",") for line in (done.path / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("train_loss")
    assert float(rows[-1][column]) < 0.5 * float(rows[1][column])
    assert overrides.load(done.path / "recipe.yaml").stages[0].loss == Focal()


def test_the_loss_of_a_taught_target_is_the_weighted_mean_of_both():
    y_B, teacher_BK = torch.arange(7) % 3, torch.from_numpy(np.random.default_rng(2).dirichlet([1, 1, 1], 7)).float()
    found_B = losses.cross_entropy(logits(), losses.taught(y_B, teacher_BK, 0.3))
    of_teacher_B = -(teacher_BK * logits().log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(found_B, 0.7 * F.cross_entropy(logits(), y_B, reduction="none") + 0.3 * of_teacher_B)


def test_taught_targets_are_mixed_as_labels_are():
    teacher_BK = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    own = losses.taught(torch.tensor([0, 1]), teacher_BK, 0.5)
    mixed_BK = losses.target(own, own.flip(0), torch.tensor([0.75, 0.75]), 3)
    expected = [[0.75 * 0.75, 0.75 * 0.25 + 0.125, 0.125], [0.1875, 0.375 + 0.0625, 0.375]]
    torch.testing.assert_close(mixed_BK, torch.tensor(expected))
