"""The lessons run whole at debug size, and those in the repository are built from their sources, with outputs."""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

LESSONS = Path(__file__).parents[2] / "docs" / "lessons"
SOURCES = sorted((LESSONS / "source").glob("*.md"))
NAMES = [source.stem for source in SOURCES]
MOST_BYTES = 1_500_000
# Values of single lessons in the debug run: a tiny network without pretrained weights, and what suits so few images.
SMALLER = {
    "4-cats-and-dogs": {
        "LESSON_IMAGES": "80",
        "LESSON_FEW": "20",
        "LESSON_FILTERS": "1",
        "LESSON_PRECISION": "0.1",
        "LESSON_MODEL": "test_efficientnet",
        "LESSON_WEIGHTS": "none",
    },
}
PLACES = re.compile(r"/(?:home|root|tmp|work|Users|private|content)/[\w.-]+|[A-Z]:\\\\")

spec = importlib.util.spec_from_file_location("make_lessons", LESSONS / "make.py")
assert spec and spec.loader
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def stored(name: str) -> dict:
    return json.loads((LESSONS / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_a_source_becomes_cells_in_its_order():
    text = "# Title\n\nSaid.\n\n```python\na = 1\n\nb = 2\n```\n\n```python\na\n```\n\nAfter, `code`.\n"
    assert make.cells(text) == [
        ("markdown", "# Title\n\nSaid."),
        ("code", "a = 1\n\nb = 2"),
        ("code", "a"),
        ("markdown", "After, `code`."),
    ]


def test_folders_of_this_machine_are_named_as_in_the_source(monkeypatch):
    monkeypatch.setenv("LESSON_DATA", "/data/pets")
    monkeypatch.setenv("LESSON_NEW", "/data/pets_unlabelled")
    monkeypatch.setenv("LESSON_EPOCHS", "3")
    source = 'get("LESSON_DATA", "hf://datasets/me/pets") get("LESSON_NEW", "") get("LESSON_EPOCHS", "12")'
    assert make.without_places("/data/pets/a 3 /data/pets_unlabelled/b", source) == "hf://datasets/me/pets/a 3 new/b"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_notebook_has_the_cells_of_its_source_and_no_error(name):
    cells = stored(name)["cells"]
    source = (LESSONS / "source" / f"{name}.md").read_text(encoding="utf-8")
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == make.cells(source)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= len(code) - 2
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_notebook_is_small_and_names_no_folder_of_the_machine(name):
    text = (LESSONS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert PLACES.findall(re.sub(r"base64,[\w+/=]+", "", text)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_questions_and_three_exercises_with_solutions(name):
    text = (LESSONS / "source" / f"{name}.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^### Exercise \d", text, re.MULTILINE)) == 3
    assert text.count("<details><summary>Solution</summary>") == text.count("</details>") == 3
    assert text.count("**Question: ") >= 3
    kinds = [kind for kind, _ in make.cells(text)]
    assert all(before == "markdown" for before, kind in zip(["", *kinds], kinds, strict=False) if kind == "code")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_lesson_runs_whole_at_debug_size(source, tmp_path, monkeypatch):
    for package in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"lessons are not run: {package} is not installed")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    np.savez(tmp_path / "small.npz", x=(bunch.images[:200] * 15.9).astype(np.uint8), y=bunch.target[:200])
    values = {"LESSON_DATA": str(tmp_path / "small.npz"), "LESSON_IMAGES": "120", "LESSON_EPOCHS": "2"}
    values |= SMALLER.get(source.stem, {})
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    (tmp_path / "start").mkdir()  # without OpenVINO, which takes seconds to convert each network
    (tmp_path / "start" / "sitecustomize.py").write_text("import sys\n\nsys.modules['openvino'] = None\n")
    folders = [str(tmp_path / "start"), str(LESSONS.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    made = make.notebook(source)
    make.run(made, tmp_path)
    shown = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("text/html" in output.get("data", {}) for output in shown) >= 8
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
