"""A metric that is added, as one function and one row of METRICS, stands wherever the others do."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from builders import comparison_content, make_run, predictions
from loupe.cli import tables
from loupe.comparison.candidates import Entry, split_figures
from loupe.evaluate import metrics
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.metrics import Labelled, Metric
from loupe.evaluate.results import RunResults
from loupe.recipes import catalog
from loupe.report import comparison_page, comparison_tables
from loupe.report.run_page import write_page

TITLE, HEADING, MEANING = "kappa of Cohen", "Kappa of Cohen", "agreement beyond chance"


def kappa(labelled: Labelled) -> Estimate:
    return Estimate(value=cohen_kappa_score(labelled.label, labelled.p_NK.argmax(axis=1)))


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, Metric("kappa", TITLE, MEANING, kappa)))


def test_an_added_metric_is_in_the_results_the_terminal_and_the_page_of_a_run(added, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    content = json.loads((run / "results.json").read_text())
    value = content["test"]["kappa"]["value"]
    results = RunResults.read(run / "results.json")
    assert results.to_json() == content and results.test.metric("kappa") == Estimate(value=value)
    tables.print_results(results, run)
    tables.print_evaluation(results.test, "test")
    assert capsys.readouterr().out.count(f"{value:.4f}") == 3  # validation and test are the same images
    page = write_page(run).read_text()
    assert HEADING in page and MEANING in page and f"<b>{value:.3f}</b>" in page


def test_an_added_metric_is_in_the_files_of_a_comparison(added, tmp_path):
    label = [0, 1] * 50
    block = metrics.evaluate(predictions(label, simulated_logits(label)))
    figures = split_figures(Entry("small", catalog.recipe("digits")), "val", [block, block])
    content = comparison_content()
    for row in content["rows"][:2]:
        row["measured"] |= {"validation": figures.to_json()}
    results = ComparisonResults.of(content, tmp_path)
    value = block.metric("kappa").value
    assert results.to_json()["rows"][0]["measured"]["validation"]["kappa"]["value"] == value
    assert f" {TITLE} |" in comparison_tables.markdown(results) and f" {value:.3f} |" in comparison_tables.markdown(
        results
    )
    comparison_tables.write_csv(tmp_path / "table.csv", results)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["kappa"]) == value
    comparison_page.write_page(tmp_path / "page.html", results)
    assert HEADING in (tmp_path / "page.html").read_text()


def test_files_older_than_a_metric_are_read_and_shown_without_it(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run")
    results = ComparisonResults.of(comparison_content(), tmp_path)
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, Metric("kappa", TITLE, MEANING, kappa)))
    tables.print_results(RunResults.read(run / "results.json"), run)
    assert "not measured" in capsys.readouterr().out
    assert HEADING in write_page(run).read_text()
    assert TITLE in comparison_tables.markdown(results)


def simulated_logits(label):
    return np.random.default_rng(0).normal(size=(len(label), 2)) + 1.5 * np.eye(2)[label]
