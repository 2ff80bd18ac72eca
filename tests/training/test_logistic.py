"""Logistic regression against scikit-learn's and against its own conditions for a minimum."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from loupe.training import axes as axes_module
from loupe.training import logistic
from loupe.training.axes import axes
from loupe.training.logistic import GAP, Regression, Solution

# Of the relative gap: the solver aims at GAP by an estimate, and float32 ends searches of small losses near there.
BOUND = 5 * GAP


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


def objective(
    point: np.ndarray, features_NC: np.ndarray, label_N: np.ndarray, penalty: float
) -> tuple[float, np.ndarray]:
    """scikit-learn's objective and its gradient, in float64; with two classes the rows are halves of its one."""
    images, classes = len(label_N), label_N.max() + 1
    weight_KC, bias_K = point[:-classes].reshape(classes, -1), point[-classes:]
    log_p_NK = log_softmax(features_NC @ weight_KC.T + bias_K, axis=1)
    ridge = penalty * (2 if classes == 2 else 1)
    value = ridge / 2 * (weight_KC**2).sum() - log_p_NK[np.arange(images), label_N].sum()
    error_NK = np.exp(log_p_NK) - np.eye(classes)[label_N]
    return value, np.concatenate([(error_NK.T @ features_NC + ridge * weight_KC).ravel(), error_NK.sum(axis=0)])


def value_at(found: Solution, features_NC: np.ndarray, label_N: np.ndarray) -> float:
    return objective(point_of(found), features_NC, label_N, found.penalty)[0]


def point_of(found: Solution) -> np.ndarray:
    return np.concatenate([found.weight_KC.numpy().ravel(), found.bias_K.numpy()])


def least(features_NC: np.ndarray, label_N: np.ndarray, penalty: float) -> float:
    """Minimum of the objective, by Newton's method in float64 from scikit-learn's solution."""
    head = LogisticRegression(C=1 / penalty, solver="newton-cholesky", max_iter=1000, tol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of its line search; it goes on by L-BFGS
        head.fit(features_NC, label_N)
    weight_KC, bias_K = head.coef_, head.intercept_
    if len(weight_KC) == 1:
        weight_KC, bias_K = np.vstack([-weight_KC, weight_KC]) / 2, np.hstack([-bias_K, bias_K]) / 2
    value, gradient = objective(np.concatenate([weight_KC.ravel(), bias_K]), features_NC, label_N, penalty)
    # Strong convexity bounds how far it is from the minimum (Boyd and Vandenberghe 2004, section 9.1.2).
    assert (gradient**2).sum() / (2 * penalty) < 1e-9 * value, "the reference has converged"
    return value


@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
@pytest.mark.parametrize(
    ("images", "columns", "classes"),
    [(300, 20, 4), (300, 20, 2), (30, 50, 3), pytest.param(3000, 60, 10, marks=pytest.mark.slow)],
)
def test_the_objective_ends_near_its_minimum(images, columns, classes, penalty):
    features_NC, label_N = features_of(images, columns, classes)
    found, wide_NC = solved(features_NC, label_N, penalty), features_NC.astype(np.float64)
    value, gradient = objective(point_of(found), wide_NC, label_N, penalty)
    assert found.converged
    assert value <= least(wide_NC, label_N, penalty) * (1 + BOUND)
    # Next to that at 0, where the search started, the gradient has all but vanished.
    _, at_start = objective(np.zeros_like(point_of(found)), wide_NC, label_N, penalty)
    assert np.linalg.norm(gradient) < 1e-3 * np.linalg.norm(at_start)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_solution_is_that_of_scikit_learn(classes):
    features_NC, label_N = features_of(300, 20, classes)
    found, wide_NC = solved(features_NC, label_N, 1.0), features_NC.astype(np.float64)
    reference = LogisticRegression(C=1.0, max_iter=100_000, tol=1e-9).fit(wide_NC, label_N)
    chosen_N = reference.predict_proba(wide_NC)[np.arange(300), label_N]
    assert found.loss == pytest.approx(-np.log(chosen_N).mean(), rel=1e-2)
    assert found.accuracy == pytest.approx(reference.score(wide_NC, label_N), abs=1.5 / 300)


@pytest.mark.slow
def test_a_path_of_penalties_takes_fewer_passes_and_ends_as_near():
    features_NC, label_N = features_of(3000, 60, 10)
    regression = Regression(torch.from_numpy(features_NC), torch.from_numpy(label_N), 10)
    path: list[Solution] = []
    for penalty in np.geomspace(1e3, 1e-1, 9).tolist():
        path.append(regression.solve(penalty, path))
    assert path[-1].passes < 0.7 * regression.solve(path[-1].penalty).passes
    assert all(found.converged for found in path)
    wide_NC = features_NC.astype(np.float64)
    for found in path[::4]:
        assert value_at(found, wide_NC, label_N) <= least(wide_NC, label_N, found.penalty) * (1 + BOUND)


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


@pytest.mark.parametrize("change", ["a path", "axes of more images", "chunks", "axes of a part"])
def test_the_way_does_not_change_where_it_ends(change, monkeypatch):
    features_NC, label_N = features_of(400, 20, 4)
    expected = solved(features_NC[:300], label_N[:300], 1.0)
    problem = torch.from_numpy(features_NC[:300]), torch.from_numpy(label_N[:300]), 4
    path: list[Solution] = []
    principal = None
    if change == "a path":
        path = [Regression(*problem).solve(100.0), Regression(*problem).solve(10.0)]
    elif change == "axes of more images":
        principal = axes(torch.from_numpy(features_NC))
    elif change == "chunks":
        monkeypatch.setattr(axes_module, "CHUNK_ROWS", 70)
    else:
        monkeypatch.setattr(axes_module, "AXES_ROWS", 50)
    found = Regression(*problem, principal=principal).solve(1.0, path)
    wide_NC = features_NC[:300].astype(np.float64)
    assert value_at(found, wide_NC, label_N[:300]) == pytest.approx(
        value_at(expected, wide_NC, label_N[:300]), rel=2 * BOUND
    )


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
