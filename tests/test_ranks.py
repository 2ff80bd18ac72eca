"""Ranks: shares, exchanges, and errors that every rank raises."""

import numpy as np
import pytest

import rank_processes
from loupe import ranks
from loupe.errors import ConfigError, DataError
from loupe.ranks import Ranks, RanksDifferError


def exchanges(joined, value):
    """Called in each rank by `test_ranks_exchange_values`."""
    error = None
    try:
        joined.from_main(lambda: fail(joined))
    except DataError as raised:
        error = str(raised)
    return {
        "current": ranks.current().rank,
        "gathered": joined.gather(value + joined.rank),
        "main": joined.from_main(lambda: joined.rank),
        "any": joined.any(joined.rank == 1),
        "none": joined.any(False),
        "error": error,
        "inner": joined.from_main(lambda: (ranks.current().count, ranks.on_machine().gather("x"))),
        "disk": error_of(lambda: joined.together(lambda: full_disk(joined))),
        "same": [joined.same("a", "names"), error_of(lambda: joined.same(joined.rank, "numbers"))],
        "order": ranks.in_order(joined.gather(joined.share(list(range(7))))),
    }


def merges(joined, total, columns):
    """Called in each rank by `test_rows_of_all_ranks_are_put_in_order`, with slices of a few bytes."""
    ranks.SLICE_BYTES = 3 * 4 * max(1, columns)
    rows_NK = np.arange(total * columns, dtype=np.float32).reshape(total, columns)
    place_RM = [np.arange(total)[rank :: joined.count] for rank in range(joined.count)]
    given = (joined, rows_NK[place_RM[joined.rank]], place_RM)
    everywhere, main = (ranks.merge_rows(*given, everywhere=flag) for flag in (True, False))
    return [np.array_equal(everywhere, rows_NK), len(main), bool(joined.is_main and np.array_equal(main, rows_NK))]


@pytest.mark.slow
def test_rows_of_all_ranks_are_put_in_order():
    for total, columns in ((20, 3), (2, 2), (0, 4)):
        expected = [[True, total if rank == 0 else 0, rank == 0] for rank in range(3)]
        assert rank_processes.results(3, "test_ranks:merges", total, columns) == expected


def agrees(joined):
    """Called in each rank by `test_an_error_of_one_rank_is_raised_on_all`."""
    found = [joined.together(lambda: joined.rank), joined.from_main(lambda: ranks.current().count)]
    try:
        joined.together(lambda: fail(joined) if joined.rank else None)
    except DataError as error:
        found.append(str(error))
    return [*found, ranks.current().count]


@pytest.mark.slow
def test_an_error_of_one_rank_is_raised_on_all():
    found = rank_processes.results(3, "test_ranks:agrees")
    assert found == [[rank, 1, "no images, says rank 1", 3] for rank in range(3)]


def error_of(work):
    """Result, or the class of the error."""
    try:
        return work()
    except (OSError, RanksDifferError) as error:
        return type(error).__name__


def full_disk(joined):
    if joined.rank:
        raise OSError(28, "No space left on device")


def fail(joined):
    raise DataError(f"no images, says rank {joined.rank}")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_exchange_values(count):
    for rank, found in enumerate(rank_processes.results(count, "test_ranks:exchanges", 10)):
        assert found == {
            "current": rank,
            "gathered": [10 + each for each in range(count)],
            "main": 0,
            "any": True,
            "none": False,
            "error": "no images, says rank 0",
            "inner": [1, ["x"]],
            "disk": "OSError",
            "same": ["a", "RanksDifferError"],
            "order": list(range(7)),
        }


def of_a_machine(joined):
    """Called in each rank by `test_the_ranks_of_a_machine_exchange_values_among_themselves`."""
    machine = ranks.on_machine()
    return [machine.rank, machine.count, machine.gather(joined.rank), machine.from_main(lambda: joined.rank)]


@pytest.mark.slow
def test_the_ranks_of_a_machine_exchange_values_among_themselves():
    found = rank_processes.results(4, "test_ranks:of_a_machine", machines=2)
    assert found == [[0, 2, [0, 1], 0], [1, 2, [0, 1], 0], [0, 2, [2, 3], 2], [1, 2, [2, 3], 2]]


def test_one_process_exchanges_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with ranks.joined() as alone:
        assert alone == ranks.current() == Ranks()
        assert alone.gather("x") == ["x"]
        assert alone.from_main(lambda: 5) == alone.together(lambda: 5) == 5
        assert not alone.any(False)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_are_disjoint_and_put_in_order_again(count):
    items = list(range(10))
    shares = [Ranks(rank, count).share(items) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == items
    assert ranks.in_order(shares) == items
    assert np.array_equal(Ranks(count - 1, count).share(np.arange(10)), shares[-1])


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": "2"},
        {"RANK": "x"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_WORLD_SIZE": ""},
        {"WORLD_SIZE": "0"},
        {"MASTER_ADDR": ""},
        {"MASTER_PORT": "65536"},
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes):
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert ranks.in_environment(given) == Ranks(0, 2, 0, 2)
    with pytest.raises(ConfigError):
        ranks.in_environment({**given, **changes})
