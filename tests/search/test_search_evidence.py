"""Choice between two candidates by their predictions for the same images."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from loupe.evaluate.paired_f1 import difference_error
from loupe.search.evidence import Evidence, _better_by_f1, compare, ranked


def evidence(name: str, right: int, *, images: int = 200, sure: float = 2.0, first: int = 0) -> Evidence:
    """Two classes; `right` images from `first` on are classified correctly, all with the same margin."""
    label_N = np.arange(images) % 2
    hit_N = np.zeros(images, bool)
    hit_N[first : first + right] = True
    sign_N = np.where(hit_N, 1, -1) * np.where(label_N == 1, 1, -1)
    return Evidence(name, np.stack([-sure * sign_N, sure * sign_N], axis=1) / 2, label_N, of_folds=False)


def test_figures_are_those_at_the_best_temperature():
    one = evidence("a", 160)
    assert one.accuracy == 0.8
    # With one margin for all images, the best temperature makes the confidence the accuracy.
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    assert one.log_loss == pytest.approx(entropy, abs=1e-5)
    assert one.judged.accuracy.low == pytest.approx(0.7390, abs=1e-3)  # Wilson


def test_a_difference_above_its_standard_error_decides():
    better, difference = compare(evidence("a", 150), evidence("b", 160))
    assert better and difference.value == pytest.approx(0.05)
    worse, _ = compare(evidence("b", 160), evidence("a", 150))
    assert not worse


def test_below_the_standard_error_the_log_loss_decides():
    # One image more is right, 39 differ: a difference of 1 with a standard error of 39 ** 0.5.
    one, other = evidence("a", 20, images=40), evidence("b", 21, images=40, first=19)
    blurred = Evidence("b", other.logits_NK * np.linspace(0.01, 3, 40)[:, None], other.label_N, of_folds=False)
    better, difference = compare(one, blurred)
    assert difference.value > 0
    assert better == (blurred.log_loss < one.log_loss)


def of_classes(name: str, predicted_N: np.ndarray, label_N: np.ndarray, **more) -> Evidence:
    return Evidence(name, 4.0 * np.eye(3)[predicted_N], label_N, of_folds=False, **more)


def test_on_unbalanced_classes_macro_f1_decides_first():
    label_N = np.repeat([0, 1, 2], [160, 20, 20])
    common = of_classes("common", np.zeros(200, np.int64), label_N)  # accuracy 0.8, macro-F1 0.89 / 3
    fair = label_N.copy()
    fair[:50] = 1  # accuracy 0.75, macro-F1 far higher
    assert not compare(common, of_classes("fair", fair, label_N))[0]
    assert compare(common, of_classes("fair", fair, label_N, by_f1=True))[0]
    assert of_classes("common", np.zeros(200, np.int64), label_N, by_f1=True).judged.macro_f1 == pytest.approx(
        f1_score(label_N, np.zeros(200), average="macro", zero_division=0)
    )


def test_below_the_standard_error_of_macro_f1_accuracy_decides():
    label_N = np.repeat([0, 1, 2], [160, 20, 20])
    first, other = label_N.copy(), label_N.copy()
    first[:12] = 1  # 12 errors of the frequent class
    other[[160, 161, 162, 180, 181, 182]] = 0  # 6 errors of the rare ones
    one, two = (of_classes(name, row, label_N, by_f1=True) for name, row in (("one", first), ("two", other)))
    assert _better_by_f1(one, two) is None
    assert compare(one, two)[0] and not compare(two, one)[0]


def test_the_standard_error_of_macro_f1_is_that_of_the_images_left_out_one_by_one():
    rng = np.random.default_rng(0)
    label_N, one_N, two_N = (rng.choice(4, 60, p=[0.7, 0.1, 0.1, 0.1]) for _ in range(3))
    label_N[:8] = [0, 0, 1, 1, 2, 2, 3, 3]

    def f1(rows: np.ndarray, predicted_N: np.ndarray) -> float:
        return float(f1_score(label_N[rows], predicted_N[rows], average="macro", labels=range(4), zero_division=0))

    left_out = [np.delete(np.arange(60), image) for image in range(60)]
    changes = np.array([f1(rows, two_N) - f1(rows, one_N) for rows in left_out])
    expected = np.sqrt(59 / 60 * ((changes - changes.mean()) ** 2).sum())
    assert difference_error(label_N, one_N, two_N) == pytest.approx(expected)


def test_different_images_are_refused():
    with pytest.raises(ValueError, match="different images"):
        compare(evidence("a", 10, images=20), evidence("b", 10, images=21))


def test_the_first_of_a_ranking_is_the_best_one():
    assert [one.name for one in ranked([evidence("a", 120), evidence("b", 180), evidence("c", 150)])] == ["b", "c", "a"]
    assert ranked([]) == []
