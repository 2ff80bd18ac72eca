"""The logger, terminals, bars and train.log; and commands that can be typed as they are printed, in any shell."""

import logging
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.table import Table

import loupe
from loupe import log
from loupe.log import command_line, logger, progress_bar, rounded, run_log, terminal
from loupe.rundir import RunDirectory

WINDOWS = ["loupe", "train", r"C:\photos of birds", "--against", r"D:\runs\a", "--set", 'input.name="x y"']


@pytest.fixture
def on(monkeypatch):
    def command(system, words):
        with monkeypatch.context() as patched:  # pathlib looks at it too: for this call alone
            patched.setattr(os, "name", system)
            return command_line(words)

    return command


def test_windows_gets_backslashes_as_they_are_and_double_quotes(on):
    said = on("nt", WINDOWS)
    assert said == r'loupe train "C:\photos of birds" --against D:\runs\a --set "input.name=\"x y\""'


def parsed(line):
    """The words that Windows' C runtime makes of a line: backslashes count before a quote alone."""
    words, word, quoted, slashes, begun = [], "", False, 0, False
    for c in line + " ":
        if c == "\\":
            slashes += 1
            continue
        if c == '"':
            word += "\\" * (slashes // 2) + ('"' if slashes % 2 else "")
            quoted = quoted if slashes % 2 else not quoted
            begun = True
        else:
            word += "\\" * slashes
            if c == " " and not quoted:
                words += [word] if word or begun else []
                word, begun = "", False
            else:
                word += c
        slashes = 0
    return words


@pytest.mark.parametrize("words", [WINDOWS, ["a", "", "C:\\ends with one\\", 'say "hi"', r"\\server\share"]])
def test_windows_reads_the_same_words(on, words):
    assert parsed(on("nt", words)) == words


def test_elsewhere_a_posix_shell_reads_the_same_words(on):
    words = ["loupe", "compare", "it's here", "$HOME", "a b"]
    assert shlex.split(on("posix", words)) == words


def test_the_command_that_goes_on_with_a_run_holds_in_a_folder_with_a_space(tmp_path):
    run = RunDirectory(tmp_path / "my runs" / "a")
    assert shlex.split(run.resume_command) == ["loupe", "train", "--resume", str(run.path)]


def messages():
    logger.info("chosen")
    logger.warning("careful")


@pytest.fixture(autouse=True)
def _nothing_stays():
    """Whatever a test does, nothing of ours listens afterwards, and the user's logger is as it was."""
    own = logging.getLogger("loupe")
    before = [*own.handlers], own.level, own.propagate
    yield
    assert ([*own.handlers], own.level, own.propagate) == before
    assert [type(handler) for handler in own.handlers] == [logging.NullHandler]
    assert not log.listeners(log.Terminal)
    assert not log.listeners(log.RunLog)


def test_without_a_terminal_nothing_is_shown(capfd):
    messages()
    with progress_bar() as progress:
        assert progress.disable
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("outer", "inner", "shown"),
    [
        (False, False, ["chosen", "warning: careful"]),
        (False, True, ["warning: careful"]),
        (True, False, []),
        (True, True, []),
    ],
)
def test_the_outermost_terminal_decides_and_nothing_is_shown_twice(capfd, outer, inner, shown):
    with terminal(quiet=outer):
        with terminal(quiet=inner):
            messages()
        assert capfd.readouterr() == ("", "".join(f"{line}\n" for line in shown))
        messages()
    assert capfd.readouterr().err.splitlines() == ([] if outer else ["chosen", "warning: careful"])


def test_a_name_cannot_command_the_terminal(capfd):
    with terminal():
        logger.info("\x1b[2Jfolder [red]name[/]")
    assert capfd.readouterr().err == "\\x1b[2Jfolder [red]name[/]\n"


def test_an_error_leaves_no_handler_behind(capfd):
    with pytest.raises(KeyError), terminal(), run_log(), progress_bar():
        raise KeyError
    messages()
    assert capfd.readouterr() == ("", "")


def test_bars_are_shown_on_a_terminal_alone_and_one_at_a_time(monkeypatch, capfd):
    with terminal(), progress_bar() as progress:
        assert progress.disable, "standard error is a file here"
    monkeypatch.setenv("FORCE_COLOR", "1")
    with terminal():
        with progress_bar() as outer, progress_bar() as inner:
            assert (outer.disable, inner.disable) == (False, True)
            outer.add_task("reading", total=2, note="")
            logger.info("beside the bar")
        with progress_bar() as after, terminal(quiet=True), progress_bar() as hidden:
            assert (after.disable, hidden.disable) == (False, True)
    assert "beside the bar\n" in capfd.readouterr().err


def test_the_log_of_a_run_begins_with_what_came_before_its_file(tmp_path, capfd):
    with terminal(quiet=True):
        logger.info("of the comparison")
        for name in ("a", "b"):
            with run_log() as file:
                messages()
                file.write_to(tmp_path / name)
                logger.info(f"trained {name}")
                thread = threading.Thread(target=messages)
                thread.start()
                thread.join()
        logger.info("of the comparison")
    for name in ("a", "b"):
        lines = (tmp_path / name).read_text().splitlines()
        assert lines == ["chosen", "warning: careful", f"trained {name}", "chosen", "warning: careful"]
    assert capfd.readouterr() == ("", "")


def test_threads_with_runs_of_their_own_do_not_share_a_log(tmp_path):
    meet = threading.Barrier(2, timeout=10)

    def train(name):
        with terminal(quiet=True), run_log() as file:
            file.write_to(tmp_path / name)
            meet.wait()
            logger.info(name)
            meet.wait()

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["a\n", "b\n"]


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("quiet", [False, True])
def test_configured_logging_gets_its_levels_and_nothing_is_shown_twice(capfd, level, quiet):
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        with terminal(quiet=quiet):
            messages()
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert capfd.readouterr().err.splitlines() == (
        ["chosen", "careful"] if level == logging.INFO or not quiet else ["careful"]
    )


def test_logging_that_is_switched_off_takes_nothing_from_a_run(tmp_path, capfd):
    logging.disable(logging.CRITICAL)
    try:
        with terminal(), run_log() as file:
            file.write_to(tmp_path / "train.log")
            messages()
    finally:
        logging.disable(logging.NOTSET)
    assert (tmp_path / "train.log").read_text() == capfd.readouterr().err == "chosen\nwarning: careful\n"


def test_records_name_the_function_that_logs(caplog):
    caplog.set_level("INFO", "loupe")
    messages()
    assert {(record.name, record.module, record.funcName) for record in caplog.records} == {
        ("loupe", "test_log", "messages")
    }


SCRIPT = """
import logging, sys, loupe, numpy
x = numpy.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=numpy.uint8), numpy.arange(60) % 2
def train(name, quiet):
    loupe.train(x, epochs=1, device="cpu", output=sys.argv[1], name=name, quiet=quiet)
    print(f"after {name}", file=sys.stderr)
train("silent", True)
logging.basicConfig(level=logging.INFO)
train("quiet", True)
train("loud", False)
"""


@pytest.mark.slow
def test_a_program_sees_what_it_asks_for(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)
    silent, rest = done.stderr.split("after silent\n")
    quiet, loud = rest.removesuffix("after loud\n").split("after quiet\n")
    assert silent == ""
    lines = (tmp_path / "silent" / "train.log").read_text().splitlines()
    assert len(lines) > 2
    for shown, name in ((quiet, "quiet"), (loud, "loud")):
        levels = {line.split(":")[0] for line in shown.splitlines()}
        assert levels <= {"INFO", "WARNING"}
        mine = (tmp_path / name / "train.log").read_text().splitlines()
        assert len(mine) == len(lines)
        assert shown.splitlines()[0] == f"INFO:loupe:{mine[0]}"
        assert len(shown.splitlines()) == len(mine)


def test_a_run_that_fails_leaves_nothing_open(tmp_path, capfd):
    with pytest.raises(loupe.LoupeError):
        loupe.train(tmp_path / "absent", output=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_name_of_an_emoji_stays_as_it_is(capfd):
    with terminal():
        logger.warning("the class :cat: of :dog:")
    log.console().print(Table("a :cat:"), ":dog:")
    out, err = capfd.readouterr()
    assert ":cat: of :dog:" in err
    assert ":cat:" in out
    assert ":dog:" in out


def test_one_place_makes_consoles():
    source = Path(loupe.__file__).parent
    makers = [path for path in source.rglob("*.py") if re.search(r"\b\w*Console\(", path.read_text(encoding="utf-8"))]
    assert makers == [source / "log.py"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e4, "10,000"),
        (3162.3, "3,160"),
        (464.16, "464"),
        (31.62, "31.6"),
        (0.31623, "0.316"),
        (1e-6, "1e-06"),
        (1.0, "1"),
    ],
)
def test_strengths_have_three_significant_digits(value, text):
    assert rounded(value) == text
