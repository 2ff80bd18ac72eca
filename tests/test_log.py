"""Commands that are printed can be typed as they stand, in the shell of the system."""

import os
import shlex

import pytest

from loupe.log import command_line
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
