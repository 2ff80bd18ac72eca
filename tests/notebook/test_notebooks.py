"""The lessons run whole at debug size, and those in the repository are built from their sources, with outputs."""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
LESSONS = TESTS.parent / "docs" / "lessons"
SOURCES = sorted((LESSONS / "source").glob("*.md"))
NAMES = [source.stem for source in SOURCES]
NETWORK = "test_efficientnet"  # the smallest of timm
MOST_BYTES = 1_500_000
# Values of single lessons in the debug run: a tiny network without pretrained weights, and what suits so few images.
SMALLER = {
    "3-lecture": {
        "LESSON_IMAGES": "100",
        "LESSON_EPOCHS": "1",
        "LESSON_MODEL": "test_efficientnet",
        "LESSON_WEIGHTS": "none",
        "LESSON_PRECISION": "fp32",
    },
    "4-cats-and-dogs": {
        "LESSON_IMAGES": "80",
        "LESSON_FEW": "20",
        "LESSON_FILTERS": "1",
        "LESSON_PRECISION": "0.1",
        "LESSON_MODEL": "test_efficientnet",
        "LESSON_WEIGHTS": "none",
    },
    "5-side-by-side": {"LESSON_NETWORK": NETWORK, "LESSON_SIZE": "32", "LESSON_PRECISION": "fp32"},
}
PLACES = re.compile(r"/(?:home|root|tmp|work|Users|private|content)/[\w.-]+|[A-Z]:\\\\")

# The kernel leaves out what takes most of the time of a tiny run.
STARTUP = f"""
import sys
sys.path.append({str(TESTS)!r})
import pytest
from builders import without_slow_parts
without_slow_parts(pytest.MonkeyPatch())
del sys, pytest, without_slow_parts
"""

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


def test_printed_text_in_several_parts_becomes_one():
    nbformat = pytest.importorskip("nbformat")
    texts = [("stdout", "a\n"), ("stdout", "b\n"), ("stderr", "c\n"), ("stdout", "d\n")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in texts]
    outputs[2:2] = [nbformat.v4.new_output("display_data", {"text/plain": "x"}) for _ in range(2)]
    kinds = [(one.get("name"), one.get("text")) for one in make.joined(outputs)]
    assert kinds == [("stdout", "a\nb\n"), (None, None), (None, None), ("stderr", "c\n"), ("stdout", "d\n")]


def test_folders_of_this_machine_are_named_as_in_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSON_DATA", "/data/pets")
    monkeypatch.setenv("LESSON_NEW", "/data/pets_unlabelled")
    monkeypatch.setenv("LESSON_EPOCHS", "3")
    source = 'get("LESSON_DATA", "hf://datasets/me/pets") get("LESSON_NEW", "") get("LESSON_EPOCHS", "12")'
    text = f"/data/pets/a 3 /data/pets_unlabelled/b {tmp_path}/part.npz {tmp_path.resolve()}/runs/a"
    assert make.without_places(text, source, tmp_path) == "hf://datasets/me/pets/a 3 new/b part.npz runs/a"


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
    values |= {"LESSON_LONG_EPOCHS": "2", "LOUPE_WEIGHTS": str(random_weights(tmp_path))}
    values |= SMALLER.get(source.stem, {})
    values |= {"IPYTHONDIR": str(tmp_path / "ipython")}
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "fast.py").write_text(STARTUP, encoding="utf-8")
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
