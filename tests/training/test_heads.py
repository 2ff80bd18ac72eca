"""Out-of-fold heads against scikit-learn."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from loupe.config.optimizer import Logistic
from loupe.training.heads import out_of_fold


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:400] / 16).astype(np.float32), y[:400].astype(np.int64)


def test_predictions_are_those_of_heads_that_scikit_learn_solves_on_the_other_folds(digits):
    x, y = digits
    fold_N = np.arange(len(y)) % 4
    found = out_of_fold(x, y, fold_N, 10)
    for fold in range(4):
        rest = fold_N != fold
        head = LogisticRegression(C=1 / found.strength, max_iter=10_000, tol=1e-10).fit(x[rest].astype(float), y[rest])
        np.testing.assert_allclose(softmax(found.logits_NK[~rest], axis=1), head.predict_proba(x[~rest]), atol=0.02)


def test_the_strength_has_the_lowest_log_loss_of_all_that_were_tried_and_two_weaker_ones_are_higher(digits):
    x, y = digits
    found = out_of_fold(x, y, np.arange(len(y)) % 4, 10)
    tried = dict(found.losses)
    assert found.strength == min(tried, key=tried.get)
    assert [*tried].index(found.strength) == len(tried) - 3
    shifted = found.logits_NK - found.logits_NK.max(axis=1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    assert tried[found.strength] == pytest.approx(
        log_loss(y, probability.astype(np.float64), labels=range(10)), rel=1e-4
    )


def test_by_macro_f1_the_strength_is_that_of_the_highest_one_and_four_weaker_ones_are_lower(digits):
    x, y = digits
    rare_N = (y > 4) | (np.arange(len(y)) % 5 == 0)  # a fifth of the images of five classes
    x, y = x[rare_N], y[rare_N]
    found = out_of_fold(x, y, np.arange(len(y)) % 4, 10, by_f1=True)
    tried = dict(found.losses)
    assert 1 - tried[found.strength] == pytest.approx(f1_score(y, found.logits_NK.argmax(axis=1), average="macro"))
    assert tried[found.strength] == min(tried.values())
    assert len([one for one in tried if one < found.strength and tried[one] > tried[found.strength]]) >= 4


def test_strengths_go_on_below_the_weakest_of_the_old_grid_where_the_loss_still_falls():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32) * 1e-4  # so small that only weak penalties let a head grow
    y = (x[:, 0] > 0).astype(np.int64)
    assert out_of_fold(x, y, np.arange(300) % 3, 2).strength < 1e-3


def test_a_class_that_a_fold_has_alone_is_never_predicted_there(digits):
    x, y = digits
    fold_N = np.where(y == 9, 0, np.arange(len(y)) % 3)
    found = out_of_fold(x, y, fold_N, 10)
    assert not (found.logits_NK[fold_N == 0].argmax(axis=1) == 9).any()


def test_stronger_ones_follow_where_the_first_is_the_best_and_have_the_same_optimum_as_from_there(digits):
    x, _ = digits
    label_N = np.random.default_rng(0).integers(0, 2, len(x))  # unrelated to the features
    fold_N = np.arange(len(x)) % 4
    found = out_of_fold(x * 100, label_N, fold_N, 2)
    tried = dict(found.losses)
    assert found.strength > 1e4 and found.strength == min(tried, key=tried.get)
    alone = out_of_fold(x * 100, label_N, fold_N, 2, spec=Logistic(strongest=found.strength, weakest=found.strength))
    assert alone.losses == ((found.strength, pytest.approx(tried[found.strength], rel=1e-4)),)


def test_class_weights_and_logit_adjustment_are_those_of_the_heads(digits):
    x, y = digits
    fold_N, weight_K = np.arange(len(y)) % 4, np.linspace(0.2, 3, 10).astype(np.float32)
    prior_K = np.log(weight_K / weight_K.sum())
    plain = out_of_fold(x, y, fold_N, 10, weight_K=weight_K, strengths=[3.0, 1.0])
    adjusted = out_of_fold(x, y, fold_N, 10, weight_K=weight_K, strengths=[plain.strength], log_prior_K=prior_K)
    assert [strength for strength, _ in plain.losses] == [3.0, 1.0]
    np.testing.assert_allclose(adjusted.logits_NK, plain.logits_NK - prior_K, atol=0.05)
    head = LogisticRegression(C=1 / plain.strength, max_iter=10_000, tol=1e-10)
    head.fit(x[fold_N > 0].astype(float), y[fold_N > 0], sample_weight=weight_K[y[fold_N > 0]])
    expected = head.predict_proba(x[fold_N == 0])
    np.testing.assert_allclose(softmax(plain.logits_NK[fold_N == 0], axis=1), expected, atol=0.02)
