"""Page of a search within a time limit, from search.json alone."""

import json

import pytest

from loupe.errors import RunStateError
from loupe.evaluate.search_results import FILE
from loupe.records import RecordError
from loupe.report import charts, search_charts
from loupe.report.search_page import PAGE, write_page


def judged(value: float, low: float, high: float) -> dict:
    accuracy = {"value": value, "low": low, "high": high}
    return {"evidence": "validation", "images": 200, "accuracy": accuracy, "log_loss": 0.3}


def candidate(name: str, status: str = "finished", **more: object) -> dict:
    return {
        "name": name,
        "kind": "features",
        "title": f"head on {name}",
        "settings": {},
        "flop": 1.0,
        "status": status,
        **more,
    }


def content() -> dict:
    difference = {
        **{"first": "small", "second": "large", "value": 0.04, "low": 0.01, "high": 0.07},
        **{"p": 0.01, "p_corrected": 0.01, "images": 200, "only_first": 2.0, "only_second": 10.0},
    }
    measured = {"predict_seconds": 0.002, "weights_bytes": 4_000_000}
    return {
        **{"schema": 1, "version": "0", "name": "found", "dataset": "<b>photos", "command": "loupe train DATA"},
        **{"environment": {"cores": 2, "command": ["x"]}, "state": "finished", "seed": 0, "limit_seconds": 60.0},
        "seconds": {"start": 5.0, "candidates": 50.0, "end": 4.0, "total": 59.0, "reserved": 5.0},
        "images": {"train": 800, "val": 200, "test": 0},
        **{"classes": 2, "at_hand": [], "restrictions": {}, "order": ["small", "large", "slow", "late"]},
        "candidates": [
            candidate("small", began_seconds=5.0, seconds=10.0, judged=judged(0.9, 0.85, 0.93), **measured),
            candidate(
                "large",
                began_seconds=15.0,
                seconds=20.0,
                judged=judged(0.94, 0.9, 0.96),
                against_best=difference,
                is_better=True,
                predict_seconds=0.008,
                weights_bytes=16_000_000,
            ),
            candidate("slow", "stopped", began_seconds=35.0, seconds=20.0, reason="the limit came first"),
            candidate("late", "planned"),
        ],
        **{"delivered": "large", "why": "large is the best of 2.", "meaning": "Judged on 200 images.", "next": None},
        "more": ["The next candidate takes 40 s."],
    }


def page_of(folder, data: dict) -> str:
    (folder / FILE).write_text(json.dumps(data))
    write_page(folder)
    return (folder / PAGE).read_text()


def test_the_page_shows_the_candidates_in_time_the_frontier_and_the_reason(tmp_path):
    page = page_of(tmp_path, content())
    for text in (
        "large is the best of 2.",
        "Judged on 200 images.",
        "The next candidate takes 40 s.",
        "&lt;b&gt;photos",
    ):
        assert text in page
    assert "<b>photos" not in page
    assert "large: from 15.0 s for 20.0 s, 94.0\N{NO-BREAK SPACE}% (90.0–96.0\N{NO-BREAK SPACE}%)." in page
    assert "slow: from 35.0 s for 20.0 s, stopped." in page
    assert "small: 90.0\N{NO-BREAK SPACE}% at 2 ms. large: 94.0\N{NO-BREAK SPACE}% at 8 ms, chosen." in page
    assert "at 16 MB, chosen" in page and "+4.0 (+1.0 to +7.0)" in page
    assert "stopped: the limit came first" in page and "1 candidate of the plan was not reached" in page


def test_where_more_time_cannot_be_told_the_page_says_so(tmp_path):
    assert "cannot be told" in page_of(tmp_path, {**content(), "more": []})


def test_a_search_that_was_killed_before_its_first_candidate_has_a_page(tmp_path):
    none = {"candidates": [candidate("late", "planned")], "delivered": None, "state": "running", "why": "", "more": []}
    page = page_of(tmp_path, {**content(), **none})
    assert "No candidate was begun." in page and "its process was killed" in page and "frontier" not in page


def test_a_missing_or_damaged_search_is_an_error(tmp_path):
    with pytest.raises(RunStateError, match="time-limit"):
        write_page(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(RecordError):
        write_page(tmp_path)


def test_the_text_of_a_bar_stands_where_there_is_room():
    bars = [
        search_charts.Bar("early", 0, 5, "90 %", True, False),
        search_charts.Bar("late", 50, 10, "91 %", True, True),
    ]
    drawn = search_charts.timeline(bars, 60, label="two", width_px=500)
    early, late = (drawn[drawn.index(f">{text}<") - 200 : drawn.index(f">{text}<")] for text in ("90 %", "91 %"))
    assert "text-anchor: end" not in early and "text-anchor: end" in late


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0.9, 110, [1, 2, 5, 10, 20, 50, 100]), (0.25, 0.45, [0.3, 0.4]), (0.21, 0.29, [0.21])]
)
def test_round_numbers_of_a_logarithmic_axis(low, high, ticks):
    assert charts.round_numbers(low, high, most=7) == pytest.approx(ticks)
