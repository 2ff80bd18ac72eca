"""Wrong labels: found by heads that have not seen them, and what leaving them out is worth."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from loupe.cli import main
from loupe.data.sources.arrays import from_arrays
from loupe.data.sources.open import open_table
from loupe.data.sources.read_options import ReadOptions
from loupe.data.splits import folds
from loupe.data.table import ImageTable, make_rows
from loupe.errors import LoupeError
from loupe.labels import confident, export
from loupe.labels import cross_fit as fitting
from loupe.labels.confident import effect, paired_accuracy, paired_interval
from loupe.labels.cross_fit import CrossFit, cross_fit, fold_counts
from loupe.labels.find import LabelOptions, LabelReport, check_labels
from loupe.report import labels_page

FOLLOW = ReadOptions.of(follow_links=True)  # the images are not in the folder of the new list


def blobs(flipped: int, each: int = 60, classes: int = 3, spread: float = 1.0):
    """Features of Gaussian blobs, their labels with so many of them wrong, folds, and which are wrong."""
    rng = np.random.default_rng(0)
    truth_N = np.arange(classes * each) % classes
    features_NC = (6 * np.eye(8)[truth_N] + spread * rng.normal(size=(len(truth_N), 8))).astype(np.float32)
    wrong_N = np.zeros(len(truth_N), bool)
    wrong_N[rng.choice(len(truth_N), flipped, replace=False)] = True
    label_N = np.where(wrong_N, (truth_N + rng.integers(1, classes, len(truth_N))) % classes, truth_N)
    return features_NC, label_N, rng.permutation(np.arange(len(truth_N)) % 5), wrong_N


def unlikely(label_N, probability_NK):
    """Stands for cleanlab: labels below one tenth."""
    return probability_NK[np.arange(len(label_N)), label_N] < 0.1


def fitted(features_NC, label_N, fold_N) -> CrossFit:
    return cross_fit(features_NC, label_N, fold_N, suspects=unlikely)


def test_wrong_labels_of_blobs_are_found():
    pytest.importorskip("cleanlab")
    features_NC, label_N, fold_N, wrong_N = blobs(flipped=18)
    fit = cross_fit(features_NC, label_N, fold_N, suspects=confident.suspects)
    found_N = confident.suspects(label_N, fit.probability_NK)
    assert (found_N & wrong_N).sum() >= 17, "recall"
    assert (found_N & wrong_N).sum() >= 0.9 * found_N.sum(), "precision"
    quality_N = confident.quality(label_N, fit.probability_NK)
    assert set(np.argsort(quality_N)[:15]) <= set(np.flatnonzero(wrong_N)), "the worst stand first"
    assert 0 <= quality_N.min() <= quality_N.max() <= 1


def test_clean_labels_of_separate_blobs_are_left_alone():
    pytest.importorskip("cleanlab")
    features_NC, label_N, fold_N, _ = blobs(flipped=0, spread=0.3)
    assert not confident.suspects(label_N, fitted(features_NC, label_N, fold_N).probability_NK).any()


def test_a_label_that_is_the_likeliest_is_no_suspect_and_every_class_keeps_one():
    pytest.importorskip("cleanlab")
    features_NC, label_N, fold_N, _ = blobs(flipped=60, spread=3.0)
    probability_NK = fitted(features_NC, label_N, fold_N).probability_NK
    found_N = confident.suspects(label_N, probability_NK)
    assert found_N.any()
    assert not (found_N & (probability_NK.argmax(axis=1) == label_N)).any()
    all_of_one_N = label_N == 2
    confident.keep_one_of_each(all_of_one_N, label_N, confident.quality(label_N, probability_NK))
    [kept] = np.flatnonzero((label_N == 2) & ~all_of_one_N)
    assert probability_NK[kept, 2] == probability_NK[label_N == 2, 2].max()


@pytest.mark.parametrize("fold", [0, 3])
def test_no_label_has_a_say_in_what_is_said_of_its_own_fold(fold):
    """All labels of one fold are changed: of its images the same is said, to the bit; of the others, something else."""
    features_NC, label_N, fold_N, _ = blobs(flipped=18)
    mine_N = fold_N == fold
    before = fitted(features_NC, label_N, fold_N)
    after = fitted(features_NC, np.where(mine_N, (label_N + 1) % 3, label_N), fold_N)
    for name in ("probability_NK", "without_NK"):
        np.testing.assert_array_equal(getattr(after, name)[mine_N], getattr(before, name)[mine_N])
        assert not np.array_equal(getattr(after, name)[~mine_N], getattr(before, name)[~mine_N])
    assert after.strength_F[fold] == before.strength_F[fold]
    assert after.left_out_F[fold] == before.left_out_F[fold]


def test_what_is_said_is_what_scikit_learn_says_of_nested_folds():
    """Every head fitted anew, without sharing heads between folds or starting from the strength before."""
    features_NC, label_N, fold_N, _ = blobs(flipped=18, spread=2.0)
    fit = fitted(features_NC, label_N, fold_N)

    def said(penalty, learned_N, asked_N):
        head = LogisticRegression(C=1 / penalty, max_iter=2000, tol=1e-6)
        return head.fit(features_NC[learned_N], label_N[learned_N]).predict_proba(features_NC[asked_N])

    for fold in (0, 3):
        rest_N, losses, inner = fold_N != fold, [], []
        for penalty in fitting.STRENGTHS:
            probability_NK = np.zeros((len(label_N), 3))
            for other in set(range(5)) - {fold}:
                asked_N = fold_N == other
                probability_NK[asked_N] = said(penalty, rest_N & ~asked_N, asked_N)
            inner.append(probability_NK)
            losses.append(-np.log(probability_NK[rest_N, label_N[rest_N]]).mean())
        best = int(np.argmin(losses))
        assert fit.strength_F[fold] == pytest.approx(fitting.STRENGTHS[best])
        expected_NK = said(fitting.STRENGTHS[best], rest_N, ~rest_N)
        np.testing.assert_allclose(fit.probability_NK[~rest_N], expected_NK, atol=2e-3)
        wrong_N = rest_N & unlikely(label_N, inner[best])
        assert fit.left_out_F[fold] == wrong_N.sum() > 0
        expected_NK = said(fitting.STRENGTHS[best], rest_N & ~wrong_N, ~rest_N)
        np.testing.assert_allclose(fit.without_NK[~rest_N], expected_NK, atol=2e-3)


def test_copies_and_groups_are_in_one_fold():
    labels = np.arange(120) % 3
    groups = [f"patient {i // 6}" for i in range(120)]
    rows = make_rows(n=120, path=[f"{i}.png" for i in range(120)], label=labels.tolist(), group=groups)
    content = [f"hash {i}" for i in range(120)]
    content[0] = content[119]
    chosen = np.arange(0, 120, 2)
    fold_N = folds.numbers(ImageTable(rows, ("a", "b", "c"), "t"), content, np.arange(120), folds=5, seed=0)
    assert sorted(set(fold_N)) == [0, 1, 2, 3, 4]
    for i in range(120):
        assert fold_N[i] == fold_N[6 * (i // 6)]
    assert fold_N[0] == fold_N[119]
    part_N = folds.numbers(ImageTable(rows, ("a", "b", "c"), "t"), content, chosen, folds=5, seed=0)
    assert len(part_N) == 60, "of the rows that are asked for alone"


def test_a_class_in_fewer_than_three_folds_is_seen():
    assert fold_counts(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 0, 1])).tolist() == [3, 2]


def test_the_paired_interval_covers_what_it_says():
    """2,000 simulated sets of 300 images, of which the heads differ on 3 % and 1 %."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(300, [0.03, 0.01, 0.96], size=2000)
    intervals = [paired_interval(int(gained), int(lost), 300) for gained, lost, _ in drawn]
    covered = np.mean([low <= 0.02 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.98
    for (low, high), (gained, lost, _) in zip(intervals[:50], drawn, strict=False):
        assert low <= (gained - lost) / 300 <= high
        assert paired_interval(int(lost), int(gained), 300) == pytest.approx((-high, -low))
    low, high = paired_interval(0, 0, 100)
    assert low == -high < 0, "no difference in 100 images is not none at all"


def test_the_effect_is_counted_on_the_same_images_with_and_without_the_suspects():
    label_N = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    with_NK = np.eye(2)[[0, 0, 1, 1, 1, 1, 1, 0]]
    without_NK = np.eye(2)[[0, 0, 0, 1, 1, 1, 1, 1]]
    suspect_N = np.array([0, 0, 0, 1, 0, 0, 0, 0], bool)
    found = effect(label_N, with_NK, without_NK, suspect_N)
    assert (found.all.with_suspects.value, found.all.without.value) == (5 / 8, 7 / 8)
    assert (found.all.gained, found.all.lost, found.all.difference.value) == (2, 0, 0.25)
    assert (found.unsuspected.images, found.unsuspected.without.value) == (7, 1.0)
    assert found.unsuspected.difference.value == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    ("gained", "lost", "images", "words"),
    [
        (40, 0, 200, "raises"),
        (0, 40, 200, "lowers"),
        (3, 2, 200, "no significant effect"),
        (5, 0, 10, "no significant effect"),  # p = 0.0625, though the interval excludes 0
        (6, 0, 10, "raises"),
        (5, 0, 5, "cannot be told from 5 images"),
    ],
)
def test_the_verdict_is_the_exact_test(gained, lost, images, words):
    hit_N, hit_without_N = np.zeros(images, bool), np.zeros(images, bool)
    hit_without_N[:gained] = True
    hit_N[images - lost :] = True
    assert words in labels_page.verdict(paired_accuracy(hit_N, hit_without_N))


@pytest.mark.parametrize(
    ("label", "predicted", "learned"),
    [
        ([0, 1] * 20, [0, 1] * 20, True),
        ([0, 1] * 20, [0, 0] * 20, False),
        ([0, 1] * 20, [1, 0] * 20, False),
        ([0, 1] * 3, [0, 1] * 3, False),  # 1 of 64 by chance
        ([0] * 95 + [1] * 5, [0] * 100, False),
        ([0] * 95 + [1] * 5, [0] * 95 + [1] * 5, True),
    ],
)
def test_heads_that_have_not_learned_tell_nothing_about_labels(label, predicted, learned):
    found = confident.unlearned(np.array(label), np.eye(2)[predicted])
    assert (found is None) == learned
    assert learned or f"on {len(label)} images" in found


@pytest.fixture
def photos(tmp_path) -> Path:
    """Dark and light images, two dark ones with the label light; a file name with a comma; splits given."""
    rng = np.random.default_rng(0)
    levels = {"dark": 50, "light": 200}
    for part, number in (("train", 20), ("val", 6), ("test", 5)):
        for name, level in levels.items():
            place = tmp_path / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(number):
                low = 50 if name == "light" and i < 2 and part == "train" else level
                pixels = rng.integers(low - 30, low + 30, (24, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / (f"{i}.png" if i else "a, first.png"))
    return tmp_path / "photos"


def report_on(table: ImageTable, suspects: dict[int, float]) -> LabelReport:
    """A report on train and val of a table of two classes, with these rows as suspects of this probability."""
    splits = tuple(table.splits)
    rows_N = np.array([row for row, part in enumerate(splits) if part in {"train", "val"}])
    given_N = table.labels[rows_N]
    own_N = np.array([suspects.get(row, 0.9) for row in rows_N.tolist()])
    probability_NK = np.where(np.arange(2) == given_N[:, None], own_N[:, None], 1 - own_N[:, None])
    suspect_N = np.isin(rows_N, list(suspects))
    fit = CrossFit(probability_NK, probability_NK, (1.0, 1.0, 10.0), (1, 1, 2))
    return LabelReport(
        table, splits, rows_N, table.classes, given_N, suspect_N, own_N, fit, network="test_resnet", size_px=32, seed=0
    )


def listed(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def written(photos, tmp_path):
    """Files about three suspects: two of train, one of val."""
    table = open_table(photos)
    suspects = {
        table.paths.index("train/light/a, first.png"): 0.02,
        table.paths.index("train/light/1.png"): 0.01,
        table.paths.index("val/dark/3.png"): 0.2,
    }
    return table, export.write(report_on(table, suspects), tmp_path / "deep" / "found").files


def test_the_list_of_labels_is_trained_on_as_it_stands_and_as_it_is_corrected(written):
    table, files = written
    rows = listed(Path(files["labels"]))
    first = [(row["path"], row["label"], row["suggested"], row["split"]) for row in rows[:3]]
    assert first == [
        ("../../photos/train/light/1.png", "light", "dark", "train"),
        ("../../photos/train/light/a, first.png", "light", "dark", "train"),
        ("../../photos/val/dark/3.png", "dark", "light", "val"),
    ]
    assert all(row["suggested"] == "" for row in rows[3:])
    assert all((row["score"] == "") == (row["split"] == "test") for row in rows)
    assert (rows[0]["score"], rows[0]["score_of_suggested"]) == ("0.0100", "0.9900")
    again = open_table(files["labels"], FOLLOW)
    assert again.classes == table.classes
    assert sorted(zip(again.labels, again.splits, strict=True)) == sorted(zip(table.labels, table.splits, strict=True))
    text = Path(files["labels"]).read_text()
    Path(files["labels"]).write_text(text.replace("1.png,light,train,dark", "1.png,dark,train,dark", 1))
    corrected = open_table(files["labels"], FOLLOW)
    assert corrected.classes[corrected.labels[0]] == "dark"


def test_suspects_of_training_are_left_out_and_those_of_validation_stay(written):
    table, files = written
    kept = open_table(files["kept"], FOLLOW)
    names = {Path(name).as_posix().removeprefix("../../photos/") for name in kept.paths}
    assert set(table.paths) - names == {"train/light/1.png", "train/light/a, first.png"}
    assert names <= set(table.paths)


def test_what_was_written_is_never_overwritten(written, monkeypatch):
    folder = Path(written[1]["page"]).parent
    with pytest.raises(LoupeError, match="corrected labels"):
        export.check_new(folder)
    monkeypatch.chdir(folder.parent)
    for name in ("photos-labels", "photos-labels-2", "photos-labels-3"):
        assert export.free_name("photos") == Path(name)
        Path(name).mkdir()


def test_groups_stand_in_the_lists_and_images_without_a_label_do_not(photos, tmp_path):
    source = photos / "list.csv"
    names = [f"train/{label}/{i}.png" for label in ("dark", "light") for i in range(2, 6)]
    lines = [f"{name},{name.split('/')[1]},train,g{i % 4}" for i, name in enumerate(names)]
    source.write_text("path,label,split,group\n" + "\n".join(lines) + "\n")
    files = export.write(report_on(open_table(source), {0: 0.1}), tmp_path / "found").files
    assert {row["group"] for row in listed(Path(files["kept"]))} == {"g0", "g1", "g2", "g3"}
    again = open_table(files["labels"], FOLLOW)
    assert again.groups[0] == "g0"


def test_images_that_are_no_files_get_no_list_to_train_on(tmp_path):
    table = from_arrays(np.zeros((8, 16, 16, 3), np.uint8), np.arange(8) % 2, splits=["train"] * 8)
    files = export.write(report_on(table, {3: 0.1}), tmp_path / "found").files
    assert "kept" not in files
    assert listed(Path(files["labels"]))[0]["path"] == table.paths[3]
    assert "not files" in Path(files["page"]).read_text()


def test_the_page_shows_every_suspect_and_escapes_what_others_wrote(written, photos, tmp_path):
    page = Path(written[1]["page"]).read_text()
    assert page.count('src="data:image/') == 3
    assert page.index("train/light/1.png") < page.index("train/light/a, first.png") < page.index("val/dark/3.png")
    assert "of 52 labels" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    none = report_on(from_arrays(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, splits=["train"] * 4), {})
    labels_page.write_page(tmp_path / "none.html", none.results.model_copy(update={"dataset": "<b>x"}), [])
    assert "<b>x" not in (tmp_path / "none.html").read_text()


def test_without_cleanlab_the_remedy_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(confident, "find_spec", lambda name: None)
    with pytest.raises(LoupeError, match="pip install cleanlab"):
        check_labels(tmp_path / "nothing is read")


def test_what_cannot_be_examined_is_refused(photos):
    pytest.importorskip("cleanlab")
    with pytest.raises(LoupeError, match=r"unknown split 'tests'\. Did you mean test"):
        check_labels(photos, LabelOptions(splits=["tests"]))
    with pytest.raises(LoupeError, match="--folds is at least 3"):
        check_labels(photos, LabelOptions(number_of_folds=2))
    with pytest.raises(LoupeError, match="not a pretrained network"):
        check_labels(photos, LabelOptions(model="simple-cnn"), quiet=True)
    with pytest.raises(LoupeError, match=r"7 folds .* dark and light"):
        check_labels(photos, LabelOptions("test_resnet", "none", 32, splits=["val"], number_of_folds=7))


@pytest.mark.usefixtures("bare")
def test_the_command_finds_the_wrong_labels_of_a_folder(photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cleanlab")
    options = ["--model", "test_resnet", "--weights", "none", "--size", "32", "--folds", "4", "--device", "cpu"]
    outputs = {}
    for kind in ("--json", "--quiet"):
        to = tmp_path / f"found{kind}"
        monkeypatch.setattr(sys, "argv", ["loupe", "labels", str(photos), *options, "--to", str(to), kind])
        with pytest.raises(SystemExit) as end:
            main.main()
        assert end.value.code == 0
        outputs[kind] = capsys.readouterr().out
    found = json.loads(outputs["--json"])
    assert {item["path"] for item in found["suspects"]} == {"train/light/1.png", "train/light/a, first.png"}
    assert all((item["label"], item["suggested"]) == ("light", "dark") for item in found["suspects"])
    assert found["examined"] == {"train": 40, "val": 12}, "no test image, of which nobody asked"
    assert found["suspected"] == {"train": 2}
    assert found["effect"]["all"]["images"] == 52
    assert "2 of 52 labels look wrong: train 2 of 40, val 0 of 12." in outputs["--quiet"]
    assert f"loupe train {found['files']['kept']}".replace("--json", "--quiet") in outputs["--quiet"].replace("'", "")
    assert Path(found["files"]["page"]).is_file()


def test_of_labels_that_are_equally_unlikely_not_the_first_rows_alone_are_suspects():
    quality_N = np.array([0.1] * 50 + [0.05, 0.4])
    found_N = np.array([True] * 10 + [False] * 40 + [True, False])
    confident.draw_equal(found_N, quality_N)
    assert found_N.sum() == 11 and found_N[50] and not found_N[51]
    assert np.flatnonzero(found_N[:50]).max() >= 20
    distinct_N = np.array([True, False, True])
    confident.draw_equal(distinct_N, np.array([0.1, 0.5, 0.2]))
    assert distinct_N.tolist() == [True, False, True]
