"""Choice between two candidates by their predictions for the same images."""

import numpy as np
import pytest

from loupe.search.evidence import Evidence, compare, ranked


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


def test_different_images_are_refused():
    with pytest.raises(ValueError, match="different images"):
        compare(evidence("a", 10, images=20), evidence("b", 10, images=21))


def test_the_first_of_a_ranking_is_the_best_one():
    assert [one.name for one in ranked([evidence("a", 120), evidence("b", 180), evidence("c", 150)])] == ["b", "c", "a"]
    assert ranked([]) == []
