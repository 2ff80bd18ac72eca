"""Comparisons on a real Ray: nodes and commands are killed in the middle, and every figure is that of one process."""

import json
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc"),
]

from ray_nodes import command, living, until  # noqa: E402

RUNS = ("digits-digits-plain-seed0", "digits-digits-seed0")


def assert_equal(output: Path, plain: Path) -> None:
    """All runs and the table have the figures of the other folder, times apart."""
    for name in RUNS:
        assert (output / name / "model" / "weights.safetensors").read_bytes() == (
            plain / name / "model" / "weights.safetensors"
        ).read_bytes(), name
        mine, theirs = (json.loads((folder / name / "results.json").read_text()) for folder in (output, plain))
        assert mine["validation"] == theirs["validation"]
        assert {path.name for path in (output / name).iterdir()} == {path.name for path in (plain / name).iterdir()}
    mine, theirs = (json.loads((folder / "comparison-digits.json").read_text()) for folder in (output, plain))
    assert mine["command"] == theirs["command"]
    for rows in zip(*(sorted(table["rows"], key=lambda row: row["name"]) for table in (mine, theirs)), strict=True):
        assert rows[0]["measured"]["validation"] == rows[1]["measured"]["validation"]
        assert rows[0]["measured"]["runs"] == rows[1]["measured"]["runs"]


def saved(output: Path, names=RUNS) -> bool:
    """True if all of these runs have a checkpoint."""
    return all((output / name / "checkpoints" / "last").exists() for name in names)


def finished(output: Path) -> list[str]:
    return [name for name in RUNS if (output / name / "results.json").exists()]


def test_a_command_and_then_a_node_are_killed_and_the_runs_are_resumed(folder, plain, comparison, nodes):
    output = folder / "two"
    second = nodes.start("second", cpus=1)
    words = [*comparison, "--output", "two", "--cluster", nodes.address]
    with command(words, nodes.environment, folder) as killed:
        killed.until(lambda: any(saved(output, [name]) for name in RUNS), "a checkpoint")
        killed.process.kill()
        killed.end()
    assert finished(output) == []
    with command(words, nodes.environment, folder) as started:
        started.until(lambda: saved(output) and sum(resumes(output)) >= 1, "a resume, and checkpoints of both")
        nodes.kill(second)
        before = sum(resumes(output))
        assert finished(output) == []
        assert started.end() == 0, started.log.read_text()
        text = started.log.read_text()
    assert "2 nodes" in text and "up to 2 at a time" in text
    assert sum(resumes(output)) == before + 1
    assert_equal(output, plain)


def test_a_command_that_is_stopped_goes_on_without_a_cluster(folder, plain, comparison, environment):
    output = folder / "local"
    words = [*comparison, "--output", "local"]
    with command([*words, "--cluster", "local"], environment, folder) as stopped:
        stopped.until(lambda: any(saved(output, [name]) for name in RUNS), "a checkpoint")
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.end() == 128 + signal.SIGTERM, stopped.log.read_text()
        until(lambda: not living(stopped.seen), "the end of Ray")
    assert finished(output) == []
    with command(words, environment, folder) as last:
        assert last.end() == 0, last.log.read_text()
    assert sum(resumes(output)) >= 1
    assert_equal(output, plain)


def resumes(output: Path) -> list[int]:
    """Number of times that each run was resumed."""
    paths = [output / name / "train.log" for name in RUNS]
    return [path.read_text().count("resuming") if path.exists() else 0 for path in paths]
