"""What is kept between runs, and its removal."""

import os
import time

import pytest

from loupe import cache
from loupe.errors import LoupeError


def keep(folder, kind, name, size, days_ago):
    place = folder / kind / name
    place.mkdir(parents=True)
    (place / "data").write_bytes(b"x" * size)
    then = time.time() - days_ago * 24 * 3600
    for path in (place / "data", place):
        os.utime(path, (then, then))
    return place


def test_entries_are_counted_and_the_oldest_comes_first(tmp_path):
    keep(tmp_path, "frozen", "new", 10, 1)
    keep(tmp_path, "pixels", "old", 5, 40)
    assert [(entry.kind, entry.path.name, entry.size) for entry in cache.entries(tmp_path)] == [
        ("pixels", "old", 5),
        ("frozen", "new", 10),
    ]
    assert cache.entries(tmp_path / "absent") == []


def test_only_what_was_asked_for_is_removed(tmp_path):
    places = {
        (kind, days): keep(tmp_path, kind, f"{days}", 1, days) for kind in ("pixels", "frozen") for days in (1, 40)
    }
    assert [entry.path for entry in cache.remove(tmp_path, "frozen", 30)] == [places["frozen", 40]]
    assert [entry.path for entry in cache.remove(tmp_path, "all", 30)] == [places["pixels", 40]]
    assert len(cache.remove(tmp_path, "all", 0)) == 2
    assert cache.entries(tmp_path) == []


def test_what_is_being_written_is_left_alone_for_a_day(tmp_path):
    keep(tmp_path, "frozen", ".writing", 1, 0.5)
    assert cache.remove(tmp_path, "all", 0) == []
    keep(tmp_path, "frozen", ".abandoned", 1, 2)
    assert [entry.path.name for entry in cache.remove(tmp_path, "all", 0)] == [".abandoned"]


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(LoupeError, match="Did you mean frozen"):
        cache.remove(tmp_path, "frosen", 0)


def test_the_help_names_every_kind():
    from loupe.cli import listings

    [option] = listings.cache.__annotations__["clear"].__metadata__
    assert all(kind in option.help for kind in cache.KINDS)


def test_the_command_shows_and_clears(tmp_path, monkeypatch, capsys):
    from loupe.cli import listings

    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    keep(tmp_path, "frozen", "one", 2048, 1)
    listings.cache()
    shown = capsys.readouterr().out
    assert "2 KiB in" in shown and "--clear" in shown
    listings.cache(clear="frozen")
    assert "2 KiB removed from" in capsys.readouterr().out
