"""`--processes` and torchrun: one command in several processes, one voice, one end."""

import os
import subprocess

import pytest

import rank_processes
from loupe import ranks
from loupe.cli import processes
from loupe.errors import ConfigError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and loopback of POSIX")


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
