"""Activations computed by several ranks: the file of one process, made once, and continued after a kill."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import rank_processes
from loupe import ranks
from loupe.augment.pipeline import Augmenter
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.store import RawStore
from loupe.devices import Compute, StopSignal
from loupe.errors import StoppedError
from loupe.models import engine
from loupe.models.build import build
from loupe.models.engine import Engines, TorchEngine
from loupe.training import activation_file, activations, frozen
from loupe.training.frozen import FrozenPass, trunk_key

IMAGES = 545  # 17 batches and one image, which joins the last
BLOCKS = ConvBlock(filters=(8,)), ConvBlock(filters=(16,))
CPU = torch.device("cpu")


def frozen_pass(folder, images=IMAGES):
    """Pass through the frozen blocks of a small network with random weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pixels = (load_digits().images[:images, :, :, None] * 15.9375).astype(np.uint8)
    network, settings = CnnSpec(name="cnn", blocks=BLOCKS), Preprocessing(size_px=8, load_px=8)
    model = build(network, settings, ("a", "b"), seed=0)
    model.learn("head")
    loader = BatchLoader(RawStore(np.repeat(pixels, 3, axis=3)), np.zeros(images, np.int64), CPU)
    content = tuple(str(k) for k in range(images))
    return FrozenPass(
        model, trunk_key(network), loader, content, Path(folder), Compute(CPU, "fp32"), StopSignal(), Engines()
    )


def by(library):
    """Run the frozen blocks in PyTorch in place of OpenVINO."""
    if library == "torch":
        engine.engine = lambda blocks, compute, *others: (TorchEngine(blocks, compute), "")


def digests(folder):
    """Digests of the activations of each key."""
    return {
        file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(folder).glob("*/activations.npy")
    }


def computed(joined, folder, library):
    """Called in each rank: evaluation and augmented views, and the number of images that went through the blocks."""
    by(library)
    passed, published = [], []
    rows, publish = FrozenPass._rows, activations._publish

    def counted(self, *given):
        for made in rows(self, *given):
            passed.append(len(made))
            yield made

    FrozenPass._rows = counted
    activations._publish = lambda *given: (published.append(given), publish(*given))
    it = frozen_pass(folder)
    it.evaluation(np.arange(IMAGES))
    it.augmented(Augmenter(AugmentSpec(width_shift=0.2), it.model.preprocessing, 0), range(2), np.arange(200))
    return [sum(passed), len(published), it.computed_seconds is not None]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "openvino"])
def test_ranks_compute_together_the_file_of_one_process(tmp_path, library):
    if library == "openvino":
        pytest.importorskip("openvino")
    for count in (1, 3):
        found = rank_processes.results(count, "test_shared_activations:computed", str(tmp_path / str(count)), library)
        assert sum(images for images, _, _ in found) == IMAGES + 2 * 200
        assert min(images for images, _, _ in found) > 0
        assert [made for _, made, _ in found] == [3] + [0] * (count - 1), "rank 0 alone makes files"
        assert all(timed for _, _, timed in found)
    assert digests(tmp_path / "1") == digests(tmp_path / "3")
    assert len(digests(tmp_path / "1")) == 3


def killed(joined, folder, rank):
    """Called in each rank: one is killed in the third round, the others end."""
    write = activation_file._write_part
    rounds = []

    def counted(*given):
        rounds.append(given)
        if len(rounds) == 3 and joined.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*given)

    activation_file._write_part = counted
    by("torch")
    try:
        frozen_pass(folder).evaluation(np.arange(IMAGES))
    except ranks.LostRankError:
        return "lost"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others_and_what_was_written_is_kept(tmp_path, rank):
    with rank_processes.calling(3, "test_shared_activations:killed", str(tmp_path / "cut"), rank) as called:
        ended = [each.end(120) for each in called]
    for number, (code, out, err) in enumerate(ended):
        assert code == (-signal.SIGKILL if number == rank else 0), err
        assert out.split() == ([] if number == rank else ['"lost"'])
    found = rank_processes.results(2, "test_shared_activations:computed", str(tmp_path / "cut"), "torch")
    total = sum(images for images, _, _ in found)
    assert total < IMAGES + 2 * 200 or rank == 0, "what was synced is not computed again"
    rank_processes.results(1, "test_shared_activations:computed", str(tmp_path / "whole"), "torch")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_two_commands_of_two_ranks_compute_activations_once(tmp_path):
    asked = (2, "test_shared_activations:computed", str(tmp_path), "torch")
    with rank_processes.calling(*asked) as one, rank_processes.calling(*asked) as other:
        ended = [each.end(120) for each in (*one, *other)]
    assert [code for code, _, _ in ended] == [0] * 4, ended
    found = [json.loads(out) for _, out, _ in ended]
    assert sum(made for _, made, _ in found) == 3
    assert sum(images for images, _, _ in found) == IMAGES + 2 * 200


def branches(joined, folder):
    """Called in each rank: errors and readings that are another on each rank."""
    by("torch")
    outcomes = []
    rows = FrozenPass._rows

    def too_large(self, rows_N, view, dtype, number_M):
        for made in rows(self, rows_N, view, dtype, number_M):
            if dtype is np.float16 and joined.rank == 1:
                raise frozen.HalfPrecisionError
            yield made

    def stopped(self, *given):
        for made in rows(self, *given):
            if joined.rank == 1:
                self.stop.request()
            yield made

    it = frozen_pass(Path(folder) / "half")
    it.model.learn("last-block")
    FrozenPass._rows = too_large
    outcomes.append(str(it.evaluation(np.arange(IMAGES)).views[0].dtype))
    FrozenPass._rows = stopped
    try:
        frozen_pass(Path(folder) / "stopped").evaluation(np.arange(IMAGES))
    except StoppedError:
        outcomes.append("stopped")
    FrozenPass._rows = rows
    frozen.SPARE_DISK_BYTES = 2**62 if joined.rank == 0 else 0
    outcomes.append(frozen_pass(Path(folder) / "full").evaluation(np.arange(IMAGES)) is None)
    frozen.SPARE_DISK_BYTES = 0
    if joined.rank == 1:
        activation_file._write_part = lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    outcomes.append(frozen_pass(Path(folder) / "unwritten").evaluation(np.arange(IMAGES)) is None)
    it = frozen_pass(Path(folder) / "other", IMAGES - joined.rank)
    try:
        it.evaluation(np.arange(IMAGES - joined.rank))
    except ranks.RanksDifferError:
        outcomes.append("differ")
    return outcomes


@pytest.mark.slow
def test_every_rank_takes_the_same_branch(tmp_path):
    expected = ["torch.float32", "stopped", True, True, "differ"]
    assert rank_processes.results(2, "test_shared_activations:branches", str(tmp_path)) == [expected] * 2


def on_two_machines(joined, folders):
    """Called in each rank: one machine has the activations, and the disk of the other is full."""
    by("torch")
    machine = joined.rank // 2
    frozen.SPARE_DISK_BYTES = 2**62 if machine else 0
    return frozen_pass(folders[machine]).evaluation(np.arange(IMAGES)) is None


@pytest.mark.slow
def test_machines_take_the_same_branch(tmp_path):
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert rank_processes.results(4, "test_shared_activations:on_two_machines", folders, machines=2) == [True] * 4
    assert len(digests(tmp_path / "a")) == 1
    assert not digests(tmp_path / "b")


def test_rounds_are_of_whole_batches_in_order():
    for images, batch, count, most in (
        (545, 32, 3, 9),
        (40, 32, 2, 1),
        (1, 32, 2, 4),
        (0, 32, 2, 4),
        (4097, 32, 4, 16),
    ):
        rounds = activation_file._rounds(np.arange(images), batch, most, count)
        parts = [part for parts in rounds for part in parts]
        assert np.array_equal(np.concatenate([*parts, np.empty(0, np.int64)]), np.arange(images))
        assert all(len(parts) == count for parts in rounds)
        assert all(part[0] % batch == 0 for part in parts if len(part))
        last = max((len(parts[0]) for parts in rounds), default=0)
        assert last <= max(1, most) * batch + 1
