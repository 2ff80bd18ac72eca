"""Results about many runs, read back from JSON: the same keys as written, and one error for all damaged content."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import comparison_content, differences_content, experiments_content, labels_content
from loupe.cli import diff_table
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.evaluate.experiment_results import ExperimentResults
from loupe.evaluate.label_results import LabelResults
from loupe.records import RecordError
from loupe.report import comparison_page, comparison_tables, experiments_page, experiments_tables, labels_page
from loupe.runs.diff_results import RunDifferences

KINDS = [
    pytest.param(ComparisonResults, comparison_content, id="comparison"),
    pytest.param(ExperimentResults, experiments_content, id="experiments"),
    pytest.param(RunDifferences, differences_content, id="differences"),
    pytest.param(LabelResults, labels_content, id="labels"),
]
SOURCE = "data:image/png;base64,"
PAGES = {
    ComparisonResults: (comparison_page, comparison_tables),
    ExperimentResults: (experiments_page, experiments_tables),
}
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)
)


def places(content, path=()):
    """The path of every value in nested objects and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def damaged(draw, content):
    """The content with up to three of its values replaced, or taken away."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(list(places(content)) or [("schema",)]))
        holder = content
        for key in path:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            holder.pop(last, None)
        else:
            holder[last] = draw(values)
    return content


def show(results, folder: Path) -> None:
    """Every form in which results are shown to a person."""
    if isinstance(results, RunDifferences):
        diff_table.print_report(results)
        return
    if isinstance(results, LabelResults):
        pictures = [SOURCE] * len(results.suspects)
        labels_page.write_page(folder / "page.html", results, pictures, [(one, SOURCE) for one in results.suspects])
        return
    page, tables = PAGES[type(results)]
    page.write_page(folder / "page.html", results)
    tables.markdown(results).encode()
    tables.write_csv(folder / "table.csv", results)


@pytest.mark.parametrize(("kind", "content"), KINDS)
def test_what_is_read_is_written_key_for_key(kind, content, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(content()))
    results = kind.read(tmp_path / "results.json")
    results.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(json.dumps(content()))
    show(results, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "nothing", "[" * 100_000, '{"a":' * 100_000, '{"schema": 2}', "\x00", "{}"])
@pytest.mark.parametrize(("kind", "content"), KINDS)
def test_another_file_is_one_error_that_names_it(kind, content, text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RecordError) as told:
        kind.read(path)
    assert told.value.path == path
    whole = json.dumps(content())
    for end in range(0, len(whole) - 1, 997):
        path.write_text(whole[:end])
        with pytest.raises(RecordError) as told:
            kind.read(path)
        assert told.value.path == path


@pytest.mark.parametrize(
    ("kind", "content"),
    # Nineteen experiments are drawn for each example.
    [pytest.param(*each.values, id=each.id, marks=[pytest.mark.slow] * (each.id == "experiments")) for each in KINDS],
)
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_content_is_one_error_that_names_the_file_or_can_be_shown(kind, content, data, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data.draw(damaged(content()))))
    try:
        results = kind.read(path)
    except RecordError as error:
        assert error.path == path
    else:
        show(results, tmp_path)
