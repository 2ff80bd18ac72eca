"""Results as JSON: indented, and of very many values one entry a line."""

import json

from loupe.cli import options
from loupe.cli.options import print_json


def test_a_small_result_is_indented(capsys):
    value = {"names": ["a", "b"], "sizes": {"a": 1, "b": 2.5}}
    print_json(value)
    assert capsys.readouterr().out == json.dumps(value, indent=1) + "\n"


def test_a_very_large_result_has_an_entry_a_line(capsys, monkeypatch):
    monkeypatch.setattr(options, "MOST_INDENTED", 100)
    value = {"sizes": {f"é {k}": k for k in range(99)}, "rows": [{"path": "a"}, {"path": 'b"'}], "none": None}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert [line[:4] for line in text.splitlines()] == ["{", ' "si', ' "ro', ' "no', "}"]


def test_a_very_large_list_is_indented(capsys, monkeypatch):
    monkeypatch.setattr(options, "MOST_INDENTED", 1)
    print_json([1, 2, 3])
    assert json.loads(capsys.readouterr().out) == [1, 2, 3]
