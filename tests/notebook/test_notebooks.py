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
NETWORK = "test_efficientnet"  # the smallest of timm
MOST_BYTES = 1_500_000
PLACES = re.compile(r"/(?:home|root|tmp|work|Users|private|content)/[\w.-]+|[A-Z]:\\\\")

spec = importlib.util.spec_from_file_location("make_lessons", LESSONS / "make.py")
assert spec and spec.loader
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def random_weights(folder: Path) -> Path:
    """Folder with a file of random weights for the network of the lessons on transfer."""
    import timm
    from safetensors.torch import save_file

    (folder / "weights").mkdir()
    save_file(timm.create_model(NETWORK).state_dict(), folder / "weights" / f"{NETWORK}.safetensors")
    return folder / "weights"


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
    values |= {"LESSON_NETWORK": NETWORK, "LESSON_SIZE": "32", "LESSON_PRECISION": "fp32"}
    values |= {"LOUPE_WEIGHTS": str(random_weights(tmp_path))}
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(LESSONS.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    )
    made = make.notebook(source)
    make.run(made, tmp_path)
    shown = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("text/html" in output.get("data", {}) for output in shown) >= 8
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
