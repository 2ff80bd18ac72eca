"""A save may be cut off anywhere: there is always a checkpoint to load, and it is the last that was whole."""

import gc
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from child_processes import Killed, start
from loupe.errors import LoupeError
from loupe.training import checkpoint
from loupe.training.checkpoint import Checkpoints, DamagedError, Snapshot, read, write


def snapshot(step: int) -> Snapshot:
    weights = {"w": torch.full((64,), float(step)), "n": torch.tensor(step)}
    return Snapshot({"weights": weights, "optimizer": {"0.step": torch.tensor(float(step))}}, {"step": step})


def test_what_is_written_is_read_to_the_bit(tmp_path):
    tensors = {
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
    }
    write(tmp_path / "a", Snapshot({"weights": tensors}, {"pi": 3.141592653589793, "text": "é"}))
    back = read(tmp_path / "a")
    assert back.values == {"pi": 3.141592653589793, "text": "é"}
    assert all(torch.equal(back.tensors["weights"][name], tensors[name]) for name in tensors)


def test_only_safetensors_and_json_are_written(tmp_path):
    write(tmp_path / "a", snapshot(1))
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("victim", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_a_damaged_last_one_falls_back_to_the_one_before(tmp_path, victim, damage, caplog):
    saved = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        saved.save_last(snapshot(step))
    path = tmp_path / "last" / "save-00000003" / victim
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    found = saved.load_last()
    assert found is not None
    assert found.values["step"] == 2
    assert "save-00000003" in caplog.text
    saved.save_last(snapshot(4))
    kept = sorted(path.name for path in (tmp_path / "last").iterdir())
    assert kept == ["save-00000002", "save-00000003"], "the damaged one is gone and the good one before is kept"


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save_last(snapshot(1))
    (tmp_path / "last" / "save-00000001" / "state.json").write_text("{}")
    with pytest.raises(LoupeError, match="every checkpoint is damaged"):
        saved.load_last()


def test_the_newest_two_are_kept_and_cut_off_writes_are_cleared(tmp_path):
    saved = Checkpoints(tmp_path)
    assert saved.load_last() is None
    (tmp_path / "last" / ".save-00000001.99.part").mkdir(parents=True)
    for step in (1, 2, 3):
        saved.save_last(snapshot(step))
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["save-00000002", "save-00000003"]


def test_bests_that_a_resumed_run_has_not_come_to_are_forgotten(tmp_path):
    saved = Checkpoints(tmp_path)
    for epoch in (2, 5):
        saved.save_best(epoch, {"w": torch.tensor([float(epoch)])})
    saved.forget_bests_after(3)
    assert saved.load_best(2)["w"].item() == 2
    with pytest.raises(LoupeError, match="damaged"):
        saved.load_best(5)


def test_the_best_weights_of_an_epoch_are_saved_once_and_again_only_where_they_are_damaged(tmp_path):
    """A stage that is resumed at its end saves them again."""
    saved, path = Checkpoints(tmp_path), tmp_path / "best" / "epoch-00000002"
    saved.save_best(2, {"w": torch.tensor([2.0])})
    written = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    saved.save_best(2, {"w": torch.tensor([2.0])})
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == written
    for victim in ("state.json", "weights.safetensors"):
        (path / victim).write_bytes(b"")
        saved.save_best(2, {"w": torch.tensor([2.0])})
        assert saved.load_best(2)["w"].item() == 2
    assert [folder.name for folder in (tmp_path / "best").iterdir()] == [path.name]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path)
    saved.save_last(snapshot(1))

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        saved.save_last(snapshot(2))
    found = saved.load_last()
    assert found is not None
    assert found.values["step"] == 1


def test_killed_at_every_boundary_of_a_save_there_is_a_whole_checkpoint(tmp_path, monkeypatch):
    """Fault injection: the n-th file-system call of a save never returns, for every n."""
    names = [(os, "fsync"), (os, "open"), (Path, "rename"), (Path, "mkdir"), (Path, "open"), (shutil, "rmtree")]
    originals = {(owner, name): getattr(owner, name) for owner, name in names}
    gc.collect()  # folders that other tests left behind are not to be removed in the midst of a save
    boundaries = 0
    for after in (False, True):
        for fatal in range(200):
            folder = tmp_path / f"{after}-{fatal}"
            saved = Checkpoints(folder)
            saved.save_last(snapshot(1))
            saved.save_last(snapshot(2))
            calls = iter(range(10_000))

            def fault(original, fatal=fatal, calls=calls, after=after):
                def call(*args, **kwargs):
                    mine = next(calls)
                    if mine == fatal and not after:
                        raise Killed
                    result = original(*args, **kwargs)
                    if mine == fatal:
                        raise Killed
                    return result

                return call

            for (owner, name), original in originals.items():
                monkeypatch.setattr(owner, name, fault(original))
            try:
                saved.save_last(snapshot(3))
                done = True
            except Killed:
                done = False
            monkeypatch.undo()
            if done:
                break
            found = saved.load_last()
            assert found is not None
            assert found.values["step"] in (2, 3)
            assert found.tensors["weights"]["n"].item() == found.values["step"]
            saved.save_last(snapshot(3))
            assert saved.load_last().values["step"] == 3
            boundaries += 1
    assert boundaries >= 20, "the faults must really have hit the save"


SAVES = """
import os, shutil, sys
from pathlib import Path
import torch
from child_processes import kill_at_call
from loupe.training.checkpoint import Checkpoints, Snapshot
torch.set_num_threads(1)  # threads do not survive a fork
os.fsync = os.fstat  # a process that is killed loses nothing that it has written, unlike a machine without power

def save(saved, step):
    weights = {"w": torch.full((64,), float(step)), "n": torch.tensor(step)}
    saved.save_best(step, weights)
    saved.save_last(Snapshot({"weights": weights}, {"step": step}))

calls = [(os, "fsync"), (os, "open"), (Path, "rename"), (Path, "mkdir"), (Path, "open"), (shutil, "rmtree")]
for number in range(1, 200):
    child = os.fork()
    if not child:
        saved = Checkpoints(Path(sys.argv[1]) / str(number))
        save(saved, 1)
        save(saved, 2)
        kill_at_call(calls, number)
        save(saved, 3)
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each save takes a process of its own, forked to be quick")
def test_killed_by_the_signal_at_any_call_of_a_save_there_is_a_whole_checkpoint(tmp_path):
    """The n-th file-system call of saving the best and the last weights kills the process, for every n."""
    saves = start(SAVES, tmp_path)
    saves.communicate(timeout=120)
    assert saves.returncode == 0
    steps = []
    for number in range(1, len(list(tmp_path.iterdir())) + 1):
        saved = Checkpoints(tmp_path / str(number))
        found = saved.load_last()
        steps.append(found.values["step"])
        assert found.tensors["weights"]["n"].item() == steps[-1]
        assert saved.load_best(steps[-1])["w"].tolist() == [float(steps[-1])] * 64
    assert len(steps) >= 20, "the kills must really have hit the save"
    assert steps == sorted(steps) and set(steps) == {2, 3}


def test_a_checkpoint_that_is_no_checkpoint_is_damaged(tmp_path):
    for text in ("", "[]", "{}", json.dumps({"digest": "x", "body": "{}"}), json.dumps({"digest": 3, "body": 4})):
        folder = tmp_path / str(abs(hash(text)))
        folder.mkdir()
        (folder / "state.json").write_text(text)
        with pytest.raises(DamagedError):
            read(folder)
