"""`rooftrace doctor`: a row for each thing that the service needs.

This module imports the standard library alone, and checks import inside their functions: a package
that can't be imported is a finding.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from ..doctor import installation
from ..doctor.finding import Finding, look
from ..terminal import counted

if TYPE_CHECKING:
    from ..settings import Settings

_OK, _PROBLEMS = 0, 1
_REPORT = "If it stays after an installation in a new environment, please report it."


def doctor(args: argparse.Namespace) -> int:
    """Print each finding as soon as it is there; return 1 if there is a problem."""
    logging.disable()  # the findings say the same
    findings = []
    for finding in examine(args):
        findings.append(finding)
        if not args.json:
            print(_row(finding, color=sys.stdout.isatty()), flush=True)
    problems = sum(finding.state == "problem" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if args.json:
        rows = [asdict(finding) for finding in findings]
        print(json.dumps({"ok": not problems, "findings": rows}, indent=2))
    else:
        print(f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}")
    return _PROBLEMS if problems else _OK


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Yield the findings about everything."""
    again = "Install rooftrace again, in a new environment."
    yield from look("Python", installation.python, _REPORT)
    yield from look("packages", installation.packages, again)
    yield from look("ONNX Runtime", installation.runtime, again)
    proj = "Unset the variable, or install rasterio and pyproj again from their wheels."
    yield from look("GDAL and PROJ", installation.gdal, proj)
    read: list[Settings] = []
    advice = "Change the variable, or the line in .env; `rooftrace settings` lists them all."
    yield from look("settings", partial(_read, args, read), advice)
    for settings in read:
        yield from look("limits", partial(_limits, settings), advice)
        yield from look("machine", partial(_machine, settings), _REPORT)
        yield from look("live tiles", partial(_tiles, settings), advice)
        advice = "Restore the bundle's files, or name another bundle with --bundle."
        models = list(look("models", partial(_files, settings), advice))
        yield from models
        if any(finding.state == "problem" for finding in models):
            continue  # they can't be loaded, for the same reason
        advice = "Set ROOFTRACE_DEVICE, ROOFTRACE_BACKEND and ROOFTRACE_PRECISION to auto."
        yield from look("runtime", partial(_running, settings), advice)


def _read(args: argparse.Namespace, read: "list[Settings]") -> Iterator[Finding]:
    from ..settings import PREFIX, load_settings

    settings = load_settings(bundle=args.bundle, device=args.device)
    read.append(settings)
    changed = ", ".join(f"{PREFIX}{name.upper()}" for name in sorted(settings.model_fields_set))
    yield Finding("settings", "ok", changed or "all are the default ones")


def _limits(settings: "Settings") -> Iterator[Finding]:
    from ..api.access import access_of
    from ..memory import memory_of

    memory_of(settings)
    access_of(settings)
    yield Finding("limits", "ok", "the memory budget holds the largest request")


def _machine(settings: "Settings") -> Iterator[Finding]:
    from ..doctor import machine

    yield from machine.cores(settings)
    yield from machine.memory(settings)
    yield from machine.disk()
    yield from machine.jobs(settings)
    yield from machine.port(settings)


def _tiles(settings: "Settings") -> Iterator[Finding]:
    from ..main import open_tiles

    if live := open_tiles(settings):
        from ..doctor import tiles

        with closing(live):
            yield from tiles.imagery(live)


def _files(settings: "Settings") -> Iterator[Finding]:
    from ..doctor import models

    yield from models.files(settings)


def _running(settings: "Settings") -> Iterator[Finding]:
    from ..doctor import models

    yield from models.running(settings)


_COLOURS = {"ok": "32", "warning": "33", "problem": "31"}


def _row(finding: Finding, *, color: bool) -> str:
    state = f"{finding.state:<8}"
    if color:
        state = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
    row = f"{state} {finding.name:<17} {finding.found}"
    return f"{row}\n{'':27}to do: {finding.advice}" if finding.advice else row
