"""Searches on a few digits: resumed ones, failing trials, locked test images, files and weights."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import loupe
from loupe.cli.report import report
from loupe.config import overrides
from loupe.data.dataset import open_dataset
from loupe.devices import StopSignal
from loupe.errors import ConfigError, InterruptedRunError, RunInUseError
from loupe.evaluate.paired import Difference
from loupe.evaluate.tune_results import Confirmation, TuneResults
from loupe.recipes.resolve import resolve
from loupe.records import RecordError
from loupe.report import tune_page
from loupe.rundir import list_runs
from loupe.runs.options import RunOptions
from loupe.tuning import confirm, files, search, trainings

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("bare")
FEW = {"recipe": "digits-plain", "settings": ["stages.0.epochs=3", "precision=fp32"], "quiet": True, "device": "cpu"}
RATES = ["stages.0.lr=1e-5..1e-1:log", "stages.0.batch_size=32,128"]


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return (bunch.images[:300] * 15.9375).astype(np.uint8), bunch.target[:300]


@pytest.fixture(scope="module")
def tuned(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    settings = [*FEW["settings"], "stages.0.lr=1e-5"]  # too low a rate, so that other settings are better
    return folder, loupe.tune(
        digits, **{**FEW, "settings": settings}, search=RATES, trials=7, confirm=2, output=folder, name="found"
    )


def shown(results: TuneResults) -> list[tuple]:
    """Trials without their times."""
    return [
        (one.number, one.settings, one.state, [(rung.epochs, rung.value, rung.losses) for rung in one.rungs])
        for one in results.trials
    ]


@pytest.mark.slow
def test_the_best_settings_are_confirmed_on_other_seeds_and_chosen(tuned):
    _, results = tuned
    values = {trial.number: trial.rungs[-1].value for trial in results.complete}
    assert values[results.best] == max(values.values()) and results.best > 0
    confirmation = results.confirmation
    assert confirmation.seeds == (1, 2) and results.seed == 0
    assert np.mean(confirmation.best) - np.mean(confirmation.defaults) == pytest.approx(confirmation.gain.value)
    assert (results.verdict, results.chosen) == ("better", "best") and confirmation.gain.low > 0


@pytest.mark.slow
def test_the_test_images_are_evaluated_once_for_the_chosen_settings(tuned):
    folder, results = tuned
    looks = [json.loads(line) for line in (folder / "test_looks.jsonl").read_text().splitlines()]
    assert [look["run"] for look in looks] == [results.test.run] == [results.confirmation.best_runs[0]]
    assert results.test.looks == 1
    others = [*results.confirmation.best_runs[1:], *results.confirmation.default_runs]
    assert all(json.loads((folder / run / "results.json").read_text())["test"] is None for run in others)


@pytest.mark.slow
def test_only_weights_of_the_chosen_settings_are_kept(tuned):
    folder, results = tuned
    kept = {path.relative_to(folder).parts[0] for path in folder.rglob("*.safetensors")}
    assert kept == set(results.confirmation.best_runs)
    assert {path.suffix for path in (folder / "found" / "trainings").iterdir()} == {".json"}
    assert sorted(run.name for run in list_runs(folder)) == sorted(
        [*results.confirmation.best_runs, *results.confirmation.default_runs]
    )


@pytest.mark.slow
def test_the_recipe_file_trains_with_the_best_settings(tuned, digits, tmp_path):
    folder, results = tuned
    recipe = overrides.load(folder / results.recipe_file)
    best = results.best_trial.settings
    assert (
        recipe.stages[0].lr == best["stages.0.lr"] and str(recipe.stages[0].batch_size) == best["stages.0.batch_size"]
    )
    assert (recipe.name, recipe.split.seed) == ("digits-plain-tuned", None)
    run = loupe.train(digits, recipe=folder / results.recipe_file, output=tmp_path, open_test=False, quiet=True)
    assert run.results.validation.accuracy.value == results.best_trial.rungs[-1].accuracy
    assert results.next_command.endswith(f"--recipe {folder / results.recipe_file}")


@pytest.mark.slow
def test_the_file_is_read_back_and_the_page_shows_it(tuned, tmp_path):
    folder, results = tuned
    assert TuneResults.read(folder / "found.json") == results
    page = (folder / "found.html").read_text()
    for text in (results.conclusion, results.next_command, "<svg", "given up early", "stages.0.lr"):
        assert text.replace("'", "&#39;") in page
    assert page.count("<svg") == page.count('role="img" aria-label="') + 1  # the mark of the header is hidden
    content = json.loads((folder / "found.json").read_text())
    (tmp_path / "copy.json").write_text(json.dumps(content))
    report([str(tmp_path / "copy.json")])
    assert (tmp_path / "copy.html").read_text() == page
    (tmp_path / "other.json").write_text(json.dumps({**content, "best": 99}))
    with pytest.raises(RecordError, match="loupe tune again"):
        report([str(tmp_path / "other.json")])


@pytest.mark.slow
def test_the_same_call_again_trains_nothing(tuned, digits, monkeypatch):
    folder, results = tuned

    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(trainings.SearchTrainings, "_train", fail)
    settings = [*FEW["settings"], "stages.0.lr=1e-5"]
    again = loupe.tune(
        digits, **{**FEW, "settings": settings}, search=RATES, trials=7, confirm=2, output=folder, name="found"
    )
    assert shown(again) == shown(results) and again.confirmation == results.confirmation


@pytest.mark.slow
def test_a_name_of_another_search_is_refused_and_a_free_one_found(tuned, digits):
    folder, _ = tuned
    with pytest.raises(ConfigError, match="found"):
        loupe.tune(digits, **FEW, search=RATES, trials=2, confirm=0, output=folder, name="found")
    with pytest.raises(ConfigError, match="plain file name"):
        loupe.tune(digits, **FEW, search=RATES, output=folder, name="a/b")
    other = (digits[0][:200], digits[1][:200])  # the same command on other images is another search
    settings = [*FEW["settings"], "stages.0.lr=1e-5"]
    with pytest.raises(ConfigError, match="other images"):
        loupe.tune(other, **{**FEW, "settings": settings}, search=RATES, trials=7, output=folder, name="found")
    with files.locked(folder / "found"), pytest.raises(RunInUseError):
        loupe.tune(digits, **{**FEW, "settings": settings}, search=RATES, trials=7, output=folder, name="found")


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [1, 6, 13])
def test_a_search_that_was_stopped_has_the_trials_of_one_that_was_not(digits, tmp_path, monkeypatch, stopped_at):
    search_of = {**FEW, "search": RATES, "trials": 6, "confirm": 0, "seed": 3}
    whole = loupe.tune(digits, **search_of, output=tmp_path / "whole")
    scores, validations = trainings.inference.scores, []

    def stop_then(*arguments):
        validations.append(1)
        if len(validations) == stopped_at:
            running[0].stop.request()  # as Ctrl-C in this epoch
        return scores(*arguments)

    running = []
    fit = trainings.SearchTrainings._fit
    with monkeypatch.context() as patched:
        patched.setattr(trainings.inference, "scores", stop_then)
        patched.setattr(trainings.SearchTrainings, "_fit", lambda self, *rest: running.append(self) or fit(self, *rest))
        with pytest.raises(InterruptedRunError, match="same command"):
            loupe.tune(digits, **search_of, output=tmp_path / "stopped")
    resumed = loupe.tune(digits, **search_of, output=tmp_path / "stopped")
    assert shown(resumed) == shown(whole) and resumed.best == whole.best
    more = loupe.tune(digits, **{**search_of, "trials": 8}, output=tmp_path / "stopped")
    assert shown(more)[:6] == shown(whole) and len(more.trials) == 8


@pytest.mark.slow
def test_a_diverged_trial_is_told_and_counted(digits, tmp_path):
    results = loupe.tune(
        digits, **FEW, search=["stages.0.lr=1e-3,1e30"], trials=5, confirm=0, output=tmp_path, name="failing"
    )
    states = {trial.settings.get("stages.0.lr"): trial for trial in results.trials}
    assert states["1e30"].state == "failed" and "not finite" in states["1e30"].why
    assert len(results.trials) == 3 and results.ended.startswith("every setting was tried")
    assert "1 failed" in (tmp_path / "failing.html").read_text()


@pytest.mark.slow
def test_a_limit_without_time_for_the_confirmation_is_refused_with_one_that_has(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "RUN_SECONDS", 1000.0)
    with pytest.raises(ConfigError, match=r"--time-limit 10[0-9]m|--time-limit 15[0-9]m"):
        loupe.tune(digits, **FEW, search=RATES, time_limit="20m", output=tmp_path)
    limited = loupe.tune(digits, **FEW, search=RATES, time_limit=1e-6, confirm=0, trials=5, output=tmp_path, name="b")
    assert len(limited.trials) == 1 and "time limit" in limited.ended


def test_unknown_keys_are_refused_before_anything_is_written(digits, tmp_path):
    for wrong, named in ((["stages.0.lrr=1e-4..1e-2"], "lr"), (["model.backbone=a,b"], "backbone")):
        with pytest.raises(ConfigError, match=named):
            loupe.tune(digits, **FEW, search=wrong, output=tmp_path / "runs")
    with pytest.raises(ConfigError, match="cannot be used"):
        loupe.tune(digits, **FEW, search=["stages.0.augment.crop_padding_px=-3..2"], output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def difference(value: float, low: float, high: float, p: float, images: int = 500) -> Difference:
    return Difference("defaults", "best", value, low, high, p, p, images, 1.0, 2.0)


@pytest.mark.parametrize(
    ("found", "verdict", "told"),
    [
        (difference(0.02, 0.01, 0.03, 0.001), "better", "+2.0 points"),
        (difference(-0.02, -0.03, -0.01, 0.001), "worse", "-2.0 points"),
        (difference(0.004, -0.012, 0.02, 0.6), "undecided", "about 8,000 validation images"),
        (difference(0.2, -0.1, 0.5, 1.0, images=4), "undecided", "4 validation images"),
        (difference(0.0, -0.01, 0.01, 1.0), "undecided", "cannot be told"),
    ],
)
def test_the_verdict_is_one_that_the_images_can_decide(found, verdict, told):
    figures = Confirmation(
        seeds=(1, 2),
        defaults=(0.8, 0.81),
        best=(0.805, 0.82),
        gain={"value": found.value, "low": found.low, "high": found.high},
        p=found.p,
        images=found.images,
        default_runs=("a", "b"),
        best_runs=("c", "d"),
    )
    judged, text = confirm.judge(figures, found)
    assert judged == verdict and told in text
    assert ("overlap" in text) == (verdict in {"better", "worse"})
    assert tune_page._gain(figures).endswith("points") is False


@pytest.mark.slow
def test_weights_that_were_removed_are_trained_again_where_their_settings_are_chosen(digits, tmp_path):
    dataset, options = open_dataset(digits), RunOptions(tmp_path, "cpu", quiet=True)
    run = loupe.train(
        dataset, recipe="digits-plain", epochs=1, output=tmp_path, name="one", open_test=False, quiet=True
    )
    before = (run.directory.model / "weights.safetensors").read_bytes()
    confirm.drop_weights([run])
    assert not list(run.path.rglob("*.safetensors"))
    again = confirm.with_weights(run, dataset, options)
    assert (again.directory.model / "weights.safetensors").read_bytes() == before


def test_trainings_of_a_search_have_the_flips_that_the_images_decide(digits, tmp_path, monkeypatch):
    seen = []

    class SeenError(Exception):
        pass

    def set_up(recipe, *_):
        seen.append(recipe.stages[0].augment.horizontal_flip)
        raise SeenError

    monkeypatch.setattr(trainings, "set_up", set_up)
    dataset = open_dataset(digits, announce=False)
    of_search = trainings.SearchTrainings(dataset, RunOptions(tmp_path, "cpu", False), tmp_path, StopSignal())
    for settings in ([], ["stages.0.augment.horizontal_flip=true"]):
        recipe = resolve("small-images", dataset, model=None, flags={}, extra=settings)
        with pytest.raises(SeenError):
            of_search.of(recipe)
    assert seen == [False, True]
