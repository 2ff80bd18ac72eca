"""Ctrl-C and SIGTERM, and the helper processes of a command: real processes and real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from child_processes import start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# A command that is at work, and takes half a second to tidy up.
COMMAND = """
import sys, time
from loupe.cli import main
def work(**_):
    try:
        print("begun", flush=True)
        while True:
            time.sleep(0.05)
    finally:
        time.sleep(0.5)
        print("tidied", flush=True)
main.app = work
main.main()
"""

# A training that sends itself signals in the midst of a step.
TRAIN = """
import signal, sys
import loupe
from pathlib import Path
from loupe.cli import main
from loupe.training.train_step import TrainStep
step, calls = TrainStep.step, []
def stopping(self, *given, **named):
    calls.append(1)
    if len(calls) == 3:
        for number in numbers:
            signal.raise_signal(int(number))
    return step(self, *given, **named)
TrainStep.step = stopping
folder, numbers = sys.argv[1], sys.argv[2].split(",")
sys.argv = ["loupe", *"train digits --epochs 2 --precision fp32 --device cpu --name run --output".split(), folder]
main.main()
"""


def piped(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def test_a_command_ends_with_one_line_and_the_code_of_the_signal():
    cases = [(number, times, piped(COMMAND)) for number in (signal.SIGINT, signal.SIGTERM) for times in (1, 5)]
    for number, times, child in cases:
        assert child.stdout.readline() == "begun\n"
        for _ in range(times):
            child.send_signal(number)
            time.sleep(0.03)
    for number, times, child in cases:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out, err) == (128 + number, "tidied\n", "stopped.\n"), times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "code", "said"),
    [
        ([signal.SIGINT], 130, "--resume"),
        ([signal.SIGTERM], 143, "--resume"),
        ([signal.SIGINT] * 5, 130, "stopped."),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGINT], 130, "stopped."),
    ],
)
def test_a_training_ends_with_the_code_of_the_signal(tmp_path, numbers, code, said):
    child = piped(TRAIN, tmp_path, ",".join(str(int(number)) for number in numbers))
    _, err = child.communicate(timeout=120)
    assert (child.returncode, err.count("Traceback")) == (code, 0), err
    assert said in err.splitlines()[-1]


# The main thread in a library that does not return, threads at a long image, and tidying up that takes long.
BUSY = {
    "a library": "import hashlib; print('begun', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)",
    "threads": """
from loupe.data.parallel import in_chunks
print('begun', flush=True)
list(in_chunks(lambda rows: time.sleep(30), 4, chunk=1, workers=2, description=""))
""",
    "threads, in between": """
from contextlib import closing
from loupe.data.parallel import in_chunks
with closing(in_chunks(lambda rows: time.sleep(30 * rows.start), 4, chunk=1, workers=2, description="")) as chunks:
    for chunk in chunks:
        print('begun', flush=True)
        time.sleep(30)
""",
    "tidying up": """
try:
    print('begun', flush=True)
    time.sleep(30)
finally:
    time.sleep(30)
""",
    "a training": """
from loupe.devices import StopSignal
with StopSignal():
    print('begun', flush=True)
    time.sleep(30)
""",
    "a training in a library": """
import hashlib
from loupe.devices import StopSignal
with StopSignal():
    print('begun', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)
""",
}
INSIDE = """
import sys, time
from loupe.cli import main
def work(**_):
    exec(sys.argv[1], globals())
main.app = work
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_commands_end_in_two_seconds(number):
    children = {name: piped(INSIDE, work) for name, work in BUSY.items()}
    for child in children.values():
        assert child.stdout.readline() == "begun\n"
    time.sleep(0.2)
    began = time.monotonic()
    for child in children.values():
        child.send_signal(number)
    for name, child in children.items():
        _, err = child.communicate(timeout=25)
        assert (child.returncode, err.splitlines()[-1]) == (128 + number, "stopped."), name
    assert time.monotonic() - began < 20  # two seconds, on a machine that does other work; the work itself takes longer


@pytest.mark.slow
def test_a_training_that_saves_itself_is_left_to():
    saving = """
from loupe.devices import StopSignal
with StopSignal() as stop:
    print('begun', flush=True)
    while not stop.received:
        time.sleep(0.1)
    time.sleep(4)
    print('saved', flush=True)
"""
    child = piped(INSIDE, saving)
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60) == ("saved\n", "")


# A command that is done. The signal comes as Python waits for a thread, calls an exit function, or takes down modules.
ENDING = """
import atexit, sys, threading, time
from loupe.cli import main
def slow():
    print("ending", flush=True)
    time.sleep(1)
class Slow:
    __del__ = lambda self: slow()
def work(**_):
    print("done")
    if sys.argv[1] == "thread":
        threading.Thread(target=lambda: (threading.main_thread().join(), slow())).start()
    elif sys.argv[1] == "function":
        atexit.register(slow)
    else:
        sys.modules["json"].kept = Slow()
main.app = work
main.process()
"""


@pytest.mark.parametrize("when", ["thread", "function"])
def test_a_signal_as_a_command_ends_has_its_code(when):
    children = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        children[number] = child = piped(ENDING, when)
        assert [child.stdout.readline(), child.stdout.readline()] == ["done\n", "ending\n"]
        child.send_signal(number)
    for number, child in children.items():
        assert (*child.communicate(timeout=60), child.returncode) == ("", "stopped.\n", 128 + number)


def test_a_command_that_is_done_does_not_take_down_its_libraries():
    """There Python has no handlers any more, and a signal would end it with its own code."""
    child = piped(ENDING, "modules")
    assert (*child.communicate(timeout=60), child.returncode) == ("done\n", "", 0)


def test_a_signal_that_is_ignored_stays_ignored():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + COMMAND
    child = piped(code)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert child.poll() is None
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 143


# Two helpers at work for a minute each; the parent waits for both.
HELPERS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from loupe.data import processes
with processes.Processes(2) as helpers, ThreadPoolExecutor(2) as pool:
    print(*[child.pid for child in helpers._all], flush=True)
    list(pool.map(lambda seconds: helpers.run(time.sleep, seconds), [60, 60]))
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_helpers_end_with_their_parent_in_the_midst_of_their_work():
    parent = start(HELPERS)
    helpers = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(1)
    assert len(helpers) == 2 and all(map(is_running, helpers))
    parent.kill()
    parent.communicate(timeout=60)
    end = time.monotonic() + 20
    while any(map(is_running, helpers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, helpers))


def pid_and_square(value: int) -> tuple[int, int]:
    time.sleep(0.1)
    return os.getpid(), value * value


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="a stopped child cannot be told here")
def test_the_work_of_a_helper_that_is_stopped_is_done_here(caplog):
    from concurrent.futures import ThreadPoolExecutor

    from loupe.data.processes import Processes

    with Processes(2) as helpers, ThreadPoolExecutor(2) as pool:
        first, second = helpers._all
        os.kill(first.pid, signal.SIGSTOP)
        done = list(pool.map(lambda value: helpers.run(pid_and_square, value), range(8)))
    assert [square for _, square in done] == [value * value for value in range(8)]
    assert {pid for pid, _ in done} == {os.getpid(), second.pid}
    assert caplog.text.count(f"process {first.pid} was stopped") == 1
