"""Entry point of the command line. Commands parse, call and print; each imports what it needs when it runs."""

import atexit
import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from loupe import __version__
from loupe.cli import (
    check,
    compare,
    doctor,
    explain,
    export,
    labels,
    listings,
    predict,
    report,
    reproduce,
    serve,
    train,
)
from loupe.cli.signals import CommandSignals
from loupe.doctor import installation
from loupe.errors import InterruptedRunError, LoupeError, disk_error, memory_error
from loupe.log import printable, terminal

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# In the order in which `loupe --help` lists them.
COMMANDS = (
    train.train,
    predict.evaluate,
    predict.predict,
    compare.compare,
    check.check,
    labels.labels,
    explain.explain,
    export.export,
    serve.serve,
    report.report,
    reproduce.reproduce,
    listings.runs,
    listings.recipes,
    listings.models,
    listings.cache,
    doctor.doctor,
)
for command in COMMANDS:
    app.command()(command)

INTERRUPTED = 130
WRONG_USAGE = 2
SIGNALLED = 128  # plus the number of the signal


def _print_version(asked: bool) -> None:
    if asked:
        print(f"loupe {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _loupe(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Train, compare and ship image classifiers."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(WRONG_USAGE)


def process() -> None:
    """The entry point of a process of its own, in which a signal has its exit code until the process has ended."""
    signals = CommandSignals(own_process=True)
    atexit.register(signals.end_process)  # before the libraries register theirs: the last to be called
    try:
        main(signals)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            signals.final_code = ended.code or 0
        raise


def main(signals: CommandSignals | None = None) -> None:
    """A command in this process: what a person can put right is one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a class name or a bar that the terminal's encoding lacks is no error
            stream.reconfigure(errors="replace")
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        print("error: the current folder no longer exists. Change to another.", file=sys.stderr)
        sys.exit(1)
    if (version := installation.other_project()) is not None:
        print(f"warning: {installation.warning(version)}", file=sys.stderr)
    signals = signals or CommandSignals()
    try:
        with signals, terminal():  # the outermost one: the commands that are quiet still show warnings
            code = app(standalone_mode=False)
            if code == INTERRUPTED:  # the parser has caught KeyboardInterrupt itself
                raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        print("stopped.", file=sys.stderr)
        code = signals.exit_code
    except Exception as error:
        code = _explain(error)
    if isinstance(code, int) and code > SIGNALLED:
        signals.end(code)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Prints an error that a person can put right and returns the exit code; raises any other again."""
    error = _of_the_machine(error) or error
    if isinstance(error, LoupeError) and not os.environ.get("LOUPE_DEBUG"):
        if isinstance(error, InterruptedRunError):
            print(printable(str(error)), file=sys.stderr)
            return 128 + error.signal_number
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    if hasattr(error, "format_message"):  # wrong usage, in the parser's own words
        print(f"error: {error.format_message()} See: loupe --help", file=sys.stderr)
        return WRONG_USAGE
    raise error


def _of_the_machine(error: Exception) -> LoupeError | None:
    """Memory and disks that are full, where nobody nearer to it knew more to say."""
    if isinstance(error, OSError):
        return disk_error(error, "the disk", "give the same command again, or name another folder")
    return memory_error(error, "End other programs that hold it, or take another --device.")
