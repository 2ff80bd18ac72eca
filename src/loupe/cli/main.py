"""Entry point of the command line. Commands parse, call and print; each imports what it needs when it runs."""

import atexit
import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from loupe import __version__, ranks
from loupe.cli import (
    blend,
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
    tune,
)
from loupe.cli.processes import LOST, follow_launcher
from loupe.cli.rank_output import RankOutput
from loupe.cli.signals import RANKS_SECONDS, SIGNALLED, CommandSignals
from loupe.doctor import installation
from loupe.errors import (
    ConfigError,
    InterruptedRunError,
    LoupeError,
    RunElsewhereError,
    disk_error,
    enumerated,
    memory_error,
)
from loupe.log import printable, terminal
from loupe.ranks import LAUNCHER, LostRankError

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
    tune.tune,
    blend.blend,
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

# Commands that run in several processes. Others refuse.
OVER_RANKS = {command.__name__ for command in (train.train, predict.evaluate, predict.predict, compare.compare)}

INTERRUPTED = 130
WRONG_USAGE = 2


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
    if context.invoked_subcommand in OVER_RANKS:
        context.with_resource(ranks.joined())
    elif not (started := ranks.in_environment()).alone:
        raise ConfigError(
            f"loupe {context.invoked_subcommand} runs in one process, and {started.count} were started (WORLD_SIZE). "
            f"Start it without torchrun. In several processes run: {enumerated(sorted(OVER_RANKS))}."
        )


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
        output = RankOutput(ranks.in_environment())
    except ConfigError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    if not output.joined.alone:
        signals.end_seconds = RANKS_SECONDS
        follow_launcher()
    try:
        with signals, terminal():  # the outermost one: the commands that are quiet still show warnings
            code = app(standalone_mode=False)
            if code == INTERRUPTED:  # the parser has caught KeyboardInterrupt itself
                raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        print("stopped.", file=sys.stderr)
        code = signals.exit_code
    except Exception as error:
        code = _explain(error, output)
    if isinstance(code, int) and code > SIGNALLED:
        signals.end(code)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception, output: RankOutput) -> int:
    """Prints an error that a person can put right and returns the exit code; raises any other again."""
    error = _of_the_machine(error) or error
    if isinstance(error, LoupeError) and not os.environ.get("LOUPE_DEBUG"):
        if isinstance(error, InterruptedRunError):
            print(printable(str(error)), file=sys.stderr)
            return SIGNALLED + error.signal_number
        if isinstance(error, RunElsewhereError):
            return 0  # rank 0 prints the results
        output.error(error, str(error))
        return LOST if isinstance(error, LostRankError) and LAUNCHER in os.environ else 1
    if hasattr(error, "format_message"):  # wrong usage, in the parser's own words
        output.error(error, f"{error.format_message()} See: loupe --help")
        return WRONG_USAGE
    if not output.unexpected(error):
        return 1
    raise error


def _of_the_machine(error: Exception) -> LoupeError | None:
    """Memory and disks that are full, where nobody nearer to it knew more to say."""
    if isinstance(error, OSError):
        return disk_error(error, "the disk", "give the same command again, or name another folder")
    return memory_error(error, "End other programs that hold it, or take another --device.")
