"""A run that is killed and resumed ends, to the bit, where the undisturbed run ends."""

import shutil
import signal
import weakref
from pathlib import Path

import pytest
import safetensors.torch
import torch

import loupe
from builders import save_photos
from child_processes import Killed, start, was_killed
from loupe.errors import DataError, DiskError, RunStateError
from loupe.provenance import RunEnvironment
from loupe.rundir import RunDirectory, list_runs
from loupe.runs import finalize
from loupe.runs.diff import differences
from loupe.runs.session import Session
from loupe.training import checkpoint, loop
from loupe.training.checkpoint import Checkpoints
from loupe.training.loop import Trainer
from loupe.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("bare")
# Dropout, mixup, cutmix, averaged weights, whitening, two stages, two optimizers: all that could lose its place.
SETTINGS = {
    "model.whitening_px": 2,
    "stages": [
        {
            **{"epochs": 2, "batch_size": 64, "lr": 0.005, "ema_decay": 0.9, "weight_decay": 0.01},
            "schedule": "one-cycle",
            "augment": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "rotation_degrees": 10, "cutout_px": 2},
        },
        {
            **{"epochs": 2, "batch_size": 128, "lr": 0.01, "optimizer": "sgd"},
            "schedule": {"name": "plateau", "patience_epochs": 1},
        },
    ],
    "split.validation": 0.1,
    "split.test": 0.6,
}


def begin(folder: Path, name: str) -> loupe.Run:
    return loupe.train(
        "digits", settings=SETTINGS, precision="fp32", output=folder, name=name, device="cpu", seed=7, quiet=True
    )


def outcome(run: Path) -> dict:
    """All that must be equal, times apart."""
    last = Checkpoints(run / "checkpoints").load_last()
    history = [
        {key: value for key, value in row.items() if key not in {"seconds", "images_per_second"}}
        for row in last.values["position"]["history"]
    ]
    model = safetensors.torch.load_file(run / "model" / "weights.safetensors")
    predictions = (run / "predictions.csv").read_text()
    return {"tensors": {**last.tensors, "model": model}, "history": history, "predictions": predictions}


def assert_same(run: Path, reference: Path) -> None:
    mine, theirs = outcome(run), outcome(reference)
    assert mine["history"] == theirs["history"]
    assert mine["tensors"].keys() == theirs["tensors"].keys()
    for group, tensors in theirs["tensors"].items():
        assert tensors.keys() == mine["tensors"][group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(mine["tensors"][group][name], tensor), f"{group}/{name}"
    assert mine["predictions"] == theirs["predictions"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return begin(tmp_path_factory.mktemp("undisturbed"), "run").path


def die_at(monkeypatch, steps: int) -> None:
    """The process dies in the middle of that optimizer step, counted from now."""
    left = [steps]
    real = TrainStep.step

    def step(self, *args, **kwargs):
        left[0] -= 1
        result = real(self, *args, **kwargs)
        if left[0] < 0:
            raise Killed
        return result

    monkeypatch.setattr(TrainStep, "step", step)


@pytest.mark.parametrize(
    ("deaths", "save_every_seconds"),
    [
        ([3], 600.0),
        ([3], 0.0),
        pytest.param([25], 0.0, marks=pytest.mark.slow),
        pytest.param([2, 5, 1, 9, 6], 0.0, marks=pytest.mark.slow),
        pytest.param([11, 11, 3], 600.0, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_undisturbed(tmp_path, monkeypatch, undisturbed, deaths, save_every_seconds):
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", save_every_seconds)
    run = tmp_path / "run"
    for death in deaths:
        with monkeypatch.context() as patch:
            die_at(patch, death)
            try:
                loupe.resume(run, quiet=True) if run.exists() else begin(tmp_path, "run")
            except Killed:
                continue
    loupe.resume(run, quiet=True)
    assert_same(run, undisturbed)
    report = differences(RunDirectory(undisturbed), RunDirectory(run))
    assert report.same
    assert report.circumstances == (), "hashes and all else that was recorded stay through every resumption"


def test_a_stop_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, monkeypatch, undisturbed):
    real = TrainStep.step

    def step(self, *args, **kwargs):
        if kwargs["epoch"] == 1 and kwargs["step"] == 4:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "step", step)
        with pytest.raises(loupe.LoupeError, match="--resume"):
            begin(tmp_path, "run")
    position = Checkpoints(tmp_path / "run" / "checkpoints").load_last().values["position"]
    assert (position["epoch"], position["step"]) == (1, 5)
    load, train, read, held = Checkpoints.load_last, Trainer.train_epoch, [], []
    with monkeypatch.context() as patch:

        def watched(*args):
            read.append(weakref.ref(snapshot := load(*args)))
            return snapshot

        patch.setattr(Checkpoints, "load_last", watched)
        patch.setattr(Trainer, "train_epoch", lambda *args: (held.append(read[0]()), train(*args))[1])
        loupe.resume(tmp_path / "run", quiet=True)
    assert held == [None] * 3, "what was saved takes no memory once it is restored"
    assert_same(tmp_path / "run", undisturbed)


def test_a_finished_run_says_so_and_changes_nothing(undisturbed, capsys):
    (undisturbed / "report.html").touch()  # which the runs of these tests leave out
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    loupe.resume(undisturbed)
    assert "already finished" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_killed_after_the_last_epoch_only_the_evaluation_is_done_again(tmp_path, monkeypatch, undisturbed):
    from loupe.runs import finalize

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finalize.metrics, "evaluate", die)
        with pytest.raises(Killed):
            begin(tmp_path, "run")
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "step", die)
        loupe.resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_killed_before_it_is_set_up_a_run_leaves_its_name_free(tmp_path, monkeypatch, undisturbed):
    def die(*args):
        raise Killed

    for owner, function in ((RunEnvironment, "write"), (RunDirectory, "write_recipe")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, die)
            with pytest.raises(Killed):
                begin(tmp_path, "run")
        assert not list_runs(tmp_path)
        with pytest.raises(loupe.LoupeError):
            loupe.resume(tmp_path / "run", quiet=True)
    begin(tmp_path, "run")
    assert_same(tmp_path / "run", undisturbed)


def test_the_recipe_of_a_run_is_written_once_and_whole(tmp_path, monkeypatch):
    written, write = [], RunDirectory.write_recipe

    def watched(self, recipe):
        written.append(recipe)
        write(self, recipe)

    monkeypatch.setattr(RunDirectory, "write_recipe", watched)
    run = loupe.train("digits", epochs=1, output=tmp_path, name="run", device="cpu", quiet=True)
    [recipe] = written
    assert recipe == run.recipe
    assert recipe.preprocessing == run.model.preprocessing
    assert recipe.preprocessing.std != (1.0, 1.0, 1.0)
    assert "auto" not in {recipe.precision, recipe.frozen_precision, *(stage.views for stage in recipe.stages)}


def swapped(text: str) -> str:
    """A split file with its training and its test images swapped."""
    return text.replace(",train,", ",?,").replace(",test,", ",train,").replace(",?,", ",test,")


CHANGES = [
    ("split.csv", swapped),
    ("split.csv", lambda text: text.replace(",val,", ",train,", 1)),
    ("split.csv", lambda text: text.replace(",train,", ",,", 1)),
    ("recipe.yaml", lambda text: text.replace("epochs: 2", "epochs: 3", 1)),
    ("recipe.yaml", lambda text: text.replace("seed: 7", "seed: 8", 1)),
]


def test_a_split_or_a_recipe_that_was_changed_is_not_gone_on_with(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 3)
        with pytest.raises(Killed):
            begin(tmp_path, "run")
    for name, change in CHANGES:
        file = tmp_path / "run" / name
        text = file.read_text()
        assert change(text) != text
        file.write_text(change(text))
        with pytest.raises(RunStateError, match=f"{name} has changed"):
            loupe.resume(tmp_path / "run", quiet=True)
        file.write_bytes(text.replace("\n", "\r\n").encode())  # as an editor of another system may save it
    monkeypatch.setattr(Session, "run", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        loupe.resume(tmp_path / "run", quiet=True)


def test_a_finished_run_with_a_changed_split_is_not_evaluated(tmp_path, undisturbed):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "split.csv").write_text(swapped((run / "split.csv").read_text()))
    for data in (None, "digits"):
        with pytest.raises(RunStateError, match=r"split\.csv has changed"):
            loupe.load(run).evaluate("test", data)


def test_images_that_were_moved_are_asked_for(tmp_path, monkeypatch):
    photos = save_photos(tmp_path / "photos", ("cat", "dog"), 12)
    settings = {"epochs": 1, "device": "cpu", "output": tmp_path, "name": "run", "quiet": True}
    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            loupe.train(photos, recipe="small-images", **settings)
    moved = photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"no longer at {photos}.*loupe train DATA --resume"):
        loupe.resume(tmp_path / "run", quiet=True)
    run = loupe.resume(tmp_path / "run", moved, quiet=True)
    with pytest.raises(DataError, match=f"no longer at {photos}.*--data"):
        run.evaluate("val")
    assert run.evaluate("val", moved).images == run.results.images.val


@pytest.mark.slow
@pytest.mark.parametrize("why", [Killed(), OSError(28, "No space left on device")])
def test_killed_or_a_full_disk_before_the_report_it_is_drawn(tmp_path, monkeypatch, undisturbed, why, capsys):
    def fail(path):
        raise why

    with monkeypatch.context() as patch:
        patch.setattr(finalize.run_page, "write_page", fail)
        with pytest.raises((Killed, DiskError)) as failed:
            begin(tmp_path, "run")
    run = tmp_path / "run"
    if isinstance(failed.value, DiskError):
        assert f"loupe train --resume {run}" in str(failed.value)
    assert (run / "results.json").is_file() and not (run / "report.html").exists()
    monkeypatch.setattr(finalize.run_page, "write_page", lambda path: (path / "report.html").write_text("drawn"))
    loupe.resume(run)
    assert "report was missing" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "drawn"
    assert_same(run, undisturbed)


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(loupe.LoupeError, match="not a run"):
        begin(tmp_path, "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


TRAIN = """
import sys
from pathlib import Path
import test_resume
from child_processes import kill_at_call
from loupe.runs import finalize
from loupe.training import checkpoint, loop
from loupe.training.train_step import TrainStep
loop.SAVE_EVERY_SECONDS = 0.0
point, number = sys.argv[2:]
points = {
    "step": (TrainStep, "step"),
    "write": (checkpoint, "write_synced"),
    "sync": (checkpoint, "sync_folder"),
    "evaluate": (finalize.metrics, "evaluate"),
}
kill_at_call([points[point]], int(number))
test_resume.begin(Path(sys.argv[1]), "run")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "number"),
    [("write", 8), ("step", 12), ("sync", 5), ("evaluate", 1)],
)
def test_a_process_killed_by_the_signal(tmp_path, undisturbed, point, number):
    """The real thing: another process, which no handler can tidy up after."""
    assert was_killed(start(TRAIN, tmp_path, point, number, beside=Path(__file__)))
    loupe.resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_memory_and_then_disk_that_run_out_lose_nothing(tmp_path, monkeypatch, undisturbed):
    real, written = TrainStep.step, checkpoint.write_synced

    def greedy(self, *args, **kwargs):
        if kwargs["epoch"] == 1 and kwargs["step"] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return real(self, *args, **kwargs)

    def full(path, data):
        if "save-00000003" in str(path) and path.name == "optimizer.safetensors":
            path.write_bytes(data[:10])
            raise OSError(28, "No space left on device")
        written(path, data)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "step", greedy)
        with pytest.raises(loupe.LoupeError, match=rf"allocate 2.00 GiB.*--batch-size 64.*--resume {run}"):
            begin(tmp_path, "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_synced", full)
        with pytest.raises(loupe.LoupeError, match=rf"No space left.*Free space.*loupe train --resume {run}"):
            loupe.resume(run, quiet=True)
    kept = sorted(path.name for path in (run / "checkpoints" / "last").iterdir())
    assert kept == ["save-00000001", "save-00000002"], "what was half written is gone"
    loupe.resume(run, quiet=True)
    assert_same(run, undisturbed)


def test_a_run_in_use_is_not_written_by_a_second_process(undisturbed):
    from loupe.rundir import RunDirectory

    with (
        RunDirectory(undisturbed).locked(),
        pytest.raises(loupe.LoupeError, match="another process"),
        RunDirectory(undisturbed).locked(),
    ):
        pass


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real = TrainStep.step

    def step(self, *args, **kwargs):
        result = real(self, *args, **kwargs)
        return result * torch.nan if kwargs["epoch"] == 1 else result

    monkeypatch.setattr(TrainStep, "step", step)
    with pytest.raises(loop.DivergedError, match="--lr"):
        begin(tmp_path, "run")
    last = Checkpoints(tmp_path / "run" / "checkpoints").load_last()
    assert len(last.values["position"]["history"]) == 1
