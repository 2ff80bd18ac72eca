"""Clusters without Ray: the plan, the checks of nodes, and what is refused before work begins."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loupe.cli.clusters import runner_of
from loupe.cluster import connection, nodes
from loupe.cluster.connection import connected
from loupe.cluster.nodes import Cluster, Node
from loupe.errors import ConfigError

TWO = Cluster("10.0.0.1:6379", (Node("a", "first", 4.0, 0.0), Node("b", "second", 3.0, 1.0)))


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"), [(1, 0, 7), (2, 0, 3), (4, 0, 1), (5, 0, 0), (1, 1, 1), (0, 0.5, 2)]
)
def test_tasks_at_a_time_are_those_that_fit_each_node(cpus, gpus, slots):
    assert TWO.slots(cpus, gpus) == slots


def test_expected_time_is_that_of_the_last_task_on_the_places_there_are():
    assert TWO.seconds([5.0, 3.0, 2.0, 4.0, 1.0], cpus=2, gpus=0) == 6.0  # 5+1 | 3 | 2+4
    assert TWO.seconds([5.0, 3.0], cpus=4, gpus=0) == 8.0
    assert math.isnan(TWO.seconds([5.0, math.nan], cpus=4, gpus=0))


def test_a_task_that_fits_no_node_is_refused():
    TWO.check_slots(4, 0)
    with pytest.raises(ConfigError, match="5 CPUs"):
        TWO.check_slots(5, 0)
    with pytest.raises(ConfigError, match="4 CPUs and 1 GPU"):
        TWO.check_slots(4, 1)


@pytest.mark.parametrize(
    ("field", "value"), [("python", "3.10.2"), ("loupe", "0.0.1"), ("torch", "1.0"), ("sources", "f00")]
)
def test_a_node_with_another_version_is_named(field, value, monkeypatch):
    mine = nodes.versions()
    other = replace(mine, **{field: value})
    monkeypatch.setattr(Cluster, "each", lambda self, function: [mine, other])
    with pytest.raises(ConfigError, match="node second") as refused:
        TWO.check_versions()
    assert (value if field != "sources" else "source files") in str(refused.value)
    monkeypatch.setattr(Cluster, "each", lambda self, function: [mine, mine])
    TWO.check_versions()


def test_folders_that_a_node_lacks_are_named(tmp_path, monkeypatch):
    output, image = tmp_path / "runs", tmp_path / "a.png"
    image.touch()

    def each(self, function, probe, needed):
        elsewhere = probe.parent.parent / "elsewhere" / probe.name
        return [function(probe, needed), function(elsewhere, needed)]

    monkeypatch.setattr(Cluster, "each", each)
    with pytest.raises(ConfigError, match=r"node second .* does not see .*elsewhere"):
        TWO.check_folders(output, [image])
    assert list(output.iterdir()) == []
    monkeypatch.setattr(Cluster, "each", lambda self, function, *words: [function(*words)] * 2)
    TWO.check_folders(output, [image])
    with pytest.raises(ConfigError, match=r"node first .* does not see .*b\.png"):
        TWO.check_folders(output, [image, tmp_path / "b.png"])
    assert list(output.iterdir()) == []


def test_without_ray_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'loupe-vision\[cluster\]'"), connected("local"):
        pass


@pytest.mark.parametrize("address", ["somewhere", "host:", ":6379", "127.0.0.1:x", "127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_at_which_nothing_is_is_refused_at_once(address):
    with pytest.raises(ConfigError, match="--cluster"), connected(address):
        pass


def test_several_ranks_and_a_cluster_exclude_each_other(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ConfigError, match="exclude each other"), runner_of("local", device="cpu", quiet=True):
        pass


def test_no_address_is_no_cluster():
    with runner_of(None, device="cpu", quiet=True) as runner:
        assert runner is None


def test_the_folder_of_a_command_that_was_killed_is_removed_by_the_next(tmp_path):
    left = tmp_path / f"{connection.PREFIX}x"
    (left / "session").mkdir(parents=True)
    (left / connection.LOCK).touch()
    mine, lock = connection._new_folder(tmp_path)
    try:
        connection._remove_left(tmp_path)
        assert not left.exists() and mine.exists()
    finally:
        lock.release()
    connection._remove_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_another_command_holds_in_another_process_stays(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom loupe.cluster import connection\n"
        "folder, lock = connection._new_folder(Path(sys.argv[1]))\nprint(folder, flush=True)\nsys.stdin.read()\n"
        "os._exit(9)"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        folder = Path(other.stdout.readline().strip())
        connection._remove_left(tmp_path)
        assert (folder / connection.LOCK).exists()
        other.stdin.close()
        other.wait(60)
        connection._remove_left(tmp_path)
    assert list(tmp_path.iterdir()) == []
