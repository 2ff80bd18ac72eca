"""Trainings in turn: after which errors the next one begins."""

import pytest

from loupe.comparison import trainings
from loupe.comparison.trainings import InTurn
from loupe.errors import ConfigError, DataError, DiskError, DivergedError, ImageError, LoupeError
from loupe.ranks import Ranks
from loupe.runs.options import RunOptions


class Failing:
    """Training that raises an error."""

    heading = ""

    def __init__(self, error: LoupeError) -> None:
        self.error = error

    def run(self, options: RunOptions) -> None:
        raise self.error


def everywhere(error: LoupeError) -> LoupeError:
    error.everywhere = True
    return error


OF_ONE = [ImageError("cat.jpg", "cannot be read"), DataError("x"), DiskError("x"), LoupeError("x")]
OF_ALL = [ConfigError("x"), DivergedError("x"), everywhere(ImageError("cat.jpg", "cannot be read"))]


def run(error, tmp_path):
    return [given for _, given in InTurn().run([[Failing(error)], [Failing(error)]], RunOptions(tmp_path))]


@pytest.mark.parametrize("error", OF_ALL + OF_ONE)
def test_one_process_goes_on_after_every_error(error, tmp_path):
    assert run(error, tmp_path) == [error, error]


@pytest.mark.parametrize("error", OF_ALL)
def test_ranks_go_on_after_an_error_that_all_of_them_raise(error, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "current", lambda: Ranks(1, 2))
    assert run(error, tmp_path) == [error, error]


@pytest.mark.parametrize("error", OF_ONE)
def test_a_rank_that_alone_fails_ends(error, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "current", lambda: Ranks(1, 2))
    with pytest.raises(type(error)):
        run(error, tmp_path)
