"""`loupe doctor`: findings about this machine, in the terminal or as JSON."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.cli.options import Json, Output, print_json
from loupe.log import printable

if TYPE_CHECKING:
    from loupe.doctor.checks import Check, Finding

MARKS = {"ok": "OK", "warning": "warning", "broken": "BROKEN"}
WIDTH = 120
SCHEMA = 1


def doctor(
    output: Output = Path("runs"),
    network: Annotated[
        bool, typer.Option("--network", help="Also test whether weights of timm can be downloaded.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the installation, and measure this machine. Exit code 1 if something is broken."""
    from loupe.doctor.checks import checks

    findings = _found(checks(output, network=network), silent=as_json)
    if not any(finding.name == "libraries" for finding in findings):  # it speaks only where one cannot be loaded
        from loupe.doctor.speed import CHECKS

        findings += _found(CHECKS, silent=as_json)
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        content = [finding.to_json() for finding in findings]
        print_json({"schema": SCHEMA, "ok": not broken, "findings": content})
    if broken:
        raise typer.Exit(1)


def _found(checks: "Mapping[str, Check]", *, silent: bool) -> "list[Finding]":
    """Findings of some checks, printed as they arrive."""
    from loupe.doctor.checks import guarded

    findings = []
    for name, check in checks.items():
        for finding in guarded(name, check):
            findings.append(finding)
            if not silent:
                print(lines(finding), flush=True)
    return findings


def lines(finding: "Finding") -> str:
    """Finding beside its name, with the suggested fix below it."""
    start = f"{MARKS[finding.state]:<9}{finding.name:<15}"
    said = _wrapped(finding.value, start)
    return f"{said}\n{_wrapped(finding.remedy, ' ' * len(start) + '→ ')}" if finding.remedy else said


def _wrapped(text: str, start: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )
