"""The order of a run's classes is stored: data in another order, or names in another Unicode form, mean the same."""

import json
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

import loupe
from child_processes import Killed
from loupe.data.sources import folders
from loupe.rundir import RunDirectory
from loupe.runs.diff import differences
from loupe.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("bare")


def squares(root: Path, names: list[str], each: int = 12) -> Path:
    """Images of one grey level for each class, with noise."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            noise = np.random.default_rng((k, i)).integers(0, 20, (8, 8))
            Image.fromarray((20 + 200 * k // len(names) + noise).astype(np.uint8)).save(root / name / f"{name}{i}.png")
    return root


def train(data: Path, output: Path, name: str) -> loupe.Run:
    settings = {"split.validation": 0.2, "split.test": 0.2}
    return loupe.train(
        data, recipe="digits", epochs=4, batch_size=8, precision="fp32", settings=settings, output=output, name=name,
        device="cpu", quiet=True,
    )  # fmt: skip


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders as in runs of before: classes sorted as text."""
    monkeypatch.setattr(folders, "are_numbers", lambda names: False)


def forget_classes(run: Path) -> None:
    """The run as one that did not record the order of its classes."""
    file = run / "environment.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    assert values.pop("classes")
    file.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    return squares(tmp_path_factory.mktemp("data") / "numbers", ["0", "2", "10", "11"])


def test_a_run_of_before_is_evaluated_and_explained_in_its_own_order(numbers, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        as_before(patch)
        run = train(numbers, tmp_path, "old")
        assert run.classes == ("0", "10", "11", "2")
    forget_classes(run.path)
    again = loupe.load(run.path)
    stored = again.results.validation
    assert stored is not None
    assert again.evaluate("val").accuracy == stored.accuracy
    assert again.evaluate("val").confusion_matrix == stored.confusion_matrix
    assert again.evaluate("val", numbers).accuracy == stored.accuracy
    assert train(numbers, tmp_path, "new").classes == ("0", "2", "10", "11")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_run_of_before_goes_on_in_its_own_order(numbers, tmp_path, monkeypatch, recorded):
    with monkeypatch.context() as patch:
        as_before(patch)
        whole = train(numbers, tmp_path, "whole")
        steps = [9]
        step = TrainStep.step

        def dies(self, *args, **kwargs):
            steps[0] -= 1
            if steps[0] < 0:
                raise Killed
            return step(self, *args, **kwargs)

        patch.setattr(TrainStep, "step", dies)
        with pytest.raises(Killed):
            train(numbers, tmp_path, "killed")
    if not recorded:
        forget_classes(tmp_path / "killed")
    run = loupe.resume(tmp_path / "killed", quiet=True)
    assert run.classes == whole.classes == ("0", "10", "11", "2")
    report = differences(RunDirectory(whole.path), RunDirectory(run.path))
    assert report.same


def test_a_run_is_evaluated_on_data_in_the_other_unicode_form(tmp_path):
    data = squares(tmp_path / "data", [normalize("NFC", "café"), "tea"])
    run = train(data, tmp_path, "run")
    stored = run.evaluate("val")
    other = tmp_path / "other"
    for folder in data.iterdir():
        shutil.copytree(folder, other / normalize("NFD", folder.name))
    assert run.evaluate("val", other).accuracy == stored.accuracy
    shutil.rmtree(data)
    for folder in other.iterdir():
        for file in [*folder.iterdir()]:
            file.rename(file.with_name(normalize("NFD", file.name)))
    other.rename(data)
    assert loupe.load(run.path).evaluate("val").accuracy == stored.accuracy
    assert run.explain(count=2, target=normalize("NFD", "café"))
