"""Recipes compared: one split for all, the test locked until the choice is made, and every look counted."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import loupe
from loupe.cli.report import report
from loupe.comparison import compare, files, sweep
from loupe.comparison.candidates import Entry, group_by_recipe
from loupe.comparison.cost import Planner
from loupe.config import overrides
from loupe.data import dataset
from loupe.data.dataset import open_dataset
from loupe.data.hashing import content_hashes
from loupe.data.splits import split as splits
from loupe.evaluate import metrics
from loupe.evaluate.comparison_results import ComparisonResults, TestOpening
from loupe.evaluate.predictions import read_splits
from loupe.evaluate.results import SecondsSpent
from loupe.recipes import catalog
from loupe.recipes.ladder import PRETRAINED, ladder
from loupe.recipes.resolve import resolve
from loupe.records import RecordError
from loupe.report import charts
from loupe.report.comparison_page import write_page
from loupe.rundir import count_looks
from loupe.runs import finalize
from loupe.runs.options import RunOptions
from loupe.runs.run import Run

pytestmark = pytest.mark.usefixtures("bare")
QUICK = ["stages.0.epochs=3", "precision=fp32"]


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return (bunch.images[:400] * 15.9375).astype(np.uint8), bunch.target[:400]


@pytest.fixture(scope="module")
def compared(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    content = compare.compare(
        digits, recipes=["digits-plain", "digits"], seeds=2, settings=QUICK, output=folder, quiet=True
    )
    return folder, content


def test_candidates_of_equal_time_are_in_the_order_of_their_names(compared):
    folder, content = compared
    runs = {row.name: Run(compare.rundir.open_run(row.measured.runs[0], folder)) for row in content.rows}
    assert len(runs) == 2
    for run in runs.values():
        run.results = run.results.model_copy(update={"seconds": runs["digits"].results.seconds})
    for order in (runs.values(), [*runs.values()][::-1]):
        assert [entry.name for entry in group_by_recipe([*order])] == ["digits", "digits-plain"]


def test_every_candidate_and_seed_has_the_same_split(compared):
    folder, content = compared
    runs = [name for row in content.rows for name in row.measured.runs]
    assert len(runs) == 4
    assert len({(folder / run / "split.csv").read_text() for run in runs}) == 1


def test_the_test_is_opened_for_the_chosen_alone(compared):
    folder, content = compared
    chosen = content.judgement.chosen
    assert content.test.opened == (chosen,)
    for row in content.rows:
        for name in row.measured.runs:
            results = json.loads((folder / name / "results.json").read_text())
            assert (results["test"] is not None) == (row.name == chosen)
            assert set(read_splits(folder / name / "predictions.csv")) == (
                {"val", "test"} if row.name == chosen else {"val"}
            )
    assert content.test.looks == count_looks(folder, results["split_hash"]) == 2  # one for each of its seeds


def test_the_figures_are_the_means_of_the_runs(compared):
    folder, content = compared
    for row in content.rows:
        found = [json.loads((folder / run / "results.json").read_text()) for run in row.measured.runs]
        values = [result["validation"]["accuracy"]["value"] for result in found]
        accuracy = row.measured.validation.accuracy
        assert accuracy.value == pytest.approx(np.mean(values))
        assert (accuracy.lowest, accuracy.highest) == (min(values), max(values))
        assert row.measured.bytes > 4 * row.measured.parameters.total
        assert row.measured.images_per_second > 0


def test_the_files_say_the_same(compared):
    folder, content = compared
    assert json.loads((folder / "comparison-arrays.json").read_text()) == content.to_json()
    rows = list(csv.DictReader((folder / "comparison-arrays.csv").open()))
    assert [(row["recipe"], row["split"]) for row in rows if row["split"] == "validation"] == [
        (row.name, "validation") for row in content.rows
    ]
    markdown = (folder / "comparison-arrays.md").read_text()
    assert content.judgement.conclusion in markdown
    page = (folder / "comparison-arrays.html").read_text()
    assert "<script" not in page
    assert all(row.name in page for row in content.rows)
    assert 'class="series-2"' in page  # the curve that the page can hide
    environment = json.loads((folder / content.rows[0].measured.runs[0] / "environment.json").read_text())
    for what in ("data", "split", "code"):
        assert page.count(environment["hashes"][what]) == 1  # which all of these runs share


def test_a_damaged_file_of_a_run_takes_nothing_from_the_page(compared, tmp_path):
    _, content = compared
    for row in content.rows:
        (tmp_path / row.measured.runs[0]).mkdir()
        (tmp_path / row.measured.runs[0] / "results.json").write_text("{")
    write_page(tmp_path / "page.html", content)
    page = (tmp_path / "page.html").read_text()
    assert all(row.name in page for row in content.rows)


def test_the_page_can_be_drawn_again_from_its_json(compared, capsys):
    folder, _ = compared
    page = folder / "comparison-arrays.html"
    before = page.read_bytes()
    page.unlink()
    report(["comparison-arrays.json"], output=folder)
    assert page.read_bytes() == before
    assert capsys.readouterr().out.strip() == str(page)
    (folder / "other.json").write_text('{"schema": 1}')
    with pytest.raises(RecordError) as told:
        report(["other.json"], output=folder)
    assert told.value.path == folder / "other.json"
    with pytest.raises(loupe.LoupeError, match="no such file"):
        report(["none.json"], output=folder)


@pytest.mark.parametrize(
    ("changed", "cached"),
    [
        ({"extra": {"input.size_px": 16, "input.load_px": 16}}, False),
        ({"flags": {"seed": 1}}, False),
        ({"augment": {"rotation_degrees": 5}}, False),
        ({"views": 3}, True),
        ({"batch_size": 8}, True),
    ],
    ids=["pixels", "seed", "augmentation", "fewer views", "batch size"],
)
def test_a_cached_pass_counts_for_the_same_pixels_and_views_alone(digits, changed, cached):
    images = open_dataset(digits)
    recipes = []
    for settings in ({}, changed):
        head = {"epochs": 4, "part": "head", "views": 4, "augment": {"width_shift": 0.1}}
        head |= {key: value for key, value in settings.items() if key not in ("flags", "extra")}
        recipe = overrides.override(catalog.recipe("digits"), {"stages": [head]})
        options = {"flags": settings.get("flags", {}), "extra": settings.get("extra", {})}
        recipes.append(resolve(recipe, images, model=None, **options))
    split = splits.assign(images.table, images.hashes, recipes[0].split, recipes[0].split_seed)
    planner = Planner(images.table, split, torch.device("cpu"))
    new = [planner._new_views(recipe, recipe.stages[-1], 1) for recipe in (*recipes, *recipes)]
    assert new[0] > 0 and (new[1] == 0) == cached and new[2:] == [0, 0]


def test_the_same_call_reads_what_is_there_and_gives_the_same_files(compared, digits, monkeypatch):
    folder, content = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    pages = {path: path.read_bytes() for path in folder.glob("comparison*")}
    monkeypatch.setattr(Planner, "cost", None)  # nothing is timed: neither for the plan
    monkeypatch.setattr(Run, "images_per_second", None)  # nor for the page
    again = compare.compare(
        digits, recipes=["digits-plain", "digits"], seeds=2, settings=QUICK, output=folder, quiet=True
    )
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")} == before
    assert json.dumps(again.to_json()) == json.dumps(content.to_json()), "the test opened after the choice, as before"
    assert {path: path.read_bytes() for path in folder.glob("comparison*")} == pages


def test_what_is_trained_is_planned_with_what_it_took_and_what_is_missing_with_batches(compared, digits, capfd):
    folder, content = compared
    rows = {row.name: row for row in content.rows}
    chosen = {"recipes": ["digits-plain", "digits"], "settings": QUICK, "output": folder, "plan_only": True}
    planned = compare.compare(digits, seeds=2, **chosen).rows
    assert [row.expected.seconds for row in planned] == [rows[row.name].measured.seconds for row in planned]
    said = " ".join(capfd.readouterr().err.split())
    assert "all are trained" in said and said.count("already trained, in") == 2
    planned = compare.compare(digits, seeds=3, **chosen).rows
    said = " ".join(capfd.readouterr().err.split())
    assert "3 trainings each, 4 of them finished; in all about" in said and "already trained" not in said
    assert all(row.expected.seconds != rows[row.name].measured.seconds for row in planned)


def test_runs_are_compared_as_they_are(compared):
    folder, content = compared
    names = [name for row in content.rows for name in row.measured.runs]
    again = compare.compare_runs(names, output=folder)
    assert {row.name for row in again.rows} == {row.name for row in content.rows}
    assert again.judgement.chosen == content.judgement.chosen
    assert again.test.looks == content.test.looks
    runs = [loupe.load(folder / name) for name in names]
    assert loupe.compare_runs(runs, output=folder).judgement == again.judgement
    with pytest.raises(loupe.LoupeError, match="names a run twice"):
        loupe.compare_runs([*runs, runs[0].path], output=folder)
    with pytest.raises(loupe.ConfigError, match="compare_runs"):
        loupe.compare(runs, output=folder)
    with pytest.raises(loupe.LoupeError, match="one recipe"):
        compare.compare_runs(names[:2], output=folder)
    with pytest.raises(loupe.LoupeError, match="names a run twice"):
        compare.compare_runs([names[0], names[2], names[0]], output=folder)


def test_where_a_candidate_fails_the_others_are_judged_and_the_test_stays_locked(compared, digits, monkeypatch):
    folder, _ = compared
    finished = sweep.train_or_open

    def failing(dataset, recipe, *arguments, **options):
        if recipe.name == "digits-plain":
            raise loupe.LoupeError("the disk is full.")
        return finished(dataset, recipe, *arguments, **options)

    monkeypatch.setattr(sweep, "train_or_open", failing)
    arguments = {"recipes": ["digits-plain", "digits"], "settings": QUICK, "output": folder, "quiet": True}
    looks = (folder / "test_looks.jsonl").read_text()
    with pytest.raises(loupe.LoupeError, match=r"1 of 2 candidates failed.*disk is full"):
        compare.compare(digits, name="half", **arguments)
    assert (folder / "test_looks.jsonl").read_text() == looks
    page = (folder / "half.html").read_text()
    assert "the disk is full" in page


def test_a_locked_run_opens_once(compared):
    folder, content = compared
    other = next(row for row in content.rows if row.name != content.judgement.chosen)
    locked = Run(compare.rundir.open_run(other.measured.runs[0], folder))
    assert locked.results.test is None
    assert locked.results.images.test == 40
    assert locked.results.split_hash
    assert locked.results.test_looks == 0


def test_a_test_is_opened_by_one_process_at_a_time_and_looked_at_once(compared, digits, tmp_path):
    folder, content = compared
    other = next(row for row in content.rows if row.name != content.judgement.chosen)
    path = shutil.copytree(folder / other.measured.runs[0], tmp_path / "run")
    mine, theirs = (Run(compare.rundir.open_run(path)) for _ in range(2))
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with mine.directory.locked(), pytest.raises(loupe.LoupeError, match="another process"):
        finalize.open_test(theirs, digits)
    assert before == {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    finalize.open_test(mine, digits)
    assert finalize.open_test(theirs, digits).results == mine.results
    assert count_looks(tmp_path, mine.results.split_hash) == 1


def test_runs_of_other_images_are_not_used_again(compared, digits):
    folder, content = compared
    row = content.rows[0].measured
    wanted = Run(compare.rundir.open_run(row.runs[0], folder)).recipe

    def use(again, x):
        return again(open_dataset((x, digits[1])), wanted, row.runs[0], RunOptions(folder))

    for again in (sweep.finished_run, sweep.train_or_open):
        assert use(again, digits[0]).path.name == row.runs[0]
        with pytest.raises(loupe.LoupeError, match="made with other images"):
            use(again, 255 - digits[0])


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(digits, tmp_path_factory, tmp_path):
    other = tmp_path_factory.mktemp("weights") / "other.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, other)
    for given, words in (
        ({"recipes": ["digits"]}, "at least two recipes"),
        ({"recipes": ["digits", "digits"]}, "twice"),
        ({"recipes": ["digits", "digits-plian"]}, "digits-plain"),
        ({"recipes": ["digits", "digits-plain"], "folds": 1}, "2 or more"),
        ({"recipes": ["digits", "digits-plain"], "folds": 3, "seeds": 2}, "neither"),
        ({"recipes": ["digits", "digits-plain"], "name": "a/b"}, "plain file name"),
        ({"recipes": ["digits", "digits-plain"], "model": "resnet18"}, "Leave it out"),
        ({"recipes": ["digits", "features"], "weights": "nowhere.safetensors"}, "no such file"),
        ({"recipes": ["digits", "features"], "weights": str(other)}, "not the weights of"),
        ({"recipes": ["digits", "features"]}, r"features cannot be compared.*--weights"),
        ({"recipes": ["digits", "digits-plain"], "settings": ["split.validation=0"]}, "validation images"),
    ):
        with pytest.raises(loupe.LoupeError, match=words):
            compare.compare(digits, output=tmp_path, quiet=True, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_folds_judge_every_image_once_and_leave_the_test_locked(digits, tmp_path):
    content = compare.compare(
        digits,
        recipes=["digits-plain", "digits"],
        folds=2,
        settings=["stages.0.epochs=1", "precision=fp32"],
        output=tmp_path,
        quiet=True,
    )
    assert content.test == TestOpening(opened=(), opened_before=(), looks=0, judgement=None)
    assert content.judgement.differences[0].images == 360  # 400 images without the 40 for the test
    judged = content.rows[0].measured.validation
    assert judged.images == 360
    hits = round(360 * judged.accuracy.value)
    assert [judged.accuracy.low, judged.accuracy.high] == pytest.approx(metrics.wilson(hits, 360))


def test_a_plan_trains_nothing(digits, tmp_path):
    content = compare.compare(
        digits, recipes=["digits-plain", "digits"], settings=QUICK, output=tmp_path, plan_only=True, quiet=True
    )
    costs = [row.expected.seconds for row in content.rows]
    assert costs == sorted(costs)
    assert all(cost > 0 for cost in costs)
    assert not list(tmp_path.iterdir())
    assert content.images == {"train": 320, "val": 40, "test": 40} and {*content.missing.values()} == {1}
    assert content.total.startswith("1 training each; in all about ") and content.total.endswith(".")


def test_recipes_are_compared_as_values_with_settings_of_their_own(digits, tmp_path):
    turned = loupe.recipe("digits", name="turned", settings={"stages.0.augment.rotation_degrees": 40})
    assert turned.stages[0].augment.rotation_degrees == 40 and loupe.recipe("digits") == catalog.recipe("digits")
    given = {"settings": {"stages.0.epochs": 1, "precision": "fp32"}, "output": tmp_path, "quiet": True}
    content = compare.compare(digits, recipes=["digits", turned], **given)
    assert content.settings == ("stages.0.epochs=1", 'precision="fp32"')
    assert "digits" in content.command and "turned.yaml" in content.command
    [run] = next(figures.runs for row, figures in content.measured if row.name == "turned")
    assert Run(compare.rundir.open_run(run, tmp_path)).recipe.stages[0].augment.rotation_degrees == 40
    (tmp_path / "turned.yaml").write_text(turned.to_yaml())
    again = compare.compare(digits, recipes=["digits", str(tmp_path / "turned.yaml")], **given)
    assert {row.name: row.measured.runs for row in again.rows} == {row.name: row.measured.runs for row in content.rows}
    with pytest.raises(loupe.LoupeError, match="twice"):
        compare.compare(digits, recipes=[turned, turned], **given)
    with pytest.raises(loupe.LoupeError, match="rotation_degres"):
        loupe.recipe("digits", settings={"stages.0.augment.rotation_degres": 40})


def test_another_comparison_never_takes_the_files_of_the_first(compared, tmp_path):
    named = {"name": "comparison-pets", "dataset": "pets", "command": "loupe compare DATA --seeds 1"}
    first = compared[1].model_copy(update=named)
    other = first.model_copy(update={"command": "loupe compare DATA --seeds 2"})
    assert files.name_of(first, None, tmp_path) == ("comparison-pets", None)
    first.write(tmp_path / "comparison-pets.json")
    assert files.name_of(first, None, tmp_path) == ("comparison-pets", first)
    assert files.name_of(other, None, tmp_path) == ("comparison-pets-2", None)
    (tmp_path / "comparison-pets-2.html").write_text("a page without its figures")
    (tmp_path / "comparison-pets-3.json").write_text('{"half of')
    assert files.name_of(other, None, tmp_path) == ("comparison-pets-4", None)
    with pytest.raises(loupe.LoupeError, match=r"from another comparison \(loupe compare DATA --seeds 1\)"):
        files.name_of(other, "comparison-pets", tmp_path)
    with pytest.raises(loupe.LoupeError, match="files of that name exist"):
        files.name_of(other.model_copy(update={"name": "comparison-pets-3"}), "comparison-pets-3", tmp_path)


def entry(*seconds: dict[str, float | None]) -> Entry:
    others = {"train": 8.0, "epoch_mean": 1.0, "evaluate": 0.0}
    runs = [SimpleNamespace(results=SimpleNamespace(seconds=SecondsSpent(**others, **one))) for one in seconds]
    return Entry("any", catalog.recipe("digits"), runs=runs)


def test_the_time_by_itself_has_what_was_found_at_what_it_took_or_is_unknown():
    base = {"total": 10.0, "load": 2.0}
    found = base | {"frozen": 0.5, "frozen_alone": 30.0}
    assert entry(found).seconds == 10 - 2 - 0.5 + 30
    assert entry(base | {"frozen": 0.0, "frozen_alone": 0.0}, found).seconds == (8 + 37.5) / 2
    assert entry(base).seconds == 8, "a run of before anything was frozen"
    unknown = base | {"frozen": 0.5, "frozen_alone": None}
    assert entry(unknown).seconds is entry(found, unknown).seconds is entry(base | {"frozen": 0.5}).seconds is None


def test_an_unknown_time_is_shown_as_unknown(compared, tmp_path):
    content = compared[1].to_json()
    content["rows"][0]["measured"]["seconds"] = None
    name = content["rows"][0]["name"]
    files.write(ComparisonResults.of(content, tmp_path), tmp_path)
    page = " ".join((tmp_path / "comparison-arrays.html").read_text().split())
    assert f"Unknown for {name}:" in page and ">unknown<" in page
    assert "| unknown |" in (tmp_path / "comparison-arrays.md").read_text()
    content["rows"][1]["measured"]["seconds"] = None
    files.write(ComparisonResults.of(content, tmp_path), tmp_path)
    assert "Accuracy against training time" in (tmp_path / "comparison-arrays.html").read_text()


def test_seeds_share_a_split_that_has_a_seed_of_its_own():
    recipe = catalog.recipe("digits")
    assert recipe.model_copy(update={"seed": 7}).split_seed == 7
    own = recipe.model_copy(update={"seed": 7, "split": splits.SplitSpec(seed=3)})
    assert own.split_seed == 3


def test_the_ladder_has_what_can_be_had(monkeypatch):
    monkeypatch.setattr("loupe.recipes.ladder.weights_problem", lambda name: "no weights here")
    asked = {"dataset_recipe": None, "model": None, "weights": None}
    names, reason = ladder(typical_px=32, **asked)
    assert names == ["small-images-plain", "small-images"]
    assert "no weights here" in reason
    monkeypatch.setattr("loupe.recipes.ladder.weights_problem", lambda name: None)
    assert ladder(typical_px=300, **asked)[0] == ["photographs-plain", "photographs", *PRETRAINED]
    assert ladder(typical_px=300, **asked | {"weights": "none"})[0] == ["photographs-plain", "photographs"]
    with pytest.raises(loupe.LoupeError, match="deep-cnn: not a pretrained model"):
        ladder(typical_px=300, **asked | {"model": "deep-cnn"})


def test_the_frontier_has_those_that_nothing_cheaper_equals():
    points = [charts.Point(*each) for each in (("a", 1, 0.7), ("b", 2, 0.9), ("c", 3, 0.9), ("d", 4, 0.95))]
    assert [point.name for point in charts.frontier(points[::-1])] == ["a", "b", "d"]
    assert charts.accuracy_against_cost(points, label="words", width_px=400).startswith("<svg")


@pytest.mark.parametrize("width_px", [760, 330])
def test_names_beside_their_dots_do_not_meet(monkeypatch, width_px):
    """Four of nearly the same accuracy, as features, their augmentation, the last block and the network had."""
    seconds = {"features": 47, "features-augment": 152, "last-block": 269, "finetune": 1438}
    points = [charts.Point(name, cost, 0.989, 0.979, 0.994) for name, cost in seconds.items()]
    points.append(charts.Point("catsdogs-cnn-quick", 221, 0.811, 0.783, 0.837))
    drawn = []
    monkeypatch.setattr(charts.figures, "svg", lambda figure, label: drawn.append(figure))
    charts.accuracy_against_cost(points, label="words", width_px=width_px)
    [axes] = drawn[0].axes
    boxes = [name.get_window_extent() for name in axes.texts]
    assert len(boxes) == len(points)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.slow
def test_a_comparison_opens_and_announces_its_data_once(digits, tmp_path, monkeypatch, caplog):
    opened, open_table = [], dataset.open_table

    def watched(data, options):
        opened.append(data)
        return replace(open_table(data, options), notes=("a note about the images",))

    monkeypatch.setattr(dataset, "open_table", watched)
    hashed = []
    monkeypatch.setattr(
        dataset, "content_hashes", lambda table, **how: hashed.append(table) or content_hashes(table, **how)
    )
    with caplog.at_level("INFO", logger="loupe"):
        compare.compare(
            digits, recipes=["digits", "digits-plain"], settings=QUICK, output=tmp_path, device="cpu", quiet=True
        )
    assert len(opened) == 1
    assert caplog.messages.count("a note about the images") == 1
    assert len([table for table in hashed if len(table) == len(digits[1])]) == 1
