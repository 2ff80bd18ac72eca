"""`loupe doctor`: each finding from facts that are given to it, and the whole command once."""

import json
import platform
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer

from loupe import devices, openmp, provenance
from loupe.cli import doctor as doctor_text
from loupe.doctor import checks, speed
from loupe.doctor.checks import Finding
from loupe.settled import settled

GIB = 2**30


def one(findings) -> Finding:
    (finding,) = list(findings)
    return finding


def disk(monkeypatch, free: int) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.mark.parametrize(("free", "state"), [(100 * GIB, "ok"), (3 * GIB, "warning"), (2**20, "broken")])
def test_a_disk_that_fills_up_is_told_before_it_is_full(monkeypatch, tmp_path, free, state):
    disk(monkeypatch, free)
    finding = one(checks.folder("runs", tmp_path / "not" / "there", "Choose another"))
    assert finding.state == state
    assert ("loupe cache --clear" in finding.remedy) == (state != "ok")
    assert finding.data == {"free_bytes": free}
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch, tmp_path):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    disk(monkeypatch, 100 * GIB)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = one(checks.folder("cache", tmp_path, "Set LOUPE_CACHE to another folder"))
    assert finding.state == "broken"
    assert "Permission denied" in finding.value
    assert finding.remedy == "Set LOUPE_CACHE to another folder."


@pytest.mark.parametrize(
    ("variable", "number", "cores", "quota", "says"),
    [
        ("1", 1, 8, None, "OMP_NUM_THREADS=1 leaves 7 of 8 cores idle"),
        ("1", 1, 2, None, "unset it"),
        ("1", 1, 1, None, ""),
        ("4", 4, 8, None, ""),  # eight logical cores may be four
        ("2", 2, 8, None, "6 of 8"),
        (None, 4, 8, None, ""),
        (None, 64, 64, 2.0, "set OMP_NUM_THREADS=2"),
        (None, 2, 2, 2.0, ""),
    ],
)
def test_threads_that_are_held_back_or_too_many(monkeypatch, variable, number, cores, quota, says):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    monkeypatch.setattr(openmp, "cores", lambda: cores)
    monkeypatch.setattr(checks, "container_cpus", lambda: quota)
    finding = one(checks.threads())
    assert finding.state == ("warning" if says else "ok")
    assert says in finding.remedy
    assert finding.data["threads"] == number


@pytest.mark.parametrize(
    ("set_to", "by", "state"),
    [
        ({}, "nobody", "ok"),
        ({"GOMP_SPINCOUNT": openmp.TURNS}, "Loupe", "ok"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "the user", "ok"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "the user", "warning"),
    ],
)
def test_the_waiting_of_threads_and_who_has_set_it(monkeypatch, set_to, by, state):
    for name in openmp.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    finding = one(checks.waiting())
    assert (finding.state, finding.data) == (state, {"waiting": set_to, "set_by": by})
    assert ("unset OMP_WAIT_POLICY" in finding.remedy) == (state == "warning")


def test_the_choices_that_are_settled_for_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cpu"))
    found = list(checks.choices())
    assert [finding.name for finding in found] == ["frozen blocks", "settled"]
    work = {"network": "deep-cnn", "part": "all", "size": "32"}
    settled(work, lambda: ("bf16", "precision bf16: 1.8 times faster"), torch.device("cpu"))
    finding = list(checks.choices())[1]
    assert (finding.data["chosen"], finding.data["work"]) == ("bf16", work)
    assert finding.value.startswith("deep-cnn, all, 32 px: precision bf16: 1.8 times faster, settled on 20")


@pytest.mark.parametrize(("gains", "said"), [(True, "bf16 where features agree"), (False, "fp32")])
def test_the_precision_of_frozen_blocks_is_that_of_the_engine(monkeypatch, tmp_path, gains, said):
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr("loupe.models.engine.engine_gains_from_bf16", lambda device: gains)
    finding = next(iter(checks.choices()))
    assert finding.value.partition(", ")[2].startswith(said)


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "installed", lambda name: None if name in {"timm", "openvino"} else "1.0")
    found = {finding.name: finding for finding in checks.versions()}
    assert (found["versions"].state, found["versions"].remedy) == (
        "broken",
        "Install the missing packages: pip install timm",
    )
    assert "timm missing" in found["versions"].value
    assert found["openvino"].state == "ok", "an extra"
    assert "pip install openvino" in found["openvino"].remedy


def test_a_library_that_cannot_be_loaded(monkeypatch):
    def load(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(checks, "import_module", load)
    finding = one(checks.libraries())
    assert finding.state == "broken"
    assert "torchvision cannot be loaded" in finding.value
    assert "pip install" in finding.remedy


def test_memory_and_load(monkeypatch):
    monkeypatch.setattr(checks, "total_bytes", lambda: 16 * GIB)
    for free, state in ((8 * GIB, "ok"), (GIB, "warning")):
        monkeypatch.setattr(checks, "free_bytes", lambda free=free: free)
        finding = one(checks.memory())
        assert (finding.state, finding.data) == (state, {"free_bytes": free, "total_bytes": 16 * GIB})
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 4)
    for busy, state in ((3.9, "ok"), (4.1, "warning")):
        monkeypatch.setattr(checks.os, "getloadavg", lambda busy=busy: (busy, 0.0, 0.0), raising=False)
        assert one(checks.load()).state == state


@pytest.mark.parametrize(("built", "state"), [(["sm_80", "sm_90a"], "ok"), (["sm_50", "sm_80"], "broken")])
def test_a_gpu_that_this_pytorch_has_no_code_for(monkeypatch, built, state):
    about = SimpleNamespace(name="H100", total_memory=80 * GIB, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    finding = one(checks.devices())
    assert (finding.name, finding.state) == ("cuda:0", state)
    assert "compute capability 9.0" in finding.value
    assert ("pytorch.org" in finding.remedy) == (state == "broken")


def test_a_driver_without_a_pytorch_that_can_use_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for driver, state in ((None, "ok"), ("/usr/bin/nvidia-smi", "warning")):
        monkeypatch.setattr(checks.shutil, "which", lambda name, driver=driver: driver)
        monkeypatch.setattr(checks.Path, "exists", lambda path: False)
        assert one(checks.devices()).state == state


def test_the_network_is_asked_only_when_told_to(monkeypatch):
    assert "hub" not in checks.checks(Path("runs"))
    assert "hub" in checks.checks(Path("runs"), network=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finding = one(checks.hub())
    assert (finding.state, finding.value) == ("warning", "not asked: HF_HUB_OFFLINE=1 is set")
    assert "--weights FILE" in finding.remedy and "unset HF_HUB_OFFLINE" in finding.remedy


def test_a_check_that_fails_is_a_finding_without_personal_names(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    def failing():
        raise OSError("cannot read /home/ada/x nor /scratch/ada/y")
        yield

    finding = one(checks.guarded("memory", failing))
    assert finding.state == "broken"
    assert finding.value == "OSError: cannot read ~/x nor /scratch/…/y"


def test_a_rate_is_counted_over_the_time_that_passed(monkeypatch):
    clock = [0.0]

    def work():
        clock[0] += 0.1

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    assert speed.rate(work) == pytest.approx(10)


def test_the_generated_photograph_is_one(tmp_path):
    from PIL import Image

    (tmp_path / "a.jpg").write_bytes(speed.photograph())
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.size) == ("JPEG", speed.PHOTO)
    assert 20_000 < (tmp_path / "a.jpg").stat().st_size < 150_000, "as large as such photographs are"


def test_the_command_finds_measures_and_tells_nobody(monkeypatch, tmp_path, capsys):
    def refuse(*arguments):
        raise AssertionError("doctor must not ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(speed, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(speed, "SIDE", {"cpu": 64, "cuda": 64, "mps": 64})
    disk(monkeypatch, 100 * GIB)
    doctor_text.doctor(tmp_path, network=False, as_json=True)
    shown = capsys.readouterr().out
    answer = json.loads(shown)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["ok"]
    assert {"versions", "processor", "threads", "memory", "cache", "runs", "decoding", "training"} <= found.keys()
    assert found["decoding"]["images_per_second"] > 0
    assert found["products, cpu"]["flop_per_second"].keys() == {"fp32", "bf16"}
    assert found["training"]["images_per_second"] > 0
    assert str(Path.home()) not in shown
    assert platform.node() not in shown


def test_exit_code_1_where_something_is_broken(monkeypatch, capsys):
    findings = [Finding("memory", "much " * 60), Finding("libraries", "none", "broken", "Install them.")]
    monkeypatch.setattr(checks, "checks", lambda runs, network: {"all": lambda: iter(findings)})
    with pytest.raises(typer.Exit) as end:
        doctor_text.doctor(Path("runs"), network=False, as_json=False)
    assert end.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OK       memory         much")
    assert max(map(len, lines)) <= doctor_text.WIDTH
    assert lines[-2:] == ["BROKEN   libraries      none", "                        → Install them."]
