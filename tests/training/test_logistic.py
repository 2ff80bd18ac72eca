"""Logistic regression against scikit-learn's and against its own conditions for a minimum."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from loupe.training import logistic
from loupe.training.logistic import Regression, Solution, axes


def features_of(images: int, columns: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that vary a thousand times more in some directions than in others, off the origin, and labels."""
    generator = np.random.default_rng(seed)
    label_N = np.arange(images) % classes
    turn_CC, _ = np.linalg.qr(generator.normal(size=(columns, columns)))
    plain_NC = generator.normal(size=(images, columns)) + generator.normal(size=(classes, columns))[label_N]
    return (plain_NC * np.geomspace(10, 0.01, columns) @ turn_CC + 3).astype(np.float32), label_N


def solved(features_NC: np.ndarray, label_N: np.ndarray, penalty: float, **options) -> Solution:
    problem = Regression(torch.from_numpy(features_NC), torch.from_numpy(label_N), label_N.max() + 1, **options)
    return problem.solve(penalty)


def said(found: Solution, features_NC: np.ndarray) -> np.ndarray:
    logits_NK = features_NC @ found.weight_KC.numpy().T + found.bias_K.numpy()
    return torch.from_numpy(logits_NK).softmax(dim=1).numpy()


@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
@pytest.mark.parametrize(("images", "columns", "classes"), [(300, 20, 4), (300, 20, 2), (30, 50, 3)])
def test_the_solution_is_that_of_scikit_learn(images, columns, classes, penalty):
    features_NC, label_N = features_of(images, columns, classes)
    found = solved(features_NC, label_N, penalty)
    wide_NC = features_NC.astype(np.float64)
    reference = LogisticRegression(C=1 / penalty, max_iter=100_000, tol=1e-9).fit(wide_NC, label_N)
    np.testing.assert_allclose(said(found, wide_NC), reference.predict_proba(wide_NC), atol=2e-3)
    assert found.converged
    assert found.accuracy == pytest.approx(reference.score(wide_NC, label_N), abs=1.5 / images)
    chosen_N = reference.predict_proba(wide_NC)[np.arange(images), label_N]
    assert found.loss == pytest.approx(-np.log(chosen_N).mean(), abs=1e-3)


@pytest.mark.parametrize("images", [60, 500])
def test_features_that_are_mostly_zero_for_every_image_are_solved_too(images):
    """As those of MobileNet on images of 32 px, of which 714 in 768 are; PyTorch finds no eigenvalues as they are."""
    few_NC, label_N = features_of(images, 5, 3)
    features_NC = np.zeros((images, 100), np.float32)
    features_NC[:, ::20] = few_NC
    found = solved(features_NC, label_N, 1.0)
    np.testing.assert_allclose(said(found, features_NC), said(solved(few_NC, label_N, 1.0), few_NC), atol=2e-3)
    used_C = np.zeros(100, bool)
    used_C[::20] = True
    assert not found.weight_KC[:, ~used_C].abs().gt(1e-6).any()


def test_weights_of_images_count_as_copies():
    features_NC, label_N = features_of(90, 10, 3)
    weight_N = torch.tensor([1.0, 3.0, 2.0]).repeat(30)
    copies_N = np.repeat(np.arange(90), weight_N.int().numpy())
    weighted = solved(features_NC, label_N, 1.0, weight_N=weight_N)
    copied = solved(features_NC[copies_N], label_N[copies_N], 1.0)
    np.testing.assert_allclose(said(weighted, features_NC), said(copied, features_NC), atol=1e-3)


@pytest.mark.parametrize("change", ["a start", "axes of more images", "chunks", "axes of a part"])
def test_the_way_does_not_change_where_it_ends(change, monkeypatch):
    features_NC, label_N = features_of(400, 20, 4)
    expected = solved(features_NC[:300], label_N[:300], 1.0)
    problem = torch.from_numpy(features_NC[:300]), torch.from_numpy(label_N[:300]), 4
    start, principal = None, None
    if change == "a start":
        start = Regression(*problem).solve(100.0)
    elif change == "axes of more images":
        principal = axes(torch.from_numpy(features_NC))
    elif change == "chunks":
        monkeypatch.setattr(logistic, "CHUNK_ROWS", 70)
    else:
        monkeypatch.setattr(logistic, "AXES_ROWS", 50)
    found = Regression(*problem, principal=principal).solve(1.0, start)
    np.testing.assert_allclose(said(found, features_NC), said(expected, features_NC), atol=3e-3)
    assert found.loss == pytest.approx(expected.loss, abs=1e-4)


def test_a_search_that_is_given_up_says_so(monkeypatch):
    monkeypatch.setattr(logistic, "MOST_STEPS", 2)
    assert not solved(*features_of(300, 20, 4), 0.01).converged


def test_the_time_that_solving_takes_is_expected_in_proportion_to_images_and_strengths(monkeypatch):
    """By the clock a second for the axes, and two for a pass over 8,192 images, in every direction that there is."""
    monkeypatch.setattr(logistic.time, "perf_counter", iter([5.0, 6.0, 8.0]).__next__)
    timed, whole = [], Regression.pass_over
    monkeypatch.setattr(Regression, "pass_over", lambda self: (timed.append(len(self.axes.variance_R)), whole(self)))
    seconds = logistic.expected_seconds(81_920, 6, 3, 3, torch.device("cpu"))
    assert seconds == 1.0 + 2.0 * 10 * logistic.USUAL_PASSES * 3
    assert timed == [6, 6]
