"""The page of a comparison, from the content of its JSON file."""

import csv
from pathlib import Path

import pytest

from builders import comparison_content
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.report import comparison_page, comparison_tables


@pytest.mark.parametrize("without", ["small", "large"])
def test_only_the_chosen_recipe_is_what_the_others_are_compared_with(tmp_path, without):
    content = comparison_content()
    del content["judgement"]["verdicts"][without]
    page = tmp_path / "page.html"
    comparison_page.write_page(page, ComparisonResults.of(content, Path("comparison.json")))
    others_compared = "other recipes are compared with it" in page.read_text(encoding="utf-8")
    assert others_compared == (without == content["judgement"]["chosen"])


def test_solved_heads_are_drawn_over_their_strengths_and_others_over_epochs(tmp_path):
    content = comparison_content()
    head = {"part": "head", "strengths": 2.0, "l2_strength": 10.0, "seconds": 0.2}
    stages = {"small": [head], "large": [head, {"part": "all", "epochs": 2.0, "seconds": 3.0}]}
    rows = {"small": "1,100,0.5\n2,10,0.7\n", "large": "1,100,0.5\n2,10,0.7\n3,,0.8\n4,,0.9\n"}
    for row in content["rows"][:2]:
        name = row["name"]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(f"epoch,l2_strength,val_accuracy\n{rows[name]}")
        row["measured"] = row["measured"] | {"runs": [name], "seeds": [0], "stages": stages[name]}
    results = ComparisonResults.of(content, Path("comparison.json"))
    comparison_page.write_page(tmp_path / "page.html", results)
    source = " ".join((tmp_path / "page.html").read_text(encoding="utf-8").replace("\xa0", " ").split())
    assert "Validation accuracy by epoch. large: from 80.0 % to 90.0 % in 2 epochs." in source
    strengths = "by L2 strength. small: from 50.0 % to 70.0 % in 2 L2 strengths. large: from 50.0 % to 70.0 % in 2 L2"
    assert strengths in source
    assert "<small>2 L2 strengths</small>" in source and "<small>2 L2 strengths, 2 epochs</small>" in source
    assert source.count("per epoch</small>") == 1
    assert "Seconds per epoch: large" in source
    table = comparison_tables.markdown(results)
    small = next(line for line in table.splitlines() if line.startswith("| small"))
    cells_of = dict(zip(comparison_tables.header(), small.strip("| ").split(" | "), strict=True))
    assert (cells_of["training"], cells_of["s per epoch"]) == ("2 L2 strengths", "–")
    comparison_tables.write_csv(tmp_path / "page.csv", results)
    with (tmp_path / "page.csv").open(newline="") as file:
        cells = {row["recipe"]: row for row in csv.DictReader(file)}
    assert [(cells[name]["strengths"], cells[name]["epochs"]) for name in ("small", "large")] == [
        ("2.0", "0.0"),
        ("2.0", "2.0"),
    ]
    assert cells["small"]["seconds_per_epoch"] == ""


def test_a_comparison_of_solved_heads_alone_has_no_chart_of_epochs(tmp_path):
    content = comparison_content()
    head = {"part": "head", "strengths": 2.0, "l2_strength": 10.0, "seconds": 0.2}
    for row in content["rows"][:2]:
        row["measured"] = row["measured"] | {"stages": [head]}
    comparison_page.write_page(tmp_path / "page.html", ComparisonResults.of(content, Path("comparison.json")))
    assert "per epoch" not in (tmp_path / "page.html").read_text(encoding="utf-8")
