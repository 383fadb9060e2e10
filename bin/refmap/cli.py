"""What the commands in `bin/` share: options, and how a fault in the input is reported."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click

from .errors import RefmapError

INPUT = click.Path(exists=True, path_type=Path)
OUTPUT = click.Path(path_type=Path)


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text())


def write_json(path: Path, value: object) -> None:
    Path(path).write_text(json.dumps(value, indent=2) + "\n")


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def command(stage: str) -> Callable:
    """Make a click command whose :class:`RefmapError` stops one mapping and not the run.

    With ``--fault PATH`` the sentence goes into that JSON file (``dataset``, ``file_id``, ``stage``, ``message``) and the
    command succeeds, so that a workflow can go on and a resumed one need not try again; without it the sentence goes to
    stderr and the exit status is 1. Either way, every option declared as `OUTPUT` is removed: nothing half-written stays.
    A command that serves one mapping has an option ``plan``, whose JSON holds its ``row``.
    """

    def decorate(function: Callable) -> click.Command:
        @click.option("--fault", type=OUTPUT, help="Write what is wrong with the input to this file and exit with 0.")
        @functools.wraps(function)
        def run(fault: Path | None, **options):
            try:
                return function(**options)
            except RefmapError as error:
                context = click.get_current_context()
                for parameter in context.command.params:
                    if parameter.type is OUTPUT and parameter.name != "fault" and options.get(parameter.name):
                        remove(options[parameter.name])
                print(error, file=sys.stderr)
                if fault is None:
                    sys.exit(1)
                row = read_json(options["plan"])["row"] if options.get("plan") else {}
                write_json(
                    fault,
                    {"dataset": row.get("dataset"), "file_id": row.get("file_id"), "stage": stage, "message": str(error)},
                )

        return click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})(run)

    return decorate
