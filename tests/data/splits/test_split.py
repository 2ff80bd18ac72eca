"""Splits: kept, carved, stratified, disjoint by content and group, the same on every machine and in every order."""

from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from loupe.config.recipe import SplitSpec
from loupe.data.sources.open import open_table
from loupe.data.splits.folds import as_many_as_fit, most_folds, numbers
from loupe.data.splits.split import SPLITS, Split, assign, digest
from loupe.data.splits.split_file import known, read, write
from loupe.data.splits.stratify import units
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError, LoupeError, RunStateError

KNOWN = ([10, 21, 26, 35], [0, 1, 11, 14])  # validation and test of forty images, seed 7


def table_of(labels, splits=None, groups=None, classes=None):
    n = len(labels)
    classes = classes or tuple(f"class {k}" for k in range(max(label for label in labels if label is not None) + 1))
    rows = make_rows(n=n, path=[f"{i}.png" for i in range(n)], label=labels, split=splits, group=groups)
    return ImageTable(rows, classes, "made")


def contents(n):
    return [sha256(str(i).encode()).hexdigest() for i in range(n)]


def balanced(n, classes=2):
    return [i % classes for i in range(n)]


def sizes(split):
    return tuple(len(split.rows(part)) for part in SPLITS)


def test_nothing_given_is_carved_80_10_10_and_stratified():
    labels = [0] * 500 + [1] * 300 + [2] * 200
    split = assign(table_of(labels), contents(1000), SplitSpec(), seed=0)
    assert sizes(split) == (800, 100, 100)
    for part, expected in (("val", [50, 30, 20]), ("test", [50, 30, 20]), ("train", [400, 240, 160])):
        assert np.bincount(np.array(labels)[split.rows(part)]).tolist() == expected
    assert sorted(np.concatenate([split.rows(part) for part in SPLITS]).tolist()) == list(range(1000))


def test_given_splits_are_kept_to_the_row():
    given_splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    split = assign(table_of(balanced(12), given_splits), contents(12), SplitSpec(), seed=0)
    assert [split.rows(part).tolist() for part in SPLITS] == [[*range(6)], [6, 7, 8], [9, 10, 11]]


def test_a_given_test_split_leaves_validation_to_be_carved_from_train():
    given_splits = ["train"] * 100 + ["test"] * 20
    split = assign(table_of(balanced(120), given_splits), contents(120), SplitSpec(validation=0.2), seed=0)
    assert sizes(split) == (80, 20, 20)
    assert split.test.tolist() == list(range(100, 120))


def test_a_given_validation_split_alone_leaves_no_test_split_and_says_so():
    given_splits = ["train"] * 100 + ["val"] * 20
    split = assign(table_of(balanced(120), given_splits), contents(120), SplitSpec(), seed=0)
    assert sizes(split) == (100, 20, 0)
    assert any("no test split" in note for note in split.notes)


def test_train_alone_is_carved_as_if_nothing_were_given():
    bare, train = table_of(balanced(100)), table_of(balanced(100), ["train"] * 100)
    splits = [assign(table, contents(100), SplitSpec(), seed=0) for table in (bare, train)]
    for part in SPLITS:
        assert np.array_equal(splits[0].rows(part), splits[1].rows(part))


def test_rows_without_a_split_train_beside_those_that_have_one():
    split = assign(table_of(balanced(6), ["test", "test", None, None, "val", "val"]), contents(6), SplitSpec(), seed=0)
    assert [split.rows(part).tolist() for part in SPLITS] == [[2, 3], [4, 5], [0, 1]]


def test_unlabelled_images_are_in_no_split():
    labels = [*balanced(40), None, None]
    split = assign(table_of(labels), contents(42), SplitSpec(), seed=0)
    assert sum(sizes(split)) == 40
    assert any("2 images without a label" in note for note in split.notes)


@pytest.mark.parametrize(("spec", "n_val"), [(0.1, 3), (0.25, 8), (0.3, 9), (7, 7), (0, 0)])
def test_sizes_are_fractions_rounded_up_or_counts(spec, n_val):
    split = assign(table_of(balanced(30)), contents(30), SplitSpec(validation=spec, test=0), seed=0)
    assert sizes(split) == (30 - n_val, n_val, 0)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 0.33])
def test_the_last_images_are_those_of_keras_validation_split(fraction):
    n = 1791
    spec = SplitSpec(validation=fraction, test=0, choose="last")
    split = assign(table_of(balanced(n)), contents(n), spec, seed=0)
    split_at = int(
        np.floor(n * (1.0 - fraction))
    )  # keras.src.trainers.data_adapters.array_slicing.train_validation_split
    assert split.train.tolist() == list(range(split_at))
    assert split.val.tolist() == list(range(split_at, n))


def test_the_first_images_are_the_first_whatever_the_seed():
    splits = [
        assign(table_of(balanced(50)), contents(50), SplitSpec(validation=10, test=0, choose="first"), seed=seed)
        for seed in (0, 1)
    ]
    assert [split.val.tolist() for split in splits] == [list(range(10))] * 2


def test_choosing_in_order_passes_over_units_that_do_not_fit():
    content = contents(20)
    content[15] = content[2]  # the third image comes again far behind
    split = assign(table_of(balanced(20)), content, SplitSpec(validation=3, test=0, choose="first"), seed=0)
    assert split.val.tolist() == [0, 1, 3]


def test_choosing_in_order_refuses_data_sorted_by_class():
    labels = [0] * 90 + [1] * 10
    with pytest.raises(LoupeError, match=r"class 1.*choose=stratified"):
        assign(table_of(labels), contents(100), SplitSpec(validation=0.1, test=0, choose="last"), seed=0)


def test_seeds_differ_and_a_seed_repeats():
    table, content = table_of(balanced(200)), contents(200)
    first, again, other = (assign(table, content, SplitSpec(), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_the_split_is_this_one_on_every_platform():
    split = assign(table_of(balanced(40)), contents(40), SplitSpec(), seed=7)
    assert (split.val.tolist(), split.test.tolist()) == KNOWN


def test_an_image_that_is_added_moves_few_others():
    content = contents(1001)
    before = assign(table_of(balanced(1000)), content[:1000], SplitSpec(), seed=0)
    after = assign(table_of(balanced(1001)), content, SplitSpec(), seed=0)
    moved = set(before.test.tolist()) ^ set(after.test.tolist())
    assert len(moved) <= 4


def test_identical_images_and_groups_stay_on_one_side():
    rng = np.random.default_rng(0)
    content = [f"{k:064x}" for k in rng.integers(0, 150, 400)]
    groups = [f"patient {k}" if k < 60 else None for k in rng.integers(0, 120, 400)]
    split = assign(table_of(balanced(400), groups=groups), content, SplitSpec(), seed=0)
    for key in (content, groups):
        sides = defaultdict(set)
        for part in SPLITS:
            for i in split.rows(part).tolist():
                sides[key[i]].add(part)
        assert all(len(parts) == 1 for name, parts in sides.items() if name is not None)


def test_whole_patients_are_set_aside_even_where_each_is_larger_than_the_share():
    groups = [f"patient {i // 40}" for i in range(120)]
    split = assign(table_of(balanced(120), groups=groups), contents(120), SplitSpec(), seed=0)
    assert sizes(split) == (40, 40, 40)


def test_what_is_tied_to_a_given_test_image_stays_in_train():
    content = contents(60)
    for i in range(20):
        content[i] = content[50 + i % 10]  # twenty training images are copies of the ten test images
    groups = ["shared" if i in (30, 31, 55) else None for i in range(60)]
    table = table_of(balanced(60), ["train"] * 50 + ["test"] * 10, groups)
    split = assign(table, content, SplitSpec(validation=0.4), seed=0)
    assert split.test.tolist() == list(range(50, 60))
    assert set(split.train.tolist()) >= {*range(20), 30, 31}
    assert len(split.val) == 20


def test_groups_that_a_given_split_divides_are_named_and_are_the_reason_given():
    groups = [f"p{k % 4}" for k in range(8)]
    table = table_of([0, 0, 1, 1] * 2, ["train"] * 4 + ["test"] * 4, groups)
    with pytest.raises(DataError, match=r"4 of 4 training images belong to groups .*\(p0, p1, p2 and p3\)") as error:
        assign(table, contents(8), SplitSpec(), 0)
    assert "--columns group=" in str(error.value) and "split.validation=0" in str(error.value)
    split = assign(table, contents(8), SplitSpec(validation=0), 0)
    assert sizes(split) == (4, 0, 4)
    assert any(note.startswith("4 groups are in more than one of the given splits (p0, p1, p2") for note in split.notes)
    whole = table_of([0, 1] * 10, ["train"] * 16 + ["test"] * 4, [f"p{k // 2}" for k in range(20)])
    assert not any("group" in note for note in assign(whole, contents(20), SplitSpec(), 0).notes)
    with pytest.raises(DataError, match="a class would have no training image") as error:
        assign(table_of([0, 1, 0], ["train", "train", "test"]), contents(3), SplitSpec(), 0)
    assert "group" not in str(error.value)


def test_a_class_of_one_image_trains():
    labels = [0] * 50 + [1] * 50 + [2]
    split = assign(table_of(labels), contents(101), SplitSpec(), seed=0)
    assert 100 in split.train
    assert "The split test has no images of class 2." in split.notes


def test_every_class_keeps_a_training_image():
    labels = [k for k in range(30) for _ in range(2)]
    split = assign(table_of(labels), contents(60), SplitSpec(validation=20, test=20), seed=0)
    assert set(np.array(labels)[split.train]) == set(range(30))
    assert len(split.test) == 20
    assert len(split.val) == 10


@pytest.mark.parametrize(
    ("labels", "splits", "spec", "message"),
    [
        ([0, 0, 0], None, SplitSpec(), "all 3 training images have the class 'class 0'"),
        ([0, 1], ["val", "test"], SplitSpec(), "no labelled training images"),
        ([None, None, 1], ["train", "train", "test"], SplitSpec(), "no labelled training images"),
        ([0, 1], None, SplitSpec(validation=0.1, test=0), "no image can be drawn for validation"),
        ([0, 1, 0, 1], None, SplitSpec(validation=2, test=2), "leave none of the 4"),
        ([0, 1, 0, 1], None, SplitSpec(validation=0.6, test=0.6), "leave none of the 4"),
        ([0, 1, 0, 1], None, SplitSpec(validation=1.5, test=0), "a whole number of images; got 1.5"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_remedy(labels, splits, spec, message):
    with pytest.raises(LoupeError, match=message):
        assign(table_of(labels, splits), contents(len(labels)), spec, seed=0)


@st.composite
def cases(draw):
    n = draw(st.integers(4, 60))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(lambda found: len(set(found)) > 1))
    content = [f"{k:04x}" for k in draw(st.lists(st.integers(0, 2 * n), min_size=n, max_size=n))]
    groups = draw(st.lists(st.none() | st.sampled_from("abcdefgh"), min_size=n, max_size=n))
    splits = draw(st.none() | st.lists(st.sampled_from([None, "train", "train", "test"]), min_size=n, max_size=n))
    spec = SplitSpec(validation=draw(st.sampled_from([0, 0.1, 0.3, 2])), test=draw(st.sampled_from([0, 0.1, 0.3])))
    return labels, splits, groups, content, spec, draw(st.integers(0, 5))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_properties_of_any_split(case, random):
    labels, splits, groups, content, spec, seed = case
    table = table_of(labels, splits, groups, classes=("a", "b", "c", "d"))
    try:
        split = assign(table, content, spec, seed)
    except LoupeError:
        return
    side = dict.fromkeys(range(len(labels)), "")
    for part in SPLITS:
        for i in split.rows(part).tolist():
            assert not side[i], "disjoint"
            side[i] = part
    assert all(side.values()), "every labelled image is in a split"
    kept = [splits[i] == "test" if splits else False for i in side]
    assert all(side[i] == "test" for i in side if kept[i])
    carved = [i for i in side if side[i] != "train" and not kept[i]]
    for i in carved:
        for j in side:
            if content[i] == content[j] or (groups[i] is not None and groups[i] == groups[j]):
                assert side[i] == side[j], "what belongs together stays together"
    trained = [labels[i] for i in side if side[i] == "train"]
    assert set(trained) == {labels[i] for i in side if not kept[i]}, "each class keeps a training image"

    order = list(range(len(labels)))
    random.shuffle(order)
    content_there = [content[i] for i in order]
    there = assign(table.select(order), content_there, spec, seed)
    for part in SPLITS:
        assert sorted(order[i] for i in there.rows(part)) == split.rows(part).tolist(), "the order of rows is no matter"


@given(st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 12)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_units_are_the_connected_components(pairs):
    content = [f"content {c}" for c, _ in pairs]
    groups = [None if g is None else f"group {g}" for _, g in pairs]
    unit = units(content, groups)
    reached = np.eye(len(pairs), dtype=bool)
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            reached[i, j] |= content[i] == content[j] or (groups[i] is not None and groups[i] == groups[j])
    for k in range(len(pairs)):  # Warshall's closure
        reached |= np.outer(reached[:, k], reached[k])
    assert np.array_equal(unit[:, None] == unit[None, :], reached)


def test_stratified_sizes_agree_with_scikit_learn_on_unbalanced_classes():
    from sklearn.model_selection import train_test_split

    labels = np.repeat(np.arange(6), [400, 211, 97, 55, 30, 12])
    split = assign(table_of(labels.tolist()), contents(len(labels)), SplitSpec(validation=0, test=0.2), seed=0)
    _, theirs = train_test_split(labels, test_size=0.2, stratify=labels, random_state=0)
    ours = np.bincount(labels[split.test])
    assert len(split.test) == len(theirs)
    assert np.abs(ours - np.bincount(theirs)).max() <= 1


def test_a_written_split_is_read_back_for_rows_in_any_order(tmp_path: Path):
    labels = [*balanced(30, 3), None]
    table, content = table_of(labels), contents(31)
    split = assign(table, content, SplitSpec(), seed=1)
    write(tmp_path / "split.csv", table, content, split)
    order = np.random.default_rng(0).permutation(31)
    there = read(tmp_path / "split.csv", table.select(order), [content[i] for i in order])
    for part in SPLITS:
        assert sorted(order[there.rows(part)].tolist()) == split.rows(part).tolist()
    header, first, *_ = (tmp_path / "split.csv").read_text().splitlines()
    assert header == "path,label,split,content"
    assert first.startswith("0.png,class 0,") and first.endswith(content[0])


def test_a_split_of_other_images_is_refused(tmp_path: Path):
    table, content = table_of(balanced(20)), contents(20)
    write(tmp_path / "split.csv", table, content, assign(table, content, SplitSpec(), seed=1))
    changed = [*content[:19], "0" * 64]
    with pytest.raises(LoupeError, match=r"1 changed \(19\.png\)"):
        read(tmp_path / "split.csv", table, changed)
    with pytest.raises(LoupeError, match=r"1 missing \(0\.png\)"):
        read(tmp_path / "split.csv", table.select(range(1, 20)), content[1:])
    with pytest.raises(LoupeError, match=r"2 relabelled \(0\.png and 1\.png\)"):
        read(tmp_path / "split.csv", table_of([1, 0, *balanced(18)]), content)
    for text in (
        "path,label\n",
        "path,label,split,content\n0.png,class 0,train\n",
        "path,label,split,content\n0,0,other,0\n",
    ):
        (tmp_path / "split.csv").write_text(text)
        with pytest.raises(RunStateError, match="not a split file"):
            read(tmp_path / "split.csv", table, content)
    (tmp_path / "split.csv").write_text("")
    with pytest.raises(RunStateError, match="cannot be read"):
        read(tmp_path / "split.csv", table, content)
    with pytest.raises(LoupeError, match="cannot be read"):
        read(tmp_path / "none.csv", table, content)


def test_known_images_are_found_by_content_wherever_they_lie(tmp_path: Path):
    given_splits = ["train", "train", "val", "test", "test", "test"]
    table, content = table_of([0, 1, 0, 1, 0, 1], given_splits), ["a", "b", "c", "d", "a", "c"]
    write(tmp_path / "split.csv", table, content, assign(table, content, SplitSpec(), seed=0))
    assert known(tmp_path / "split.csv", table, content).tolist() == given_splits, "in place, copies are told by path"
    moved = ["x", "d", "c", "b", "y", "a"]
    assert known(tmp_path / "split.csv", table, moved).tolist() == ["", "test", "val", "train", "", "train"]


def test_a_digest_names_the_same_images_in_any_order():
    assert digest([("a", "cat"), ("c", "dog")]) == sha256(b"a cat\nc dog\n").hexdigest()
    assert digest([("c", "dog"), ("a", "cat")]) == digest([("a", "cat"), ("c", "dog")])
    assert digest([("a", "dog"), ("c", "dog")]) != digest([("a", "cat"), ("c", "dog")])


def test_cats_vs_dogs_keeps_its_splits(real_data: Path):
    table = open_table(real_data / "cats_vs_dogs")
    content = [sha256(name.encode()).hexdigest() for name in table.paths]
    split = assign(table, content, SplitSpec(), seed=0)
    assert sizes(split) == (2000, 800, 1200)
    for part in SPLITS:
        assert {table.paths[i].split("/")[0] for i in split.rows(part)} == {part}


def test_cifar10_gets_its_validation_from_train(real_data: Path):
    table = open_table(real_data / "cifar10")
    content = [sha256(table.encoded(i)).hexdigest() for i in range(len(table))]
    split = assign(table, content, SplitSpec(), seed=0)
    assert sizes(split) == (45_000, 5_000, 10_000)
    counts = Counter(table.labels[split.val].tolist())
    assert set(counts.values()) == {500}
    held = {content[i] for i in split.val.tolist()}
    assert held.isdisjoint(content[i] for part in ("train", "test") for i in split.rows(part).tolist())


def appearances(per_class: list[int], seeds: int, spec: SplitSpec | None = None) -> dict[str, np.ndarray]:
    """Number of seeds with at least one image of each class in a drawn split, [K], for validation and test."""
    labels = np.repeat(np.arange(len(per_class)), per_class)
    table, content = table_of(labels.tolist()), contents(len(labels))
    found = {part: np.zeros(len(per_class), np.int64) for part in ("val", "test")}
    for seed in range(seeds):
        split = assign(table, content, spec or SplitSpec(), seed)
        for part in found:
            found[part] += np.bincount(labels[split.rows(part)], minlength=len(per_class)) > 0
    return found


def within_chance(successes: np.ndarray, seeds: int, share: float) -> bool:
    """True where every count is in the binomial interval that all of them leave with a probability below 1e-4."""
    low, high = binom.interval(1 - 1e-4 / len(successes), seeds, share)
    return bool(np.all((low <= successes) & (successes <= high)))


@pytest.mark.slow
def test_a_thousand_small_classes_are_validated_and_tested_about_equally_often():
    for found in appearances([6] * 1000, 51).values():
        assert within_chance(found, 51, 0.6)


def test_two_classes_of_five_images_take_turns():
    for found in appearances([5, 5], 51).values():
        assert found.sum() == 51
        assert within_chance(found, 51, 0.5)


@pytest.mark.parametrize(
    "per_class",
    [[9] * 20 + [5], [5] + [9] * 20, [1000, 1000, 3], [2] * 60, [4, 7, 3, 8, 6], [300] * 3 + [2] * 5],
)
@pytest.mark.slow
def test_a_class_below_one_image_has_its_turn_beside_larger_ones(per_class):
    seeds = 300
    n, total = -(-sum(per_class) // 10), sum(per_class)
    found = appearances(per_class, seeds)["test"]
    for size in {*per_class}:
        share = min(1.0, n * size / total)
        assert within_chance(found[np.array(per_class) == size], seeds, share), (size, share)


def test_remainders_of_larger_classes_go_by_size_and_equal_ones_by_the_seed():
    extra = np.zeros(6, np.int64)
    labels = np.repeat(np.arange(6), [15, 15, 15, 15, 11, 19])  # 1.5, 1.5, 1.5, 1.5, 1.1 and 1.9 of nine images
    for seed in range(200):
        split = assign(table_of(labels.tolist()), contents(90), SplitSpec(validation=0, test=9), seed)
        count = np.bincount(labels[split.test], minlength=6)
        assert count[4:].tolist() == [1, 2]
        extra += count - 1
    assert within_chance(extra[:4], 200, 0.5)


def test_the_turn_of_a_class_depends_on_its_name_and_not_on_its_place():
    labels = [k for k in range(40) for _ in range(6)]
    names = tuple(f"class {k}" for k in range(40))
    content = contents(240)
    split = assign(table_of(labels, classes=names), content, SplitSpec(), seed=5)
    there = assign(table_of([39 - k for k in labels], classes=names[::-1]), content, SplitSpec(), seed=5)
    for part in SPLITS:
        assert np.array_equal(split.rows(part), there.rows(part))


@pytest.mark.parametrize(("per_class", "folds"), [([5, 5], 3), ([7] * 4, 5), ([11] * 5, 5)])
@pytest.mark.slow
def test_what_cannot_be_divided_by_the_folds_goes_by_the_seed(per_class, folds):
    seeds = 300
    labels = np.repeat(np.arange(len(per_class)), per_class)
    table, content, rows_N = table_of(labels.tolist()), contents(len(labels)), np.arange(len(labels))
    more_KF = np.zeros((len(per_class), folds), np.int64)
    for seed in range(seeds):
        count_KF = np.zeros_like(more_KF)
        np.add.at(count_KF, (labels, numbers(table, content, rows_N, folds=folds, seed=seed)), 1)
        assert count_KF.max() - count_KF.min() == 1
        more_KF += count_KF - per_class[0] // folds
    assert within_chance(more_KF.ravel(), seeds, per_class[0] % folds / folds)


def test_the_most_folds_are_those_that_groups_and_copies_allow(tmp_path):
    """40 images of each class; of the second they are of 3 patients, and of the third copies of 4 images."""
    labels = balanced(120, 3)
    groups = [f"patient {i % 9}" if label == 1 else None for i, label in enumerate(labels)]
    content = [str(i % 12) if labels[i] == 2 else digest for i, digest in enumerate(contents(120))]
    table, rows_N = table_of(labels, groups=groups), np.arange(120)
    with pytest.raises(DataError, match="at most 3 folds"):
        numbers(table, content, rows_N, folds=5, seed=0)
    assert set(numbers(table, content, rows_N, folds=3, seed=0)) == {0, 1, 2}
    split = Split(rows_N, np.array([], np.int64), np.array([], np.int64), ())
    write(tmp_path / "split.csv", table, content, split)
    assert most_folds(tmp_path / "split.csv") == 4
    assert most_folds(tmp_path / "split.csv", table, content) == 3


def test_there_are_as_many_folds_as_fit_and_groups_stay_in_one():
    labels, groups = [0] * 30 + [1] * 9, [f"g{row // 3}" for row in range(39)]  # 10 groups, and 3
    table, content, rows_N = table_of(labels, groups=groups), contents(39), np.arange(39)
    fold_N = as_many_as_fit(table, content, rows_N, seed=4)
    assert set(fold_N) == {0, 1, 2}
    assert all(len(set(fold_N[row : row + 3])) == 1 for row in range(0, 39, 3))
    np.testing.assert_array_equal(fold_N, as_many_as_fit(table, content, rows_N, seed=4))
    assert any((fold_N != as_many_as_fit(table, content, rows_N, seed=seed)).any() for seed in range(5, 9))
    with pytest.raises(DataError):
        as_many_as_fit(table, content, rows_N[:33], seed=4)  # one group of the second class


def test_a_class_of_one_group_has_no_folds():
    labels = balanced(20)
    groups = ["one" if label else None for label in labels]
    with pytest.raises(DataError, match="Add images"):
        numbers(table_of(labels, groups=groups), contents(20), np.arange(20), folds=2, seed=0)


def test_a_split_file_in_the_order_of_the_images_is_read_as_in_any_other(tmp_path):
    labels = [None, *balanced(39)]
    names = ["=1.png", 'a"b.png', "a,b.png", "a\nb.png", "é.png", *(f"{i}.png" for i in range(35))]
    rows = make_rows(n=40, path=names, label=labels)
    table, content = ImageTable(rows, ("-1", "=b"), "made"), contents(40)
    split = assign(table, content, SplitSpec(), seed=7)
    write(tmp_path / "split.csv", table, content, split)
    order = np.random.default_rng(0).permutation(40)
    shuffled = read(tmp_path / "split.csv", table.select(order), [content[row] for row in order])
    in_order = read(tmp_path / "split.csv", table, content)
    for name in SPLITS:
        assert in_order.rows(name).tolist() == split.rows(name).tolist() == sorted(order[shuffled.rows(name)].tolist())
    relabelled = ImageTable(make_rows(n=40, path=names, label=[*labels[:-1], 1 - labels[-1]]), table.classes, "made")
    with pytest.raises(DataError, match="1 relabelled"):
        read(tmp_path / "split.csv", relabelled, content)
