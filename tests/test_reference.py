"""The generated pages of docs/reference/. `python tests/test_reference.py` (`make reference`) writes them anew."""

import re
from pathlib import Path

import pytest

import loupe
from loupe import cache, rundir
from loupe.config import overrides
from loupe.evaluate.metrics import METRICS
from reference_pages import FOLDER, MEANINGS, PAGES, RESULTS, SECTIONS


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_that_of_these_sources(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "write it anew: make reference"


def test_every_section_of_a_recipe_is_on_the_page():
    listed = {model for _, _, model in SECTIONS}
    assert set(overrides.SECTIONS.values()) <= listed


def test_every_key_has_a_meaning_and_no_meaning_is_left_over():
    assert {model: list(model.model_fields) for _, _, model in SECTIONS} == {
        model: list(meanings) for model, meanings in MEANINGS.items()
    }


def test_every_value_of_results_has_its_table():
    titles = [title for title, _, _ in RESULTS]
    assert len(set(titles)) == len(titles)


def test_every_metric_is_on_its_page():
    text = (FOLDER / "metrics.md").read_text(encoding="utf-8")
    assert [metric.key for metric in METRICS if f"| `{metric.key}` |" not in text] == []


def test_columns_of_curves_and_kinds_of_cached_data_are_on_the_page_of_files():
    text = (FOLDER / "run-files.md").read_text(encoding="utf-8")
    assert [column for column in rundir.METRICS if f"`{column}`" not in text] == []
    assert [kind for kind, content in cache.KINDS.items() if f"| `{kind}` | {content} |" not in text] == []


@pytest.mark.slow
def test_every_file_of_a_run_is_on_the_page_of_files(tmp_path):
    text = (FOLDER / "run-files.md").read_text(encoding="utf-8")
    run = loupe.train("digits", epochs=1, output=tmp_path, name="a", device="cpu", quiet=True)
    found = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    names = {re.sub(r"\d{8}", "NNNNNNNN", name) for name in found}
    listed = {name for name in names if name in text or (Path(name).name in text and f"{Path(name).parent}/" in text)}
    assert names - listed == set()


def test_every_public_name_of_python_is_on_its_page():
    text = (FOLDER / "python.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    assert set(loupe.__all__) - {"__version__"} - words == set()


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
