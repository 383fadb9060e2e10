#!/usr/bin/env python
"""Ask what the address of a model or of its cells leads to."""

from pathlib import Path

import click
from refmap.common.cli import OUTPUT, STYLE, write_json
from refmap.common.errors import RefmapError
from refmap.remote.resolving import resolve


@click.command(**STYLE)
@click.option("--address", required=True, help="Such as hf://org/name, zenodo:<record>/model.zip or https://….")
@click.option("--what", type=click.Choice(["model", "cells"]), required=True, help="What it is the address of.")
@click.option("--with-cells", is_flag=True, help="Whether the cells that were saved with a model are wanted too.")
@click.option(
    "--output", type=OUTPUT, required=True, help="JSON to write: revision, files and checksums; its 'fault' says what is wrong."
)
def resolve_address(address: str, what: str, with_cells: bool, output: Path) -> None:
    """Write what an address leads to just now. Tokens are read from HF_TOKEN and ZENODO_TOKEN."""
    try:
        write_json(output, resolve(address, what, with_cells).to_json() | {"fault": None})
    except RefmapError as error:
        print(error)
        write_json(output, {"address": address, "key": "", "fault": str(error)})


if __name__ == "__main__":
    resolve_address()
