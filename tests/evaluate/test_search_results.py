"""search.json: what is written is read back, and files that contradict themselves are refused."""

import pytest

from loupe.evaluate.paired import Difference
from loupe.evaluate.search_results import FILE, Judged, SearchedCandidate, SearchResults, SpentSeconds
from loupe.records import RecordError

ACCURACY = {"value": 0.9, "low": 0.85, "high": 0.94}
DIFFERENCE = Difference("a", "b", 0.1, 0.02, 0.18, 0.01, 0.01, 200, 5.0, 25.0)


def candidate(name: str, **changes) -> SearchedCandidate:
    values = {"name": name, "kind": "features", "title": "a head", "settings": {}, "flop": 1.0, "status": "planned"}
    return SearchedCandidate(**{**values, **changes})


def results(*candidates: SearchedCandidate, delivered: str | None = None) -> SearchResults:
    return SearchResults(
        version="1",
        name="search",
        dataset="digits",
        command="loupe train digits --time-limit 1m",
        environment={},
        state="finished",
        seed=0,
        limit_seconds=60,
        seconds=SpentSeconds(),
        images={"train": 3, "val": 2, "test": 1},
        classes=2,
        at_hand=(),
        restrictions={},
        order=tuple(one.name for one in candidates),
        candidates=candidates,
        delivered=delivered,
        why="",
        meaning="",
        more=(),
        next=None,
    )


def test_a_search_is_read_back_as_it_was_written(tmp_path):
    judged = Judged(evidence="validation", images=200, accuracy=ACCURACY, log_loss=0.3)
    tried = candidate(
        "b", status="finished", judged=judged, against_best=DIFFERENCE, is_better=True, run="candidates/b"
    )
    written = results(candidate("a"), tried, delivered="b")
    written.write(tmp_path / FILE)
    read = SearchResults.read(tmp_path / FILE)
    assert read == written
    assert read.chosen == tried and list(read.tried) == [tried]


@pytest.mark.parametrize("change", [{"delivered": "c"}, {"schema": 2}, {"limit_seconds": -1}])
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change):
    with pytest.raises(RecordError):
        SearchResults.of({**results(candidate("a")).to_json(), **change}, tmp_path / FILE)


def test_two_candidates_of_one_name_are_refused():
    with pytest.raises(ValueError, match="differ"):
        results(candidate("a"), candidate("a"))
