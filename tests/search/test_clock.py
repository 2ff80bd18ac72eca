"""Clock of a search, on a clock of the test's own."""

import subprocess
import sys

import pytest

from loupe.search.clock import Clock, Reserve, bytes_of, seconds_of


def test_the_time_that_is_left_keeps_half_of_the_tolerance_free():
    now = [100.0]
    clock = Clock(600.0, began=40.0, now=lambda: now[0])
    assert clock.spent == 60.0
    assert clock.left == pytest.approx(600 - 60 - 6)
    now[0] = 640.0
    assert clock.left < 0


def test_a_short_limit_keeps_half_a_second_free():
    assert Clock(10.0, began=0.0, now=lambda: 0.0).left == 9.5


def test_the_end_takes_every_test_image_and_the_report_as_measured():
    reserve = Reserve(test_images=1000)
    before = reserve.end(0.01)
    reserve.page_seconds = 0.5
    assert reserve.end(0.01) < before
    assert reserve.end(0.02) - reserve.end(0.01) == pytest.approx(1.2 * 1000 * 0.01)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("5ms", 0.005), ("1h30m", 5400)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "10x", "-5s", "0s", "m"])
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match="duration"):
        seconds_of(text)


@pytest.mark.parametrize(("text", "size"), [("20MB", 20_000_000), ("2 MiB", 2**21), ("500kB", 500_000), ("7", 7)])
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "large", "0MB", "5 TBB", "-1"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="size"):
        bytes_of(text)


def test_the_clock_of_a_command_begins_with_its_process():
    code = (
        "import time; time.sleep(0.3); began = time.perf_counter()\n"
        "from loupe.search.clock import process_start\nprint(began - process_start())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) >= (0.25 if sys.platform.startswith("linux") else -1.0)
