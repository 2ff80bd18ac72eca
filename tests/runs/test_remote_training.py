"""A training on images elsewhere: the figures of those on this disk, also through a cache that is too small."""

import io
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

import loupe
from child_processes import killed_in_step
from loupe.data.pixels import prepare
from loupe.data.sources import datasets
from loupe.data.table import ImageTable
from loupe.errors import DataError
from loupe.provenance import environment_of
from loupe.report.run_page import write_page
from loupe.rundir import RunDirectory
from loupe.runs.train import resume
from rank_processes import started
from remote_stores import ObjectServer, running

pytestmark = [pytest.mark.usefixtures("bare"), pytest.mark.slow]
SHARDS, EACH = 10, 40
SETTINGS = {"stages.0.epochs": 2, "stages.0.batch_size": 64, "split.validation": 0.2, "split.test": 0.2}
MIXED = {**SETTINGS, "stages.0.augment.mixup_alpha": 0.4}


@pytest.fixture(scope="module")
def shards() -> dict[str, bytes]:
    """Digits as tars of PNG files."""
    table: ImageTable = datasets.load("digits")
    found = {}
    for shard in range(SHARDS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for i in range(shard * EACH, (shard + 1) * EACH):
                picture = io.BytesIO()
                Image.open(io.BytesIO(table.encoded(i))).save(picture, "PNG")
                for name, data in (("png", picture.getvalue()), ("cls", table.classes[table.labels[i]].encode())):
                    info = tarfile.TarInfo(f"{i:04}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        found[f"part-{shard:02}.tar"] = buffer.getvalue()
    return found


@pytest.fixture
def server(shards, monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "LOUPE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOUPE_SHARD_CACHE", "1GB")
    with running({f"/d/{name}": data for name, data in shards.items()}) as found:
        yield found


@pytest.fixture
def folder(shards, tmp_path) -> Path:
    (tmp_path / "d").mkdir()
    for name, data in shards.items():
        (tmp_path / "d" / name).write_bytes(data)
    return tmp_path / "d"


def begin(data: str | Path, output: Path, name: str, settings=SETTINGS) -> loupe.Run:
    return loupe.train(
        data, recipe="digits", settings=settings, precision="fp32", output=output, name=name, device="cpu", quiet=True
    )


def small_cache(monkeypatch, server: ObjectServer, shards: int) -> None:
    """Cache of a few shards, and images that are decoded in every epoch."""
    largest = max(len(data) for data in server.files.values())
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{shards * largest}B")
    monkeypatch.setattr(prepare, "default_budget", lambda: 0)


def assert_equal(run: Path, other: Path) -> None:
    for name in ("model/weights.safetensors",):
        mine, theirs = (safetensors.torch.load_file(folder / name) for folder in (run, other))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    texts = [(folder / "predictions.csv").read_text().replace("d/part", "part") for folder in (run, other)]
    assert texts[0] == texts[1]


def test_a_training_from_a_server_is_that_from_this_disk(server, folder, tmp_path):
    server.fault_rate = 0.05
    remote = begin(f"{server.url}/d/", tmp_path, "remote")
    local = begin(folder, tmp_path, "local")
    assert_equal(remote.path, local.path)
    recorded = environment_of(RunDirectory(remote.path))
    assert recorded.data == f"{server.url}/d/"
    assert len(recorded.versions) == SHARDS
    assert environment_of(RunDirectory(local.path)).versions == {}
    assert remote.results.test == local.results.test
    assert remote.evaluate("val").accuracy == local.evaluate("val").accuracy


def test_a_set_larger_than_the_cache_trains_in_windows_and_resumes_to_the_bit(server, tmp_path, monkeypatch):
    small_cache(monkeypatch, server, 4)
    whole = begin(f"{server.url}/d/", tmp_path, "whole", MIXED)
    window = RunDirectory(whole.path).read_recipe().shuffle_window
    assert isinstance(window, int) and window < SHARDS * EACH / 2
    with killed_in_step(6):
        begin(f"{server.url}/d/", tmp_path, "killed", MIXED)
    small_cache(monkeypatch, server, 7)  # another budget: the order was decided when the run began
    resumed = resume("killed", output=tmp_path, quiet=True)
    assert_equal(resumed.path, whole.path)


def test_the_same_window_on_this_disk_gives_the_same_weights(server, folder, tmp_path, monkeypatch):
    small_cache(monkeypatch, server, 4)
    remote = begin(f"{server.url}/d/", tmp_path, "remote")
    window = RunDirectory(remote.path).read_recipe().shuffle_window
    monkeypatch.undo()
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    local = begin(folder, tmp_path, "local", {**SETTINGS, "shuffle_window": window})
    assert_equal(remote.path, local.path)


def test_data_that_has_changed_is_refused_on_resume_and_for_evaluation(server, shards, tmp_path):
    with killed_in_step(6):
        begin(f"{server.url}/d/", tmp_path, "killed")
    begin(f"{server.url}/d/", tmp_path, "done")
    server.files["/d/part-03.tar"] = shards["part-04.tar"]
    with pytest.raises(DataError, match=r"part-03\.tar"):
        resume("killed", output=tmp_path, quiet=True)
    with pytest.raises(DataError, match=r"part-03\.tar"):
        loupe.load(tmp_path / "done").evaluate("val")
    server.files["/d/part-03.tar"] = shards["part-03.tar"]
    resume("killed", output=tmp_path, quiet=True)


def test_credentials_of_an_address_are_in_no_file_of_a_run_and_are_asked_for_on_resume(server, tmp_path, monkeypatch):
    secret = f"{server.url}/d/".replace("//", "//user:PASSWORD1@") + "?sig=SIGNATURE1"
    monkeypatch.setattr("sys.argv", ["loupe", "train", secret, "--name", "signed"])
    runs = tmp_path / "runs"
    done = begin(secret, runs, "signed")
    with killed_in_step(6):
        begin(secret, runs, "killed")
    write_page(done.path)
    files = [file for folder in (runs, tmp_path / "cache") for file in folder.rglob("*") if file.is_file()]
    assert {"environment.json", "report.html"} <= {file.name for file in files}
    held = [file for file in files for text in (b"PASSWORD1", b"SIGNATURE1") if text in file.read_bytes()]
    assert held == []
    for again in (lambda: resume("killed", output=runs, quiet=True), lambda: loupe.load(done.path).evaluate("val")):
        with pytest.raises(DataError, match="credentials"):
            again()
    assert_equal(resume("killed", secret, output=runs, quiet=True).path, done.path)


def test_two_processes_read_and_train_on_what_one_does(server, tmp_path, monkeypatch):
    largest = max(len(data) for data in server.files.values())
    monkeypatch.setenv("LOUPE_SHARD_CACHE", f"{4 * largest}B")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    settings = {**SETTINGS, "shuffle_window": 100}
    one = begin(f"{server.url}/d/", tmp_path, "of-1", settings).path
    words = ["-m", "loupe", "train", f"{server.url}/d/", "--recipe", "digits", "--precision", "fp32", "--quiet"]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    processes = started(2, [*words, "--output", str(tmp_path), "--name", "of-2"])
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    two = tmp_path / "of-2"
    assert (one / "split.csv").read_text() == (two / "split.csv").read_text()
    histories = [(folder / "metrics.csv").read_text().splitlines() for folder in (one, two)]
    assert len(histories[0]) == len(histories[1]) == 3
    results = [loupe.load(folder).results.test for folder in (one, two)]
    assert results[0] is not None and results[1] is not None
    assert abs(results[0].accuracy.value - results[1].accuracy.value) < 0.15
