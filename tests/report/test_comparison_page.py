"""The page of a comparison, from the content of its JSON file."""

from pathlib import Path

import pytest

from builders import comparison_content
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.report import comparison_page


@pytest.mark.parametrize("without", ["small", "large"])
def test_only_the_chosen_recipe_is_what_the_others_are_compared_with(tmp_path, without):
    content = comparison_content()
    del content["judgement"]["verdicts"][without]
    page = tmp_path / "page.html"
    comparison_page.write_page(page, ComparisonResults.of(content, Path("comparison.json")))
    others_compared = "other recipes are compared with it" in page.read_text(encoding="utf-8")
    assert others_compared == (without == content["judgement"]["chosen"])
