#!/usr/bin/env python
"""Fetch a model or its cells from where an address leads to."""

import os
import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, STYLE, read_json, remove, write_json
from refmap.common.errors import RefmapError
from refmap.common.exhaustion import MachineFault, exhaustion
from refmap.common.folders import FetchedFolder
from refmap.remote.fetching import fetch
from refmap.remote.http import Unreachable
from refmap.remote.resolving import Resolved


@click.command(**STYLE)
@click.option("--resolved", type=INPUT, required=True, help="What the address leads to, as resolve_address.py wrote it.")
@click.option("--what", type=click.Choice(["model", "cells"]), required=True, help="What it is the address of.")
@click.option("--partial", type=click.Path(path_type=Path), help="A folder that keeps what was cut off, for the next try.")
@click.option("--output", type=OUTPUT, required=True, help="Folder to make: what was fetched, and origin.json.")
def fetch_model(resolved: Path, what: str, partial: Path | None, output: Path) -> None:
    """Fetch what an address leads to, check it, and unpack an archive of a model.

    What cannot be used is no failure of this command: the 'fault' of origin.json says why. A service that does not give all of
    it is one: another try may succeed.
    """
    known = read_json(resolved)
    known.pop("fault")
    folder = FetchedFolder(output)
    output.mkdir()
    # A container sees the folder of a cache only if it is mounted
    usable = partial if partial and partial.is_dir() and os.access(partial, os.W_OK) else None
    try:
        with exhaustion():
            origin = fetch(Resolved.from_json(known), what, folder.content, usable)
        write_json(folder.origin, origin | {"fault": None})
    except (Unreachable, MachineFault) as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
    except RefmapError as error:
        print(error, file=sys.stderr)
        remove(folder.content)
        write_json(folder.origin, {"address": known["address"], "fault": str(error)})


if __name__ == "__main__":
    fetch_model()
