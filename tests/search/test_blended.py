"""Blend at the end of a search: told, and delivered only where it is allowed and better by more than chance."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import loupe
from builders import without_slow_parts
from loupe.evaluate.predictions import Predictions, read_splits, write_splits
from loupe.evaluate.search_results import FILE, Restrictions, SearchResults
from loupe.models.catalog import network
from loupe.recipes import catalog
from loupe.rundir import RunDirectory
from loupe.search.blended import consider
from loupe.search.candidate import Candidate
from loupe.search.candidates import Best, Candidates
from loupe.search.clock import Clock
from loupe.search.record import Record, facts
from loupe.search.trainings import validation

pytestmark = pytest.mark.slow  # two trainings


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two runs whose stored predictions err on other validation images, each on a fifth of them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.setenv("LOUPE_CACHE", str(folder / "cache"))
        runs = []
        for number in (0, 1):
            settings = {"split.validation": 0.3, "split.seed": 0, "precision": "fp32", "seed": number}
            options = {"epochs": 1, "open_test": False, "quiet": True, "device": "cpu", "settings": settings}
            run = loupe.train("digits", recipe="digits", name=str(number), output=folder / "candidates", **options)
            file = run.directory.file("predictions.csv")
            write_splits(file, {"val": erring(read_splits(file)["val"], fifth=number)})
            runs.append(run)
        yield runs


def erring(known: Predictions, fifth: int) -> Predictions:
    """Predictions that are sure of the right class, but for every fifth image: there nearly sure of a wrong one."""
    rows_N, logits_NK = np.arange(len(known)), np.zeros((len(known), len(known.classes)), np.float32)
    wrong_N = rows_N % 5 == fifth
    logits_NK[rows_N, np.where(wrong_N, (known.label + 1) % 10, known.label)] = np.where(wrong_N, 1.0, 4.0)
    return Predictions(known.path, known.content, known.label, logits_NK, known.classes)


def core_of(members, restrictions: Restrictions, seconds: float = 1000.0) -> Candidates:
    folder, clock = members[0].path.parents[1], Clock(seconds, time.perf_counter())
    (folder / FILE).unlink(missing_ok=True)
    own = {"dataset": "digits", "command": "", "environment": {}, "seed": 0, "images": {}, "classes": 10}
    record = Record(folder, clock, facts(**own, at_hand=(), restrictions=restrictions))
    recipe = catalog.recipe("digits").model_copy(update={"model": network("digits-cnn")})
    for run in members:
        candidate = Candidate(run.directory.name, "from-scratch", f"network {run.directory.name}", recipe, 1.0)
        record.plan(candidate)
        evidence = validation(run, run.directory.name)
        values = {"status": "finished", "judged": evidence.judged, "predict_seconds": 0.001, "weights_bytes": 1000}
        record.change(run.directory.name, run=f"candidates/{run.directory.name}", **values)
    _, split = members[0].own_images()
    found = SimpleNamespace(device=torch.device("cpu"), split=split)
    parts = {"stop": SimpleNamespace(is_sent=False), "bank": SimpleNamespace(pass_seconds={}), "trainings": None}
    core = Candidates(found, restrictions, clock, directory=RunDirectory(folder), record=record, **parts)
    core.best = Best(candidate, members[1], evidence, 0.001)
    return core


def test_without_the_option_a_line_says_what_a_blend_would_give(members):
    core = core_of(members, Restrictions())
    before = core.reserved
    said = consider(core)
    assert "--allow-blend" in said and "+20" in said and "2.0 times" in said
    assert core.best.run is members[1] and before == core.reserve.end(0.001)


def test_a_blend_that_is_better_is_delivered_where_it_is_allowed(members):
    core = core_of(members, Restrictions(allow_blend=True))
    assert core.reserved > core.reserve.end(0.002)
    assert "delivered" in consider(core)
    assert core.best.candidate.kind == "blend" and len(core.best.run.results.made_of) == 2
    chosen = SearchResults.read(core.directory.path / FILE).chosen
    assert chosen.kind == "blend" and chosen.against_best.value == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("restrictions", "seconds", "why"),
    [
        (Restrictions(allow_blend=True, predict_within_seconds=0.0015), 1000.0, "--predict-within"),
        (Restrictions(allow_blend=True, size_bytes=1500), 1000.0, "--size"),
        (Restrictions(allow_blend=True), 1.0, "beyond the limit"),
    ],
)
def test_a_blend_that_costs_too_much_is_not_delivered(members, restrictions, seconds, why):
    core = core_of(members, restrictions, seconds)
    assert why in consider(core) and core.best.candidate.kind == "from-scratch"


def test_a_gain_that_may_be_chance_is_not_delivered(members, monkeypatch):
    monkeypatch.setattr("loupe.search.words.SURE", 0.0)
    assert "may be chance" in consider(core_of(members, Restrictions(allow_blend=True)))
