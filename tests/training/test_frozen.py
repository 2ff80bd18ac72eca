"""Outputs of frozen blocks are computed once, and results do not change."""

import csv
import json
import re
import shlex
import shutil
import signal
import sys
from collections import Counter

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import loupe
from child_processes import Killed
from loupe.augment.pipeline import evaluation_view
from loupe.config.network import BackboneSpec, CnnSpec
from loupe.config.optimizer import Logistic
from loupe.config.overrides import override
from loupe.config.recipe import AugmentSpec, Preprocessing, Recipe, Stage
from loupe.config.resolved import ResolvedStage
from loupe.data import array_file
from loupe.data.array_file import ArrayRecord
from loupe.data.pixels.read_ahead import cut
from loupe.errors import InterruptedRunError, LoupeError, StoppedError
from loupe.evaluate.history import read_history
from loupe.models.cnn import cnn
from loupe.models.layers import Flatten
from loupe.models.timm import backbones
from loupe.recipes import catalog
from loupe.runs import finalize
from loupe.training import activation_file, activation_loader, activations, frozen
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import FrozenPass
from loupe.training.strengths import next_strength

pytestmark = pytest.mark.usefixtures("bare")
ALL = {"epochs": 1, "batch_size": 32, "lr": 3e-3}
SHIFTS = {"width_shift": 0.1, "height_shift": 0.1}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def computed(monkeypatch):
    """How many images have gone through frozen blocks."""
    counts: Counter[str] = Counter()
    compute = FrozenPass._computed

    def counted(self, rows_N, view):
        for made in compute(self, rows_N, view):
            counts["images"] += len(made)
            yield made

    monkeypatch.setattr(FrozenPass, "_computed", counted)
    return counts


def digits(images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:images] * 15.9375).astype(np.uint8), bunch.target[:images]


def trained(tmp_path, name: str, *stages: dict, **settings: object):
    return loupe.train(
        digits(),
        recipe="digits",
        settings={"stages": [ALL, *stages], "precision": "fp32", **settings},
        output=tmp_path,
        name=name,
        device="cpu",
        quiet=True,
    )


def logits(run) -> np.ndarray:
    return run.predict_proba(digits(60)[0])


def history(run) -> list[str]:
    return [line.split(",")[:7] for line in (run.path / "metrics.csv").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["head", "last-block"])
def test_as_many_views_as_epochs_train_as_fresh_ones_do(tmp_path, part):
    """To the rounding of what is kept: float32 of vectors and float16 of maps; the head is trained on maps here."""
    stage = {"epochs": 3, "part": part, "batch_size": 32, "lr": 1e-4, "augment": SHIFTS}
    cached = trained(tmp_path, "cached", {**stage, "views": 3})
    fresh = trained(tmp_path, "fresh", {**stage, "views": "fresh"})
    np.testing.assert_allclose(logits(cached), logits(fresh), atol=5e-3)
    assert (logits(cached).argmax(1) == logits(fresh).argmax(1)).mean() >= 0.98
    assert "views are fresh" in (fresh.path / "train.log").read_text()


def test_views_take_turns(tmp_path, computed):
    run = trained(tmp_path, "two", {"epochs": 6, "part": "head", "batch_size": 32, "augment": SHIFTS, "views": 2})
    assert (run.path / "train.log").read_text().count("augmented view") == 1, "the first of them tells of both"
    sample = frozen.PASS_BATCH
    assert computed["images"] == 60 + sample + 2 * 240, "none of those that train as evaluation sees them"


def test_test_images_wait_for_the_last_stage(tmp_path, computed):
    """Where all images have been computed before, those are taken."""
    stages = [{"epochs": 1, "part": "head", "batch_size": 32}] * 2
    first = trained(tmp_path, "first", *stages)
    images, sample = first.results.images, frozen.PASS_BATCH
    learnt_from = images.train + images.val
    assert images.test
    assert computed["images"] == learnt_from + learnt_from + images.test + 2 * sample
    trained(tmp_path, "again", *stages)
    assert computed["images"] == learnt_from + learnt_from + images.test + 2 * sample, "nothing new"


def test_views_share_one_budget_of_the_device():
    views = [np.zeros(size, np.float32) for size in (10, 30, 15)]
    placed = activation_loader.on_device(views, torch.device("meta"), room_bytes=100)
    assert [rows.device.type for rows in placed] == ["meta", "cpu", "meta"]


def test_frozen_blocks_keep_weights_and_statistics_to_the_bit(tmp_path):
    before = trained(tmp_path, "before", keep="last").model.trunk[0].state_dict()
    after = trained(tmp_path, "after", {"epochs": 2, "part": "last-block", "batch_size": 32}, keep="last").model
    assert all(torch.equal(value, before[name]) for name, value in after.trunk[0].state_dict().items())


def test_another_run_with_the_same_key_computes_nothing(tmp_path, computed, monkeypatch):
    stage = {"epochs": 2, "part": "head", "batch_size": 32, "augment": SHIFTS}
    one = trained(tmp_path, "one", stage)
    images = computed["images"]
    monkeypatch.setattr("loupe.training.activations.seconds_of", lambda place: 1000.0)  # what computing them took
    two = trained(tmp_path, "two", {**stage, "lr": 1e-2})
    assert computed["images"] == images > 0
    found = two.results.seconds
    assert found.frozen < 1000 <= found.frozen_alone, "as if it had computed them itself"
    assert not np.array_equal(logits(one), logits(two)), "it did train otherwise"
    trained(tmp_path, "three", stage, seed=1)
    assert computed["images"] > images, "another seed has other weights, and other views"


def test_of_activations_that_were_kept_without_their_time_the_time_is_unknown(tmp_path):
    for name in ("known", "unknown"):
        (tmp_path / name).mkdir()
    record = ArrayRecord(shape=(2, 3), dtype="<f4", rows=2, checksums=(1,), seconds=2.5)
    record.write(tmp_path / "known" / array_file.RECORD)
    found = FrozenPass(*[None] * 8)
    for name, spent in (("known", 2.5), ("known", 5.0), ("unknown", None), ("known", None)):
        found._add_seconds(tmp_path / name)
        assert found.computed_seconds == spent


def test_a_time_that_is_not_the_one_recorded_is_unknown(tmp_path):
    ArrayRecord(shape=(2, 3), dtype="<f4", rows=2, checksums=(1,), seconds=2.5).write(tmp_path / array_file.RECORD)
    assert frozen.activations.seconds_of(tmp_path) == 2.5
    file = tmp_path / array_file.RECORD
    file.write_text(file.read_text().replace("2.5", "6.5"))
    assert frozen.activations.seconds_of(tmp_path) is None


@pytest.mark.slow
def test_the_model_predicts_from_raw_images_what_it_was_evaluated_at(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "openvino")  # what it was evaluated on is OpenVINO's where that is installed
    run = trained(tmp_path, "run", {"epochs": 2, "part": "last-block", "batch_size": 32})
    evaluated = run.evaluate("val", digits())
    kept = run.results.validation
    assert evaluated.accuracy.value == kept.accuracy.value
    assert evaluated.log_loss.value == pytest.approx(kept.log_loss.value, abs=1e-3)


def test_a_stage_after_logistic_regression_begins_with_the_penalty_that_validation_chose(tmp_path):
    solved = {"epochs": 7, "part": "head", "optimizer": {"name": "logistic", "strongest": 1e4, "weakest": 1e-4}}
    still = {"epochs": 1, "part": "head", "lr": 1e-9, "batch_size": 32}
    run = trained(tmp_path, "run", solved, still, monitor="val_accuracy", keep="last")
    rows = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()]
    loss, accuracy = rows[0].index("val_loss"), rows[0].index("val_accuracy")
    tried = [row for row in rows[1:] if row[1] == "2"]
    best = max(tried, key=lambda row: (float(row[accuracy]), -float(row[loss])))
    assert float(rows[-1][loss]) == pytest.approx(float(best[loss]), rel=1e-4)
    first = max(tried, key=lambda row: float(row[accuracy]))
    assert float(best[loss]) < 0.1 * float(first[loss]), "not the first of equally accurate ones"


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [4, "auto"])
def test_logistic_regression_can_be_stopped_and_ends_with_the_same_bits(tmp_path, monkeypatch, epochs):
    from loupe.training import solver

    stage = {"epochs": epochs, "part": "head", "optimizer": "logistic"}
    whole = trained(tmp_path, "whole", stage)
    solve = solver.Solver.solve

    def stopping(self, strength_S):
        if len(strength_S) == 3:
            monkeypatch.setattr(solver.Solver, "solve", solve)
            raise KeyboardInterrupt
        return solve(self, strength_S)

    def told_at_the_last(self, strength_S):
        if len(strength_S) == 4:
            signal.raise_signal(signal.SIGINT)
        return solve(self, strength_S)

    monkeypatch.setattr(solver.Solver, "solve", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "cut", stage)
    monkeypatch.setattr(solver.Solver, "solve", told_at_the_last)
    with pytest.raises(LoupeError, match="stopped and saved"):
        loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)
    monkeypatch.setattr(solver.Solver, "solve", solve)
    resumed = loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)
    assert history(resumed) == history(whole)
    np.testing.assert_array_equal(logits(resumed), logits(whole))


def test_features_that_do_not_fit_in_memory_are_refused_with_settings_that_do(monkeypatch):
    from loupe.training import solver

    network = CnnSpec(name="tiny", blocks=())
    stage = Stage(epochs=2, part="head", optimizer=Logistic(), augment=AugmentSpec(width_shift=0.1), views=2)
    recipe = Recipe(name="tiny", model=network, stages=(Stage(epochs=1), stage))
    model, images = cnn(network, Preprocessing(size_px=8, load_px=8), tuple("0123456789"), seed=0), 1_000_000
    needed = 2 * 4 * images * (solver.logits_layer(model).in_features + solver.FLOATS_BESIDE)
    monkeypatch.setattr(solver, "free_bytes", lambda: needed)
    solver.check_memory(model, ResolvedStage.of(stage), 1, images)
    monkeypatch.setattr(solver, "free_bytes", lambda: needed - 1)
    with pytest.raises(LoupeError, match="1,000,000 training images in memory, in 2 views") as refused:
        solver.check_memory(model, ResolvedStage.of(stage), 1, images)
    settings = re.findall(r"--set (\S+?)\)", str(refused.value))
    assert settings == ["stages.1.views=1", "stages.1.optimizer=adamw"]
    for setting in settings:
        changed = override(recipe, [setting]).stages[1]
        if isinstance(changed.optimizer, Logistic):
            solver.check_memory(model, ResolvedStage.of(changed), 1, images)
    monkeypatch.setattr(solver, "free_bytes", lambda: needed // 2 - 1)
    with pytest.raises(LoupeError, match="Set an optimizer that takes steps"):
        solver.check_memory(model, ResolvedStage.of(stage), 1, images)


def killed(*args, **kwargs):
    raise Killed


def assert_same_bits(resumed, whole):
    """Weights, curves, predictions, and what a later resumption would go on from."""
    assert history(resumed) == history(whole)
    model, predictions = "model/weights.safetensors", "predictions.csv"
    for name in (model, predictions):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    mine, theirs = (Checkpoints(run.path / "checkpoints").load_last() for run in (resumed, whole))
    for group, tensors in theirs.tensors.items():
        assert all(torch.equal(mine.tensors[group][name], value) for name, value in tensors.items()), group


# The first penalty is the best: a stop after it leaves a checkpoint that knows of weights that are not saved yet.
SOLVED = {"epochs": 4, "part": "head", "optimizer": {"name": "logistic", "strongest": 1e-2, "weakest": 1e4}}


def resumed_after(error: type[BaseException], tmp_path, monkeypatch, *patch):
    """Goes on with the run `cut`, which ends in the error where the patch has it end."""
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(*patch)
        loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)


@pytest.mark.slow
def test_logistic_regression_that_is_cut_off_at_its_end_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Stopped among the penalties, killed between the saves at the end of the stage, killed in the evaluation."""
    from loupe.training.loop import Trainer

    whole = trained(tmp_path, "whole", SOLVED)
    best, solve = whole.results.best_epoch, Trainer.solve_stage
    assert best == ALL["epochs"] + 1

    def stopping(self, solver):
        if len(self.state.history) == best:
            self.stop.request()
        return solve(self, solver)

    with monkeypatch.context() as patched, pytest.raises(InterruptedRunError):
        patched.setattr(Trainer, "solve_stage", stopping)
        trained(tmp_path, "cut", SOLVED)
    resumed_after(Killed, tmp_path, monkeypatch, Checkpoints, "save_last", killed)
    assert (tmp_path / "cut" / "checkpoints" / "best" / f"epoch-{best:08d}").is_dir()
    resumed_after(Killed, tmp_path, monkeypatch, "loupe.runs.finalize.metrics.evaluate", killed)
    assert_same_bits(loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True), whole)


@pytest.mark.slow
def test_a_run_stopped_in_the_frozen_pass_after_logistic_regression_goes_on_bit_for_bit(tmp_path, monkeypatch):
    tuned = {"epochs": 1, "part": "last-block", "batch_size": 32, "augment": SHIFTS, "views": 1}
    whole = trained(tmp_path, "whole", SOLVED, tuned)
    shutil.rmtree(tmp_path / "cache" / "frozen")

    def stopped(self, *args):
        raise StoppedError("stopped")

    with monkeypatch.context() as patched, pytest.raises(InterruptedRunError, match="--resume"):
        patched.setattr(FrozenPass, "augmented", stopped)
        trained(tmp_path, "cut", SOLVED, tuned)
    assert_same_bits(loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True), whole)


def test_strengths_go_on_until_the_loss_has_risen_and_the_lowest_loss_selects_whatever_is_monitored(tmp_path):
    open_ended = {"epochs": "auto", "part": "head", "optimizer": {"name": "logistic", "weakest": 0.01}}
    still = {"epochs": 1, "part": "head", "lr": 1e-9, "batch_size": 32}
    run = trained(tmp_path, "run", open_ended, still, monitor="val_accuracy", keep="last")
    rows = [row for row in read_history(run.directory) if row["stage"] == 2]
    losses = {row["l2_strength"]: row["val_loss"] for row in rows}
    lowest = min(losses, key=losses.get)
    assert run.results.stages[1].l2_strength == lowest and run.results.stages[1].strengths == len(losses)
    tried = list(losses.items())
    assert next_strength(tried, Logistic(weakest=0.01)) is None
    assert all(next_strength(tried[:n], Logistic(weakest=0.01)) == tried[n][0] for n in range(len(tried)))
    assert read_history(run.directory)[-1]["val_loss"] == pytest.approx(losses[lowest], rel=1e-4)


def test_without_validation_images_out_of_fold_predictions_select_the_strength(tmp_path):
    open_ended = {"epochs": "auto", "part": "head", "optimizer": {"name": "logistic", "weakest": 1.0}}
    run = trained(tmp_path, "none", open_ended, **{"split.validation": 0})
    [row] = [row for row in read_history(run.directory) if row["stage"] == 2]
    assert 1.0 <= row["l2_strength"] < 1e4 and row["val_loss"] is None
    assert run.results.best_epoch == row["epoch"]
    assert "out-of-fold predictions of the" in (run.path / "train.log").read_text()


def test_penalties_without_validation_images_cannot_be_chosen_among(tmp_path):
    stage = {"epochs": 4, "part": "head", "optimizer": "logistic"}
    with pytest.raises(LoupeError, match="choice of an L2 strength"):
        trained(tmp_path, "none", stage, **{"split.validation": 0})


def test_mixed_images_are_computed_anew_and_it_is_said(tmp_path, computed):
    run = trained(tmp_path, "mix", {"epochs": 1, "part": "head", "batch_size": 32, "augment": {"mixup_alpha": 0.2}})
    assert computed["images"] == 60 + frozen.PASS_BATCH, "validation has the same images in every epoch"
    assert "cannot be cached" in (run.path / "train.log").read_text()


@pytest.mark.slow
def test_a_full_disk_falls_back_to_computing_anew_and_says_so(tmp_path, monkeypatch):
    """And gives the same: the views take their turns."""
    stage = {"epochs": 4, "part": "head", "batch_size": 32, "lr": 1e-4, "augment": SHIFTS, "views": 2}
    kept = trained(tmp_path, "kept", stage)
    shutil.rmtree(tmp_path / "cache")
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(frozen.shutil, "disk_usage", lambda path: usage)
    run = trained(tmp_path, "full", stage)
    assert "run in every epoch. Set LOUPE_CACHE" in (run.path / "train.log").read_text()
    np.testing.assert_allclose(logits(run), logits(kept), atol=5e-3)


def test_a_run_stopped_while_a_frozen_stage_trains_goes_on_bit_for_bit(tmp_path, monkeypatch):
    from loupe.training import loop

    stage = {"epochs": 3, "part": "last-block", "batch_size": 32, "augment": SHIFTS, "views": 2}
    whole = trained(tmp_path, "whole", stage)
    train_step = loop.TrainStep.step

    def stopping(self, *batches, **where):
        if where["epoch"] == 2 and where["step"] == 2:
            monkeypatch.setattr(loop.TrainStep, "step", train_step)
            raise KeyboardInterrupt
        return train_step(self, *batches, **where)

    monkeypatch.setattr(loop.TrainStep, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "cut", stage)
    resumed = loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)
    assert history(resumed) == history(whole)
    np.testing.assert_array_equal(logits(resumed), logits(whole))


@pytest.mark.slow
def test_a_run_goes_on_though_its_weights_file_is_gone(tmp_path, monkeypatch):
    from loupe.training import loop

    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    options = {
        "recipe": "features-augment",
        "model": "test_resnet",
        "weights": str(file),
        "settings": {
            **{"input.size_px": 32, "input.load_px": 32},
            **{"stages.0.optimizer": "adam", "stages.0.epochs": 2, "stages.0.views": 1},
        },
        **{"output": tmp_path, "device": "cpu", "quiet": True},
    }
    whole = loupe.train(digits(), name="whole", **options)

    def killed(position, stages):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "epoch_line", killed)
        loupe.train(digits(), name="cut", **options)
    file.unlink()
    resumed = loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)
    np.testing.assert_array_equal(logits(resumed), logits(whole))


@pytest.mark.slow
def test_a_pass_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, computed):
    compute = FrozenPass._rows

    def stopped_after(self, rows_N, view, dtype, number_M):
        for number, part in enumerate(compute(self, rows_N, view, dtype, number_M)):
            if number == 4 and number_M[0] == 0:
                raise StoppedError("stopped")
            yield part

    monkeypatch.setattr(FrozenPass, "_rows", stopped_after)
    monkeypatch.setattr(activation_file, "SYNC_EVERY_BYTES", 1)
    stage = {"epochs": 2, "part": "head", "batch_size": 32}
    with pytest.raises(InterruptedRunError, match="--resume"):
        trained(tmp_path, "cut", stage)
    before = computed["images"]
    resumed = loupe.runs.train.resume(tmp_path / "cut", digits(), quiet=True)
    batch = frozen.PASS_BATCH
    assert computed["images"] - before == batch + (300 - 4 * batch), "one sample, and what was missing"
    monkeypatch.setattr(FrozenPass, "_rows", compute)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(logits(resumed), logits(trained(tmp_path, "whole", stage)))


def test_rows_that_are_not_safe_are_made_again(tmp_path):
    """A process that is killed leaves a file with more than it marked; the rest of it is not trusted."""
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    asked: list[int] = []

    def killed(numbers):
        asked.append(numbers[0])
        yield rows[numbers[:3]]
        raise RuntimeError("killed")

    def whole(numbers):
        asked.append(numbers[0])
        yield from (rows[part] for part in cut(numbers, 3))

    def make(parts, every):
        activation_file.SYNC_EVERY_BYTES, old = every, activation_file.SYNC_EVERY_BYTES
        try:
            return activations.load_or_compute(tmp_path, "key", rows.shape, np.float32, parts, lambda: None, batch=3)
        finally:
            activation_file.SYNC_EVERY_BYTES = old

    with pytest.raises(RuntimeError):
        make(killed, 1)
    with (tmp_path / ".key" / "activations.npy").open("ab") as file:
        file.write(b"half a row")
    np.testing.assert_array_equal(make(whole, 1), rows)
    assert asked == [0, 3]
    make(killed, 1)
    assert asked == [0, 3], "what is whole is not made again"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".key.lock", "key"]


def test_activations_beyond_half_precision_are_kept_whole(tmp_path, monkeypatch):
    compute = FrozenPass._computed
    monkeypatch.setattr(FrozenPass, "_computed", lambda self, *what: (1e6 * made for made in compute(self, *what)))
    run = trained(tmp_path, "large", {"epochs": 1, "part": "last-block", "batch_size": 32, "lr": 1e-9})
    kept = next((tmp_path / "cache" / "frozen").glob("[!.]*"))
    assert np.load(kept / "activations.npy").dtype == np.float32
    assert json.loads((run.path / "results.json").read_text())["epochs"] == 2


def test_features_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    compute = FrozenPass._computed
    monkeypatch.setattr(FrozenPass, "_computed", lambda self, *what: (np.nan * made for made in compute(self, *what)))
    with pytest.raises(LoupeError, match="features that are not finite"):
        trained(tmp_path, "broken", {"epochs": 2, "part": "head", "optimizer": "logistic"})


def test_the_head_is_solved_to_convergence(tmp_path):
    """Against scikit-learn on the features that the trunk gives, and against many steps of L-BFGS on the objective."""
    stage = {"epochs": 1, "part": "head", "optimizer": {"name": "logistic", "strongest": 1.0, "weakest": 1.0}}
    run = trained(tmp_path, "solved", stage, keep="last")
    x, y = digits()
    split = {row["path"]: row["split"] for row in csv.DictReader((run.path / "split.csv").open())}
    train_N = np.array([part == "train" for part in split.values()])
    model = run.model
    with torch.no_grad():
        images = torch.from_numpy(x)[:, None].repeat(1, 3, 1, 1)
        inputs = evaluation_view(images.contiguous(memory_format=torch.channels_last), model.preprocessing)
        features = Flatten()(model.trunk(inputs))[torch.from_numpy(train_N)]
    labels = torch.from_numpy(y[train_N])
    logits = torch.nn.Linear(features.shape[1], 10)
    optimizer = torch.optim.LBFGS(logits.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(features), labels, reduction="sum")
        loss = loss + 0.5 * logits.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        expected = logits(features).softmax(1)
        found = model.head.logits(features).softmax(1)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_two_classes_are_solved_as_two_logits(tmp_path):
    x, y = digits(600)
    chosen = y < 2
    run = loupe.train(
        (x[chosen], y[chosen]),
        recipe="digits",
        settings={"stages": [ALL, {"epochs": 4, "part": "head", "optimizer": "logistic"}], "precision": "fp32"},
        output=tmp_path,
        name="two",
        device="cpu",
        quiet=True,
    )
    rows = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["1", "2", "2", "2", "2"]
    losses = [float(row[3]) for row in rows[2:]]
    assert losses == sorted(losses, reverse=True), "a weaker penalty fits the training images better"
    assert run.results.validation.accuracy.value > 0.9


def test_what_cannot_be_solved_is_refused(tmp_path):
    with pytest.raises(LoupeError, match="part head"):
        trained(tmp_path, "all", {"epochs": 2, "optimizer": "logistic"})
    hidden = {"model.hidden": [{"units": 8}]}
    with pytest.raises(LoupeError, match="1 hidden layer"):
        trained(tmp_path, "hidden", {"epochs": 2, "part": "head", "optimizer": "logistic"}, **hidden)


def test_what_was_computed_for_all_images_serves_those_that_do_not_train(tmp_path, computed):
    plain = {"epochs": 1, "part": "head", "batch_size": 32}
    trained(tmp_path, "plain", plain, **{"stages.0.lr": 1e-3})
    before = computed["images"]
    trained(tmp_path, "augmented", {**plain, "augment": SHIFTS, "views": 1}, **{"stages.0.lr": 1e-3})
    assert computed["images"] == before + 240 + frozen.PASS_BATCH, "those that are validated on are there"


def test_after_features_the_command_to_try_next_takes_the_same_network_and_pixels(tmp_path):
    pixels = {"input.size_px": 32, "input.load_px": 32, "input.std": [1, 1, 1], "input.resize": "squash"}
    run = loupe.train(
        digits(),
        recipe="features",
        model="test_resnet",
        weights="none",
        settings=pixels | {"stages.0.epochs": 1},
        output=tmp_path,
        device="cpu",
        quiet=True,
    )
    command = run.results.diagnosis.next
    words = shlex.split(command)
    assert words[:9] == [
        "loupe",
        "train",
        "DATA",
        "--recipe",
        "last-block",
        "--model",
        "test_resnet",
        "--weights",
        "none",
    ]
    again = override(catalog.recipe("last-block"), words[10::2])
    changed = again.input.model_dump(mode="json", exclude_defaults=True)
    given = {f"input.{name}": value for name, value in changed.items()}
    assert words[9::2] == ["--set"] * 4 and given == pixels


def test_the_command_to_try_next_says_what_the_network_would_not_settle_by_itself(tmp_path):
    network = BackboneSpec(backbone="test_resnet", weights="none")
    own = backbones.preprocessing(network)
    assert finalize.input_settings(network, own) == []
    larger = own.model_copy(update={"size_px": own.load_px})
    assert finalize.input_settings(network, larger) == [f"input.size_px={own.load_px}", f"input.load_px={own.load_px}"]
    (tmp_path / "config.json").write_text("{")
    gone = BackboneSpec(backbone="test_resnet", weights=f"local-dir:{tmp_path}")
    told = {setting.partition("=")[0] for setting in finalize.input_settings(gone, own)}
    assert told == {f"input.{name}" for name, value in own.model_dump().items() if value is not None}


@pytest.mark.parametrize(("weights", "says"), [("no.safetensors", "no such file"), ("other.safetensors", "not the w")])
def test_weights_that_cannot_be_had_are_refused_before_images_are_decoded_and_a_run_is_begun(tmp_path, weights, says):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(LoupeError, match=says):
        loupe.train(
            digits(),
            recipe="features",
            model="test_resnet",
            weights=str(tmp_path / weights),
            output=tmp_path / "runs",
            device="cpu",
            quiet=True,
        )
    assert not list((tmp_path / "runs").glob("*")) and not (tmp_path / "cache" / "pixels").exists()


def test_without_validation_and_test_images_an_augmented_stage_trains(tmp_path, computed):
    stage = {"epochs": 1, "part": "head", "batch_size": 32, "augment": SHIFTS}
    run = trained(tmp_path, "all", stage, **{"split.validation": 0, "split.test": 0})
    assert run.results.epochs == 2
    assert computed["images"] == 300 + frozen.PASS_BATCH


@pytest.mark.slow
def test_damaged_activations_are_computed_again_to_the_same_bits(tmp_path, computed, caplog):
    caplog.set_level("INFO", "loupe")
    stage = {"epochs": 1, "part": "head", "batch_size": 32}
    whole = logits(trained(tmp_path, "whole", stage))
    [file] = (tmp_path / "cache" / "frozen").glob("[!.]*/activations.npy")
    kept, good = np.load(file), file.read_bytes()
    random = np.random.default_rng(0)
    changed = {
        "zeros": np.where(np.arange(kept.size).reshape(kept.shape) < kept.size // 2, 0, kept),
        "signs": np.where(random.random(kept.shape) < 0.05, -kept, kept),
        "swapped": kept[[1, 0, *range(2, len(kept))]],
        "shape": kept[:, :1],
        "transposed": kept.reshape(len(kept), -1, kept.shape[1]),
    }
    for damage in (*changed, "short", "no checksums"):
        images = computed["images"]
        if damage in changed:
            np.save(file, changed[damage].astype(kept.dtype))
        elif damage == "short":
            file.write_bytes(good[:-1])
        else:
            (file.parent / "array.json").unlink()
        caplog.clear()
        np.testing.assert_array_equal(logits(trained(tmp_path, damage, stage)), whole, err_msg=damage)
        assert computed["images"] > images and file.read_bytes() == good, damage
        assert caplog.text.count("computed again") == 1, damage


def test_activations_begun_and_damaged_are_computed_from_the_first_on(tmp_path):
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)

    def stopped(numbers):
        yield rows[:3]
        raise RuntimeError

    def whole(numbers):
        asked.append(numbers[0])
        yield from (rows[part] for part in cut(numbers, 3))

    def made(key, parts):
        return activations.load_or_compute(tmp_path, key, rows.shape, np.float32, parts, lambda: None, batch=3)

    for change, begins in ((b"", 3), (b"x", 0)):
        asked: list[int] = []
        key = f"key{begins}"
        with pytest.raises(RuntimeError):
            made(key, stopped)
        file = tmp_path / f".{key}" / "activations.npy"
        data = file.read_bytes()
        file.write_bytes(data[: len(data) - len(change)] + change)
        np.testing.assert_array_equal(made(key, whole), rows)
        assert asked == [begins]
