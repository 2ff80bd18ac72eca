"""`loupe compare` in several processes: each candidate is trained by all of them; one plan, and one set of files."""

import json
import os
import subprocess
import sys

import pytest

from loupe.recipes import catalog

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals and loopback of POSIX")]

TIMES = {"seconds", "seconds_per_epoch", "images_per_second", "stages"}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Recipes of networks without batch statistics, by name; `wild` diverges."""
    folder, base = tmp_path_factory.mktemp("recipes"), catalog.recipe("digits-plain")
    blocks = tuple(block.model_copy(update={"norm": "none", "dropout": 0.0}) for block in base.model.blocks)
    for name, lr in (("slow", 0.001), ("fast", 0.002), ("wild", 1e30)):
        stage = base.stages[0].model_copy(update={"epochs": 2, "lr": lr})
        model = base.model.model_copy(update={"blocks": blocks, "name": name})
        recipe = base.model_copy(update={"name": name, "model": model, "stages": (stage,), "precision": "fp32"})
        (folder / f"{name}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    return folder


def compared(folder, recipes, *names, processes):
    """Exit code and errors of a comparison, and its results."""
    given = ["--recipes", ",".join(str(recipes / f"{name}.yaml") for name in names), "--name", "-".join(names)]
    given += ["--open-test", "--device", "cpu", "--output", str(folder), "--processes", str(processes)]
    done = subprocess.run(
        [sys.executable, "-m", "loupe", "compare", "digits", *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    file = folder / f"{'-'.join(names)}.json"
    return done.returncode, done.stderr, json.loads(file.read_text(encoding="utf-8"))


def without_times(results):
    """Values of the results by their places, but times and what follows from them."""
    rows = {row["name"]: row["measured"] for row in results["rows"]}
    kept = {key: results[key] for key in ("dataset", "seeds", "folds", "settings", "images")}
    return dict(leaves({**rows, **kept}))


def leaves(value, place=""):
    """Places and values of nested data, without times."""
    if not isinstance(value, dict | list):
        yield place, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in TIMES:
            yield from leaves(inner, f"{place}/{key}")


def test_a_comparison_has_the_figures_of_one_process_and_a_failure_fails_alike(recipes, tmp_path):
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        code, errors, found[processes] = compared(folder, recipes, "slow", "fast", processes=processes)
        assert code == 0, errors
        assert len((folder / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    alone, together = (without_times(found[processes]) for processes in (1, 2))
    close = {place: pytest.approx(value, rel=1e-3) for place, value in alone.items() if isinstance(value, float)}
    assert together == alone | close

    before = {file: file.read_bytes() for file in folder.glob("slow-fast.*")}
    assert len(before) == 4
    code, errors, _ = compared(folder, recipes, "slow", "fast", processes=2)
    assert code == 0, errors
    assert {file: file.read_bytes() for file in before} == before, "nothing is trained or measured again"

    code, errors, results = compared(folder, recipes, "slow", "fast", "wild", processes=2)
    assert code == 1
    assert errors.count("warning: wild:") == errors.count("error:") == 1
    assert {row["name"]: row["measured"] is None for row in results["rows"]} == {
        "slow": False,
        "fast": False,
        "wild": True,
    }
