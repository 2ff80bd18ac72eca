"""Paired comparisons: tests against SciPy, enumeration and arithmetic; intervals and choices against a known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from loupe.errors import LoupeError
from loupe.evaluate import paired, selection
from loupe.evaluate.predictions import Predictions


def predictions(right, *, content=None, label=None, classes=("cat", "dog")) -> Predictions:
    """Predictions that are right on these images; half of the images are of the first class."""
    right = np.asarray(right, bool)
    images = np.arange(len(right))
    label = images % 2 if label is None else np.asarray(label)
    logits_NK = np.zeros((len(right), len(classes)), np.float32)
    logits_NK[images, np.where(right, label, (label + 1) % len(classes))] = 1
    names = tuple(f"{image}.png" for image in images)
    return Predictions(names, content or names, label.astype(np.int64), logits_NK, classes)


def candidate(name, *seeds, seconds=1.0) -> selection.Candidate:
    return selection.Candidate(name, tuple(predictions(right) for right in seeds), seconds)


def answers(both: int, only_first: int, only_second: int, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, only_first, only_second, neither]
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def simulated(random, accuracy, images, seeds=1) -> dict[str, np.ndarray]:
    """[S, N] for each candidate: right where skill, the ease of the image and chance come to more than 0."""
    ease_N = 0.9 * random.normal(size=images)
    chance = np.sqrt(1 - 0.9**2)
    return {
        name: stats.norm.ppf(level) + ease_N + chance * random.normal(size=(seeds, images)) > 0
        for name, level in accuracy.items()
    }


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0), (3, 3), (5, 12), (40, 2), (100, 131), (700, 650)])
def test_mcnemar_is_the_binomial_test_of_scipy(counts):
    total = sum(counts)
    expected = stats.binomtest(counts[0], total).pvalue if total else 1.0
    assert selection.mcnemar(*counts) == pytest.approx(expected, rel=1e-10)
    assert selection.mcnemar(*counts) == selection.mcnemar(*counts[::-1])


def test_mcnemar_by_arithmetic():
    # Of 6 tosses, 1 or fewer, or 5 or more: 2 (1 + 6) / 64.
    assert selection.mcnemar(1, 5) == pytest.approx(14 / 64)
    assert selection.mcnemar(0, 6) == pytest.approx(2 / 64)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04, which may not fall below 0.06.
    assert selection.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert selection.holm([0.9, 0.6]) == [1.0, 1.0]
    assert selection.holm([0.2]) == [0.2]
    assert selection.holm([]) == []


@pytest.mark.parametrize(
    "values",
    [[3, -1, 2, 2, 1, -3, 0, 1], [1, 2, 3, 4, 5, 6], [2, -2, 4, 0, 0, 6, -2], [1, -2, 1], [5, 1, -6, 3, 3, 1, 2]],
)
def test_the_sign_flip_test_is_the_count_of_all_assignments_of_signs(values):
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(values))
    ]
    expected = np.mean([total >= abs(sum(values)) for total in sums])
    assert paired.sign_flip(np.array(values)) == pytest.approx(expected, abs=1e-12)


def test_the_sign_flip_test_is_that_of_scipy_on_many_images():
    random = np.random.default_rng(3)
    values = random.choice([-3, -2, -1, 0, 1, 2, 3], p=[0.01, 0.02, 0.06, 0.8, 0.07, 0.02, 0.02], size=400)
    expected = stats.permutation_test(
        (values,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=2000,
        vectorized=True,
        rng=random,
    ).pvalue
    assert paired.sign_flip(values) == pytest.approx(expected, abs=4 * np.sqrt(expected / 2000))
    assert 0 < paired.sign_flip(np.repeat([1, 2], 500)) <= 1e-15


def test_the_parts_of_a_difference_by_hand():
    first, second = answers(both=80, only_first=3, only_second=9, neither=8)
    found = selection.paired_difference(candidate("a", first), candidate("b", second))
    assert (found.value, found.only_first, found.only_second, found.images) == (pytest.approx(0.06), 3, 9, 100)
    assert found.p == found.p_corrected == pytest.approx(stats.binomtest(3, 12).pvalue)
    # Agresti and Min 2005: Wald's interval with half an image more in each cell; the bootstrap has its width.
    share = np.array([3.5, 9.5]) / 102
    half = 1.96 * np.sqrt((share.sum() - (share[1] - share[0]) ** 2) / 102)
    assert [found.low, found.high] == pytest.approx([6 / 102 - half, 6 / 102 + half], abs=0.0099)  # one image


def test_the_interval_is_that_of_resampling_images_one_by_one():
    random = np.random.default_rng(4)
    hits = simulated(random, {"a": 0.8, "b": 0.85}, 600, seeds=3)
    found = paired.difference_of_hits("a", "b", hits, resamples=20_000)
    difference_N = hits["b"].mean(axis=0) - hits["a"].mean(axis=0)
    draws = difference_N[random.integers(600, size=(4000, 600))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.1 * (high - low))


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (2, 3)])
def test_a_comparison_is_the_mirror_of_its_reverse(seeds):
    random = np.random.default_rng(sum(seeds))
    first = candidate("first", *(random.random((seeds[0], 90)) < 0.8), seconds=3)
    second = candidate("second", *(random.random((seeds[1], 90)) < 0.7))
    one, other = selection.paired_difference(first, second), selection.paired_difference(second, first)
    assert one == other.mirrored() and one != other
    assert one.value == pytest.approx((one.only_second - one.only_first) / 90)
    assert one.low <= one.value <= one.high


def test_several_equal_seeds_say_what_one_says():
    first, second = answers(both=50, only_first=2, only_second=9)
    one = selection.paired_difference(candidate("a", first), candidate("b", second))
    assert selection.paired_difference(candidate("a", *[first] * 3), candidate("b", *[second] * 2)) == one


def test_identical_predictions_are_a_tie_with_an_interval_that_admits_more():
    right = np.arange(100) % 10 > 0
    found = selection.judge([candidate("slow", right, seconds=24), candidate("fast", right, seconds=2)])
    assert (found.best, found.chosen) == ("fast", "fast")
    (difference,) = found.differences
    assert (difference.value, difference.p, difference.only_first, difference.only_second) == (0, 1, 0, 0)
    assert difference.low == pytest.approx(-difference.high, abs=0.011) and 0.005 < difference.high < 0.03
    assert found.verdicts["slow"].endswith("in 12 times the time: no significant difference; take fast")
    assert found.verdicts["slow"].startswith("slow: 0.0 points, interval -")


def test_what_costs_nobody_knows_how_much_is_dearer_than_what_is_known():
    right = np.arange(100) % 10 > 0
    found = selection.judge([candidate("old", right, seconds=None), candidate("slow", right, seconds=24)])
    assert found.chosen == "slow"
    assert found.verdicts["old"].endswith("in an unknown time: no significant difference; take slow")
    wrong = np.arange(100) % 2 > 0
    found = selection.judge([candidate("old", right, seconds=None), candidate("slow", wrong, seconds=24)])
    assert found.chosen == "old" and "unknown cost" in found.conclusion
    assert ", in 24.0 s: worse; take old" in found.verdicts["slow"]


def test_images_are_found_by_content_and_class_in_whatever_order():
    first, second = answers(both=30, only_first=4, only_second=1, neither=5)
    reference = selection.paired_difference(candidate("a", first), candidate("b", second))
    order = np.random.default_rng(0).permutation(40)
    moved = predictions(second).select(order)
    other_classes = Predictions(
        moved.path, moved.content, 1 - moved.label, np.ascontiguousarray(moved.logits_NK[:, ::-1]), ("dog", "cat")
    )
    for part in (moved, other_classes):
        assert selection.paired_difference(candidate("a", first), selection.Candidate("b", (part,), 1.0)) == reference


def test_copies_of_an_image_are_each_counted():
    content = ("same",) * 4 + ("other",)
    parts = [predictions(right, content=content, label=[0, 0, 0, 1, 1]) for right in ([1, 0, 1, 1, 1], [1, 1, 1, 0, 1])]
    found = selection.paired_difference(
        *(selection.Candidate(name, (part,), 1) for name, part in zip("ab", parts, strict=True))
    )
    assert (found.images, found.only_first, found.only_second) == (5, 1, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content": ("x", "1.png", "2.png")}, "Of 3 and 3 images, 2 are in both"),
        ({"label": [1, 1, 0]}, "the same 3 images with different labels"),
        ({"label": [0, 1, -1]}, "1 prediction for images without a label"),
        ({"classes": ("cat", "wolf")}, "only one of them has the classes dog and wolf"),
        ({"classes": ("cat", "dog", "fox")}, "only one of them has the class fox"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, says):
    other = selection.Candidate("b", (predictions([1, 1, 0], **change),), 1.0)
    with pytest.raises(LoupeError, match=says):
        selection.judge([candidate("a", [1, 1, 1]), other])


def test_candidates_that_make_no_sense_are_refused():
    for given, says in [
        ([], "nothing to compare"),
        ([candidate("a", [1]), candidate("a", [1])], "repeated: a"),
        ([candidate("a")], "a: no predictions"),
        ([candidate("a", [])], "a: no predictions"),
        ([candidate("a", [1], seconds=float("nan"))], "got nan"),
        ([candidate("a", [1, 1], [1])], "the seeds of a differ"),
    ]:
        with pytest.raises(LoupeError, match=says):
            selection.judge(given)


def missing(name: str, count: int, seconds: float, images: int = 1000) -> selection.Candidate:
    """Wrong on the first `count` images."""
    return candidate(name, np.arange(images) >= count, seconds=seconds)


def test_the_cheapest_that_is_not_worse_is_chosen():
    given = [missing("finetune", 10, 612), missing("features", 14, 51), missing("tiny", 90, 5), missing("big", 12, 900)]
    found = selection.judge(given)
    assert (found.best, found.chosen) == ("finetune", "features")
    assert [one.second for one in found.differences] == ["tiny", "finetune", "big"]
    tiny, finetune, big = found.differences
    assert (finetune.first, finetune.value) == ("features", pytest.approx(0.004))
    # Of six pairs, the three with tiny come first, then 4, 2 and 2 images that only one has right.
    assert finetune.p == pytest.approx(2 / 2**4) and finetune.p_corrected == pytest.approx(3 * 2 / 2**4)
    assert big.p == pytest.approx(0.5) and big.p_corrected == 1
    assert tiny.p_corrected < 1e-9
    assert list(found.verdicts) == ["finetune", "features", "tiny", "big"]
    assert found.verdicts["finetune"] == (
        "finetune: +0.4 points, interval 0.0 to +0.8, in 12 times the time: no significant difference; take features"
    )
    assert found.verdicts["tiny"].endswith("in 0.098 times the time: worse; take features")
    assert found.verdicts["features"].startswith("features: the cheapest that no other significantly beats")
    assert found.conclusion.startswith("Take features: ") and "on 1,000 images, one seed each" in found.conclusion
    assert "finetune has the highest accuracy, by +0.4 points" in found.conclusion
    assert selection.judge(given[::-1]) == found


def test_a_tie_with_the_chosen_that_the_best_beats_is_said_to_be_that():
    # Between neighbours 6 images: p = 0.031, and 0.0625 corrected; between the ends 12, and 0.0015.
    found = selection.judge([missing("cheap", 12, 1), missing("middle", 6, 2), missing("dear", 0, 4)])
    assert (found.best, found.chosen) == ("dear", "middle")
    assert found.verdicts["cheap"].startswith("cheap: -0.6 points")
    assert found.verdicts["cheap"].endswith(
        "in 0.5 times the time: no significant difference (p = 0.062 after correction for 3 comparisons), "
        "but dear is significantly better; take middle"
    )
    assert found.verdicts["dear"].endswith(
        "in 2 times the time: no significant difference (p = 0.062 after correction for 3 comparisons); take middle"
    )


def test_the_best_is_taken_where_all_that_is_cheaper_is_worse():
    found = selection.judge([missing("cheap", 60, 0), missing("best", 10, 7)])
    assert (found.best, found.chosen) == ("best", "best")
    assert found.verdicts["best"] == "best: the most accurate, and all cheaper ones are worse; take it"
    assert "in 0.0 s instead of 7.0 s: worse; take best" in found.verdicts["cheap"]


def test_seeds_that_overlap_are_mentioned_where_the_images_tell_candidates_apart():
    many = [np.arange(1000) >= count for count in (60, 100, 20)]
    few = [np.arange(1000) >= count for count in (20, 10, 12)]
    found = selection.judge([candidate("wide", *many, seconds=2), candidate("narrow", *few, seconds=1)])
    assert "worse on average, though their seeds overlap; take narrow" in found.verdicts["wide"]
    assert found.conclusion == "Take narrow: the most accurate and the cheapest (on 1,000 images)."


def test_one_candidate_one_image_and_no_time():
    found = selection.judge([candidate("only", [1])])
    assert (found.best, found.chosen, found.differences) == ("only", "only", ())
    assert found.verdicts == {"only": "only: the only candidate; take it"}
    assert found.conclusion.startswith("Take only: the only candidate (on 1 image, one seed each). 1 image cannot tell")
    found = selection.judge([candidate("right", [1], seconds=0), candidate("wrong", [0], seconds=0)])
    assert (found.best, found.chosen) == ("right", "right")
    assert found.verdicts["wrong"].endswith("in the same time: cannot be told from 1 image; take right")


def test_what_rounds_to_nothing_has_no_sign_and_many_images_have_two_decimals():
    found = selection.judge([missing("a", 100, 1, 10_000), missing("b", 98, 1, 10_000)])
    assert found.verdicts["a"].startswith("a: -0.02 points, interval -0.06 to ")
    assert (
        selection.judge([missing("a", 2, 1, 9000), missing("b", 0, 1, 9000)]).verdicts["a"].startswith("a: 0.0 points")
    )


def test_the_same_seed_gives_the_same_judgement():
    random = np.random.default_rng(8)
    given = [candidate(name, random.random(200) < 0.8) for name in "abc"]
    assert selection.judge(given, seed=3) == selection.judge(given, seed=3) != selection.judge(given, seed=4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_true_nulls_are_seldom_rejected_and_intervals_hold_the_truth(seeds):
    """A small version of benchmarks/coverage.py: four candidates, two levels of two equal ones each."""
    random = np.random.default_rng(seeds)
    trials, held, rejected = 200, 0, 0
    for trial in range(trials):
        hits = simulated(random, {"a": 0.85, "b": 0.85, "c": 0.88, "d": 0.88}, 400, seeds)
        counts = {name: hits_SN.sum(axis=0) for name, hits_SN in hits.items()}
        pairs = list(itertools.combinations("abcd", 2))
        corrected = selection.holm([paired.sign_flip(counts[one] - counts[other]) for one, other in pairs])
        null = [p for p, pair in zip(corrected, pairs, strict=True) if pair in [("a", "b"), ("c", "d")]]
        rejected += min(null) < selection.SIGNIFICANCE
        difference = paired.difference_of_hits("a", "c", hits, resamples=400, seed=trial)
        held += difference.low <= 0.03 <= difference.high
    assert rejected <= 0.08 * trials
    assert 0.91 * trials <= held <= 0.985 * trials


@pytest.mark.parametrize(("candidates", "least"), [(2, 6), (3, 7), (6, 10)])
def test_fewer_images_than_any_difference_needs_cannot_tell(candidates, least):
    comparisons = candidates * (candidates - 1) // 2
    assert selection.fewest_images(comparisons) == least
    assert comparisons * stats.binomtest(0, least).pvalue < 0.05 <= comparisons * stats.binomtest(0, least - 1).pvalue
    for images in (least - 1, least):
        given = [candidate("good", [1] * images), *(candidate(f"bad{n}", [0] * images) for n in range(candidates - 1))]
        found = selection.judge(given)
        assert selection.can_tell(images, candidates) == (images == least)
        assert ("cannot tell which is better" in found.conclusion) == (images < least)
        assert ("cannot be told" in found.verdicts["bad0"]) == (images < least)
        assert any(one.p_corrected < 0.05 for one in found.differences) == (images == least)


def test_equal_candidates_are_not_called_the_most_accurate():
    found = selection.judge([candidate("a", [1] * 100), candidate("b", [1] * 100)])
    assert found.verdicts[found.chosen].endswith("the cheapest, and no other is significantly better; take it")
    old = selection.judge([candidate("a", [1] * 100, seconds=None), candidate("b", [1] * 100, seconds=None)])
    assert "most accurate" not in old.conclusion


def of_labels(name: str, label: list[int], predicted: list[int]) -> selection.Candidate:
    right = np.equal(label, predicted)
    return selection.Candidate(name, (predictions(right, label=label),), 1.0)


@pytest.mark.parametrize(
    ("label", "predicted", "says"),
    [
        ([0, 1] * 2, [0, 1] * 2, "4 images cannot tell whether any candidate is better"),
        ([0, 1] * 20, [0, 1] * 20, None),
        ([0, 1] * 20, [0, 0] * 20, "No candidate is clearly better"),
        ([0, 1] * 20, [1, 0] * 20, "No candidate is clearly better"),
        ([0] * 95 + [1] * 5, [0] * 100, "100 images cannot tell whether any candidate is better"),
        ([0] * 95 + [1] * 5, [0] * 90 + [1] * 10, None),  # tells them apart at a lower accuracy
        ([0] * 20, [0] * 20, "20 images cannot tell whether any candidate is better"),
    ],
)
def test_candidates_are_judged_against_the_most_common_class(label, predicted, says):
    found = selection.judge([of_labels("a", label, predicted), of_labels("b", label, predicted)])
    end = f"{says} than always predicting the most common class ({100 * max(np.bincount(label)) / len(label):.1f} %)."
    assert found.conclusion.endswith(end) if says else "most common class" not in found.conclusion
