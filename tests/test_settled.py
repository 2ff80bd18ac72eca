"""Choices that a clock makes: made once for a machine and a kind of work, whatever the clock says afterwards."""

import json
import threading
from pathlib import Path

import pytest
import torch

import loupe
from loupe import settled
from loupe.settled import KIND, choices
from loupe.training import precision

CPU = torch.device("cpu")
WORK = {"choice": "precision", "network": "toy"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flipping():
    """Measurement that chooses another precision each time."""
    answers = iter(["bf16", "fp32", "bf16", "fp32"])
    return lambda: (next(answers), "measured")


def kept(cache: Path) -> Path:
    (file,) = (cache / KIND).glob("*.json")
    return file


def test_a_choice_is_measured_once_and_kept_for_each_kind_of_work(cache):
    measure = flipping()
    assert settled.settled(WORK, measure, CPU) == ("bf16", "measured")
    chosen, reason = settled.settled(WORK, measure, CPU)
    assert chosen == "bf16" and reason.startswith("measured, settled for this machine on ")
    assert settled.settled({**WORK, "network": "another"}, measure, CPU)[0] == "fp32"
    assert sorted(choice.chosen for choice in choices(CPU)) == ["bf16", "fp32"], "of one second, in any order"


@pytest.mark.parametrize("fact", ["processor", "flags", "cores", "threads", "device", "torch"])
def test_the_choice_of_another_machine_is_not_taken(cache, monkeypatch, fact):
    measure, here = flipping(), settled.machine(CPU)
    settled.settled(WORK, measure, CPU)
    monkeypatch.setattr(settled, "machine", lambda device: {**here, fact: "another"})
    assert settled.settled(WORK, measure, CPU) == ("fp32", "measured")
    assert [choice.machine[fact] for choice in choices(CPU)] == ["another"]


def test_a_file_that_was_renamed_to_that_of_this_machine_is_not_taken(cache, monkeypatch):
    measure, here = flipping(), settled.machine(CPU)
    settled.settled(WORK, measure, CPU)
    monkeypatch.setattr(settled, "machine", lambda device: {**here, "cores": "96"})
    settled.settled(WORK, measure, CPU)
    monkeypatch.undo()
    monkeypatch.setenv("LOUPE_CACHE", str(cache))
    own, other = sorted((cache / KIND).glob("*.json"), key=lambda file: json.loads(file.read_text())["chosen"])
    own.write_bytes(other.read_bytes())
    assert settled.settled(WORK, lambda: ("fp32", "again"), CPU) == ("fp32", "again")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"chosen": "bf16"', '"chosen": "fp32"'),
        lambda text: text.replace('"schema": 1', '"schema": 99'),
        lambda text: "",
    ],
)
def test_a_damaged_choice_is_measured_again_and_said(cache, caplog, damage):
    measure = flipping()
    settled.settled(WORK, measure, CPU)
    file = kept(cache)
    file.write_text(damage(file.read_text()))
    assert list(choices(CPU)) == []
    caplog.clear()
    assert settled.settled(WORK, measure, CPU) == ("fp32", "measured")
    assert str(file) in caplog.text
    assert settled.settled(WORK, measure, CPU)[0] == "fp32", "it is whole again"


def test_two_that_begin_at_once_take_one_choice(cache):
    measure, answers = flipping(), []
    begun = [threading.Thread(target=lambda: answers.append(settled.settled(WORK, measure, CPU)[0])) for _ in range(2)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()
    assert answers == ["bf16", "bf16"]


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "file"))
    caplog.set_level("INFO", "loupe")
    assert settled.settled(WORK, flipping(), CPU) == ("bf16", "measured")
    assert "LOUPE_CACHE" in caplog.text


def test_a_clock_that_flips_gives_one_network(cache, tmp_path, monkeypatch):
    """On a busy machine a step in fp32 takes once more, once less time than one in bf16."""
    slow = iter(["fp32"] * 10 + ["bf16"] * 1000)

    def seconds(self, candidate):
        return 2.0 if candidate == next(slow) else 1.0

    monkeypatch.setattr(precision.TimedSteps, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(precision.TimedSteps, "seconds", seconds)
    monkeypatch.setattr("loupe.report.run_page.write_page", lambda run: None)
    asked = {"epochs": 1, "seed": 0, "output": tmp_path, "device": "cpu", "quiet": True}
    first, second = (loupe.train("digits", recipe="digits-plain", name=name, **asked) for name in ("one", "two"))
    assert (first.results.precision, second.results.precision) == ("bf16", "bf16")
    weights = [(run.path / "model" / "weights.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]
    recorded = [json.loads((run.path / "environment.json").read_text())["choices"] for run in (first, second)]
    assert all(choice["precision"].startswith("precision bf16: 2.0 times faster") for choice in recorded)
    assert "settled for this machine" in recorded[1]["precision"] and recorded[0]["threads"]
