"""Epochs of trained stages and L2 strengths of solved heads, from metrics.csv of this version and of earlier ones."""

import pytest

from loupe.config.network import CnnSpec
from loupe.config.optimizer import Logistic
from loupe.config.recipe import Recipe, Stage
from loupe.errors import RunStateError
from loupe.evaluate.history import StageResult, over_runs, read_history, read_stages, stage_results
from loupe.report import texts
from loupe.rundir import RunDirectory

SOLVED = Stage(epochs=5, part="head", optimizer=Logistic(strongest=100, weakest=0.01))
STRENGTHS = [100.0, 10.0, 1.0, 0.1, 0.01]
TRAINED = Stage(epochs=4, part="last-block")
ONE_STRENGTH = StageResult(part="head", strengths=1, l2_strength=31.62, seconds=0)
SIXTY = StageResult(part="all", epochs=60, seconds=1)
HEADER = "epoch,stage,lr,train_loss,val_loss,val_accuracy,seconds\n"


def recipe(*stages: Stage, **changes) -> Recipe:
    return Recipe(name="x", model=CnnSpec(name="tiny", blocks=()), stages=stages, **changes)


def run_of(folder, *stages: Stage, metrics: str) -> RunDirectory:
    run = RunDirectory(folder)
    run.write_recipe(recipe(*stages, monitor="val_loss"))
    run.file("metrics.csv").write_text(metrics)
    return run


def row(stage: int, val_loss: float | None, seconds: float = 0.5) -> dict:
    return {"stage": stage, "val_loss": val_loss, "val_accuracy": None, "seconds": seconds}


def test_strengths_are_evenly_spaced_on_a_logarithmic_scale():
    assert [SOLVED.l2_strength(number) for number in range(5)] == pytest.approx(STRENGTHS)
    one = SOLVED.model_copy(update={"epochs": 1})
    assert one.l2_strength(0) == pytest.approx(1.0)
    assert SOLVED.is_solved and not TRAINED.is_solved


def test_each_stage_says_what_it_is():
    history = [*(row(1, loss) for loss in (0.9, 0.4, 0.6)), *(row(2, loss, 2.0) for loss in (0.3, 0.5))]
    head, block = stage_results(history, recipe(SOLVED, TRAINED, monitor="val_loss"))
    assert (head.part, head.epochs, head.strengths, head.seconds) == ("head", None, 3, 1.5)
    assert head.l2_strength == pytest.approx(10.0)
    assert (block.part, block.epochs, block.strengths, block.l2_strength) == ("last-block", 2, None, None)
    assert texts.length([head, block], 5) == "3 L2 strengths, 2 epochs"
    assert texts.length_in_short([head, block], 5) == "3 L2 + 2"
    assert texts.seconds_per_epoch([head, block]) == 2.0
    assert texts.seconds_per_epoch([head]) is None
    assert texts.kept([head, block], 2) == "L2 strength 10"
    assert texts.kept([head, block], 4) == "epoch 1"


def test_a_stage_that_has_not_begun_is_left_out():
    assert [stage.part for stage in stage_results([row(1, 0.5)], recipe(SOLVED, TRAINED))] == ["head"]
    assert stage_results([], recipe(SOLVED)) == ()


def test_a_single_strength_needs_no_validation():
    [head] = stage_results([row(1, None)], recipe(SOLVED.model_copy(update={"epochs": 1})))
    assert head.l2_strength == pytest.approx(1.0)
    assert texts.solved(head) == "solved for L2 strength 1 in 0.5 s"


@pytest.mark.parametrize(
    ("stages", "rows", "expected"),
    [
        ((), 1, ("1 epoch", "1", "epoch 1")),
        ((), 30, ("30 epochs", "30", "epoch 30")),
        ((ONE_STRENGTH,), 1, ("1 L2 strength", "1 L2", "L2 strength 31.6")),
        ((SIXTY, SIXTY), 120, ("120 epochs", "120", "epoch 120")),
        ((ONE_STRENGTH, SIXTY), 61, ("1 L2 strength, 60 epochs", "1 L2 + 60", "epoch 60")),
    ],
)
def test_the_length_of_a_training_in_words(stages, rows, expected):
    assert (texts.length(stages, rows), texts.length_in_short(stages, rows), texts.kept(stages, rows)) == expected


def test_the_file_of_an_earlier_version_gets_its_strengths_from_the_recipe(tmp_path):
    metrics = HEADER + "1,1,,1,0.9,0.5,1\n2,1,,1,0.5,0.5,1\n3,2,0.1,1,0.7,0.5,3\n"
    run = run_of(tmp_path, SOLVED, TRAINED, metrics=metrics)
    assert [line.get("l2_strength") for line in read_history(run)] == pytest.approx([100.0, 10.0, None])
    head, block = read_stages(run)
    assert (head.strengths, head.l2_strength, block.epochs) == (2, pytest.approx(10.0), 1)


def test_where_the_recipe_cannot_be_read_the_rows_are_as_they_are(tmp_path):
    run = run_of(tmp_path, SOLVED, metrics=HEADER + "1,1,,1,0.9,0.5,1\n")
    run.file("recipe.yaml").write_text("name: small\n")
    assert [line.get("l2_strength") for line in read_history(run)] == [None]
    assert read_stages(run) == ()
    run.file("recipe.yaml").unlink()
    assert len(read_history(run)) == 1 and read_stages(run) == ()


@pytest.mark.parametrize("metrics", ["epoch\n1\n", HEADER + "1,1,,1,,,\n", HEADER, ""])
def test_rows_without_values_have_no_stages_or_whole_ones(tmp_path, metrics):
    run = run_of(tmp_path, SOLVED, metrics=metrics)
    assert read_stages(run) == ()
    assert isinstance(read_history(run), list)


def test_a_cell_that_is_no_number_names_the_file(tmp_path):
    run = run_of(tmp_path, SOLVED, metrics=HEADER + "1,1,,low,0.9,0.5,1\n")
    with pytest.raises(RunStateError, match=r"metrics\.csv"):
        read_history(run)
    assert read_stages(run) == ()


def test_means_over_seeds():
    first = (StageResult(part="head", strengths=5, l2_strength=10.0, seconds=1.0),)
    other = (StageResult(part="head", strengths=8, l2_strength=1.0, seconds=2.0),)
    [mean] = over_runs([first, other])
    assert (mean.strengths, mean.epochs, mean.l2_strength, mean.seconds) == (6.5, None, None, 1.5)
    assert over_runs([first, first])[0].l2_strength == 10.0
    assert over_runs([first, ()]) == ()
    assert texts.length([mean], 6.5) == "6.5 L2 strengths"
