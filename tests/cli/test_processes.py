"""`--processes` and torchrun: one command in several processes, one voice, one end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import rank_processes
from builders import save_varied
from loupe import ranks
from loupe.cli import processes
from loupe.errors import ConfigError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and loopback of POSIX")


TRAIN = ("-m", "loupe", "train")
QUICK = ("--precision", "fp32", "--device", "cpu")
LONG = ("--epochs", "500", *QUICK)  # until something ends it


class Started:
    """Command at work in a folder, whose output goes into files; a process group of its own.

    Attributes:
        mark: in the environment of all of its processes.
    """

    def __init__(self, folder: Path, words: Sequence[str], **variables: str) -> None:
        self.folder = folder
        self.mark = f"TEST_PROCESSES={uuid.uuid4()}"
        paths = {"PYTHONPATH": str(rank_processes.PROJECT / "src"), "OMP_NUM_THREADS": "1"}
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env={**os.environ, **paths, **variables, **dict([self.mark.split("=")])},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def until(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text."""
        began = time.monotonic()
        while text not in self.err:
            assert self.process.poll() is None, self.err
            assert time.monotonic() - began < seconds, self.err
            time.sleep(0.02)

    def code(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def send(self, rank: int, number: int) -> float:
        """Send a signal to the process of a rank; return the time on the clock."""
        os.kill(next(self.processes(f"RANK={rank}")), number)
        return time.monotonic()

    def processes(self, variable: str) -> Iterator[int]:
        """Its processes that have a variable in their environment."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                found = (folder / "environ").read_text(errors="replace").split("\0")
                if self.mark in found and variable in found:
                    yield int(folder.name)

    def end(self) -> None:
        """Kill those of its processes that still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
        for number in self.processes(self.mark):
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)


@contextmanager
def started(folder: Path, *words: str, **variables: str) -> Iterator[Started]:
    """A command, and the end of all of its processes."""
    folder.mkdir(exist_ok=True)
    command = Started(folder, words, **variables)
    try:
        yield command
    finally:
        command.end()


def listening(command: Started) -> set[str]:
    """Addresses on which the processes of a command accept connections."""
    sockets = set[str]()
    for number in command.processes(command.mark):
        for descriptor in Path(f"/proc/{number}/fd").iterdir():
            with suppress(OSError):
                sockets.add(str(descriptor.readlink()))
    found = set[str]()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].partition(":")[0])
                packed = b"".join(words[k : k + 4][::-1] for k in range(0, len(words), 4))
                found.add(socket.inet_ntop(family, packed))
    return found


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def ended(started: list[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each process."""
    try:
        texts = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]


@pytest.mark.slow
def test_a_command_of_one_process_refuses_once():
    (first, second) = ended(rank_processes.started(2, ["-m", "loupe", "serve", "runs/any"]))
    assert first[0] == second[0] == 1
    assert "WORLD_SIZE" in first[2]
    assert len(first[2].splitlines()) == 1
    assert (first[1], *second[1:]) == ("", "", "")


def test_each_process_gets_the_environment_of_torchrun():
    given = list(processes.environments(3, {"PATH": "kept"}))
    assert [ranks.in_environment(one) for one in given] == [ranks.Ranks(rank, 3, rank, 3) for rank in range(3)]
    assert {one["PATH"] for one in given} == {"kept"}
    assert len({one["MASTER_PORT"] for one in given}) == 1
    assert {int(one["OMP_NUM_THREADS"]) for one in given} == {max(1, processes.cores() // 3)}
    assert {one["OMP_NUM_THREADS"] for one in processes.environments(2, {"OMP_NUM_THREADS": "7"})} == {"7"}


def test_another_number_than_that_of_torchrun_is_refused(monkeypatch):
    for name, value in next(processes.environments(2, {})).items():
        monkeypatch.setenv(name, value)
    processes.start_processes(None)
    processes.start_processes(2)
    with pytest.raises(ConfigError, match="--processes 3"):
        processes.start_processes(3)


def test_one_process_starts_none(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    processes.start_processes(None)
    processes.start_processes(1)


@pytest.mark.slow
def test_two_processes_write_what_one_writes_and_speak_once(tmp_path):
    words = (*TRAIN, "digits", "--epochs", "1", *QUICK, "--name", "run")
    with started(tmp_path / "two", *words, "--processes", "2") as two, started(tmp_path / "one", *words) as one:
        assert (two.code(), one.code()) == (0, 0), two.err
    runs = tmp_path / "two/runs", tmp_path / "one/runs"
    assert files(runs[0]) == files(runs[1])
    lines = two.err.splitlines()
    assert len(lines) == len(set(lines)) == len(one.err.splitlines())
    assert len((tmp_path / "two/out").read_text().splitlines()) == len((tmp_path / "one/out").read_text().splitlines())
    made = [json.loads((folder / "run/environment.json").read_text()) for folder in runs]
    assert [environment["processes"] for environment in made] == [2, 1]
    assert made[0]["command"] == ["python", *words, "--processes", "2"]
    results = [json.loads((folder / "run/results.json").read_text()) for folder in runs]
    assert results[0].keys() == results[1].keys()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_a_killed_process_ends_all_with_one_sentence(tmp_path):
    with started(tmp_path / "a", *TRAIN, "digits", *LONG, "--processes", "2") as command:
        command.until("epoch   1/500")
        assert listening(command) <= {"127.0.0.1", "::1"}
        killed = command.send(1, signal.SIGKILL)
        assert command.code() == 1
        assert time.monotonic() - killed < 10
        told = command.err.splitlines()[-1]
        assert "error: process 2 of 2" in told and "SIGKILL" in told
        assert "loupe train --resume runs/digits --processes 2" in told
        assert command.err.count("error") == 1 and "Traceback" not in command.err


@pytest.mark.slow
def test_a_signal_to_the_whole_group_saves_once_and_one_process_goes_on(tmp_path):
    folder = tmp_path / "a"
    with started(folder, *TRAIN, "digits", "--epochs", "40", *QUICK, "--processes", "2") as command:
        command.until("epoch   1/40")
        os.killpg(command.process.pid, signal.SIGTERM)  # the launcher sends it to the others once more
        assert command.code() == 143
        told = command.err.splitlines()[-1]
        assert told.endswith("loupe train --resume runs/digits --processes 2")
        assert command.err.count("Resume") == 1 and "error" not in command.err
    with started(folder, *TRAIN, "--resume", "runs/digits") as resumed:
        resumed.until("/40")
        assert "epoch   1/40" not in resumed.err
        resumed.process.terminate()
        assert resumed.code() == 143
        assert resumed.err.splitlines()[-1].endswith("loupe train --resume runs/digits")
    assert "1 process, where the run began with 2" in (folder / "runs/digits/train.log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_under_torchrun_a_killed_process_ends_all_and_a_stopped_one_saves(tmp_path):
    port = str(rank_processes.free_port())
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port)
    with started(tmp_path / "a", *torchrun, *TRAIN, "digits", *LONG) as command:
        command.until("epoch   1/500")
        killed = command.send(1, signal.SIGKILL)
        command.code()
        assert time.monotonic() - killed < 10
        own = [line for line in command.err.splitlines() if line.startswith("error:")]
        assert len(own) == 1 and "--resume runs/digits --processes 2" in own[0]
        assert "loupe/cli" not in command.err, "no traceback of ours"
    with started(tmp_path / "a", *torchrun, *TRAIN, "--resume", "runs/digits") as command:
        command.until("/500")
        command.send(1, signal.SIGTERM)
        command.code()
        assert command.err.count("stopped and saved") == 1
        assert "error:" not in [line[:6] for line in command.err.splitlines()]


@pytest.mark.slow
def test_two_machines_share_neither_disk_nor_cache(tmp_path):
    photos = save_varied(tmp_path / "first/photos", 12)
    shutil.copytree(photos, tmp_path / "second/photos")
    words = (*TRAIN, "photos", "--epochs", "1", *QUICK, "--model", "digits-cnn", "--set", "input.size_px=16")

    def machines(*more: str) -> list[Started]:
        port = rank_processes.free_port()
        found = []
        for rank, name in enumerate(("first", "second")):
            local = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "LOUPE_CACHE": str(tmp_path / name / "cache")}
            found.append(
                Started(tmp_path / name, (*words, *more), **{**rank_processes.environment(rank, 2, port), **local})
            )
        return found

    both = machines()
    assert [machine.code() for machine in both] == [0, 0], both[0].err + both[1].err
    assert (tmp_path / "first/runs").is_dir() and not (tmp_path / "second/runs").exists()
    assert both[1].err == ""
    (next((tmp_path / "second/photos").rglob("*.png"))).unlink()
    both = machines()
    assert [machine.code() for machine in both] == [1, 1]
    assert "process 2 of 2 has other numbers of images" in both[0].err and both[1].err == ""
    shutil.rmtree(tmp_path / "second/photos")
    both = machines()
    assert [machine.code() for machine in both] == [1, 1]
    assert both[0].err.count("error:") == 0
    assert both[1].err.startswith("error: process 2 of 2: ") and len(both[1].err.splitlines()) == 1


@pytest.mark.slow
def test_a_port_in_use_and_numbers_of_no_process_are_told_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started(tmp_path / "a", *TRAIN, "digits", **rank_processes.environment(0, 2, port)) as command:
            assert command.code() == 1
            assert len(command.err.splitlines()) == 1 and str(port) in command.err
    with started(tmp_path / "a", *TRAIN, "digits", RANK="two", WORLD_SIZE="2") as command:
        assert command.code() == 1
        assert len(command.err.splitlines()) == 1 and "RANK='two'" in command.err
